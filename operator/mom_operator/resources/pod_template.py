"""A user's ``podTemplate`` over the pod that MOM makes.

A small part of Kubernetes' strategic merge:

- maps are merged key by key, and null removes a key;
- lists of these fields are merged item by item, found by the key beside it: containers,
  initContainers, volumes, env and imagePullSecrets by ``name``; volumeMounts by ``mountPath``;
  ports by ``containerPort``; hostAliases by ``ip``; tolerations by ``key`` and ``effect``. New
  items come last;
- every other list and value is replaced.

MOM's container has the name of its component: ``node``, ``master``, ``gateway`` or ``redis``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mom_operator.spec import SpecError

_ITEM_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "volumeMounts": ("mountPath",),
    "ports": ("containerPort",),
    "hostAliases": ("ip",),
    "tolerations": ("key", "effect"),
}


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid on ``base``, by the rules above; neither is changed. Raises SpecError when a
    list that is merged by a key holds something else than maps."""
    result = dict(base)
    for field, value in over.items():
        if value is None:
            result.pop(field, None)
        else:
            result[field] = _merged_field(field, result.get(field), value)
    return result


def _merged_field(field: str, base: Any, over: Any) -> Any:
    if isinstance(over, Mapping):
        return merged(base if isinstance(base, Mapping) else {}, over)
    keys = _ITEM_KEYS.get(field)
    if keys and isinstance(base, list) and isinstance(over, list):
        return _merged_items(field, base, over, keys)
    return over


def _merged_items(field: str, base: list[Any], over: list[Any], keys: tuple[str, ...]) -> list[Any]:
    items = {_identity(item, keys): item for item in base}
    for item in over:
        if not isinstance(item, Mapping):
            raise SpecError(f"podTemplate: {field} must hold maps, not {item!r}", field=field)
        identity = _identity(item, keys)
        items[identity] = merged(items.get(identity, {}), item)
    return list(items.values())


def _identity(item: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(item.get(key) for key in keys)
