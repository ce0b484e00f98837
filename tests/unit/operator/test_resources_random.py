"""Whatever a valid spec says, the manifests are complete, restricted, and stable."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_objects import SECRETS, make_cluster

from mom_operator.resources import Inputs, OperatorSettings, desired, pod_template_hash

memory = st.sampled_from(["128Mi", "512Mi", "1.5Gi", "2e9", 3_000_000_000])
resources = st.fixed_dictionaries(
    {},
    optional={
        "limits": st.fixed_dictionaries({"memory": memory}),
        "requests": st.fixed_dictionaries({"cpu": st.just("50m"), "memory": memory}),
    },
)
pod_templates = st.fixed_dictionaries(
    {},
    optional={
        "metadata": st.fixed_dictionaries(
            {"labels": st.dictionaries(st.sampled_from(["team", "mom.dev/cluster"]), st.just("a"))}
        ),
        "spec": st.fixed_dictionaries(
            {},
            optional={
                "nodeSelector": st.just({"disk": "ssd"}),
                "tolerations": st.just([{"key": "dedicated", "operator": "Exists"}]),
                "terminationGracePeriodSeconds": st.integers(1, 90),
            },
        ),
    },
)
processes = st.fixed_dictionaries(
    {},
    optional={"replicas": st.integers(1, 5), "resources": resources, "podTemplate": pod_templates},
)
ingresses = st.fixed_dictionaries(
    {},
    optional={
        "host": st.just("a.example"),
        "className": st.just("nginx"),
        "tlsSecretName": st.just("t"),
    },
)
redis = st.one_of(
    st.fixed_dictionaries(
        {
            "managed": st.fixed_dictionaries(
                {}, optional={"resources": resources, "podTemplate": pod_templates}
            )
        }
    ),
    st.just({"external": {"urlSecretRef": {"name": "elsewhere"}}}),
)
specs = st.fixed_dictionaries(
    {"redis": redis},
    optional={
        "nodes": processes,
        "master": processes,
        "gateway": st.tuples(processes, ingresses).map(lambda both: both[0] | {"ingress": both[1]}),
        "networkPolicy": st.booleans().map(lambda on: {"enabled": on}),
        "monitoring": st.booleans().map(lambda on: {"enabled": on}),
        "deletionPolicy": st.sampled_from(["Retain", "Delete"]),
        "availability": st.sampled_from(["Auto", "Disabled"]).map(
            lambda policy: {"podDisruptionBudget": policy}
        ),
    },
)


@settings(max_examples=150, deadline=None)
@given(spec=specs, monitors=st.booleans(), replicas=st.none() | st.integers(1, 9))
def test_manifests_of_any_cluster(
    spec: dict[str, Any], monitors: bool, replicas: int | None
) -> None:
    cluster = make_cluster(spec)
    inputs = Inputs(
        settings=OperatorSettings(pod_monitors=monitors), secrets=SECRETS, node_replicas=replicas
    )
    children = desired(cluster, inputs)
    assert msgspec.json.decode(msgspec.json.encode([one.manifest for one in children])) == [
        one.manifest for one in children
    ]
    assert len({(one.kind, one.name) for one in children}) == len(children)
    again = desired(cluster, msgspec.structs.replace(inputs, node_replicas=7))
    for child, other in zip(children, again, strict=True):
        if child.kind not in ("Deployment", "StatefulSet"):
            continue
        assert pod_template_hash(child.manifest) == pod_template_hash(other.manifest)
        template = child.manifest["spec"]["template"]
        chosen = child.manifest["spec"]["selector"]["matchLabels"]
        assert chosen.items() <= template["metadata"]["labels"].items()
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        for container in template["spec"]["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["resources"] is not None
