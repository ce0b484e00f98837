"""What holds for every manifest of every cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from operator_objects import FULL, FULL_INPUTS, MINIMAL, MINIMAL_INPUTS, SECRETS, UID, make_cluster

from mom_operator.resources import Child, Inputs, OperatorSettings, desired, pod_template_hash
from mom_operator.resources.inputs import image_reference
from mom_operator.resources.pod_template import merged
from mom_operator.resources.quantity import quantity_bytes
from mom_operator.resources.redis import maxmemory_bytes, volume_growth
from mom_operator.spec import Cluster, ManagedRedis, SpecError, Storage

CLUSTERS = [(MINIMAL, MINIMAL_INPUTS), (FULL, FULL_INPUTS)]
everywhere = pytest.mark.parametrize(("cluster", "inputs"), CLUSTERS, ids=["minimal", "full"])


def _workloads(cluster: Cluster, inputs: Inputs) -> list[Child]:
    kinds = ("Deployment", "StatefulSet")
    return [child for child in desired(cluster, inputs) if child.kind in kinds]


def _by_component(cluster: Cluster, inputs: Inputs) -> dict[str, dict[str, Any]]:
    return {child.component: child.manifest for child in _workloads(cluster, inputs)}


def _containers(cluster: Cluster, inputs: Inputs) -> Iterator[dict[str, Any]]:
    for child in _workloads(cluster, inputs):
        yield from child.manifest["spec"]["template"]["spec"]["containers"]


@everywhere
def test_every_child_belongs_to_its_cluster(cluster: Cluster, inputs: Inputs) -> None:
    seen = set()
    for child in desired(cluster, inputs):
        metadata = child.manifest["metadata"]
        assert metadata["namespace"] == "shop"
        assert metadata["labels"]["mom.dev/cluster"] == "my-mom"
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "mom-operator"
        (owner,) = metadata["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("MomCluster", UID, True)
        assert (child.kind, child.name) not in seen
        seen.add((child.kind, child.name))


@everywhere
def test_pods_pass_the_restricted_level(cluster: Cluster, inputs: Inputs) -> None:
    """Each requirement of Pod Security "restricted", and a read-only root filesystem."""
    for child in _workloads(cluster, inputs):
        pod = child.manifest["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        allowed = {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}
        assert all(set(volume) - {"name"} <= allowed for volume in pod["volumes"])
    for container in _containers(cluster, inputs):
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]
        assert "hostPort" not in str(container["ports"])


@everywhere
def test_every_container_is_bounded_and_probed(cluster: Cluster, inputs: Inputs) -> None:
    for container in _containers(cluster, inputs):
        assert container["resources"]["limits"]["memory"]
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)


@everywhere
def test_volumes_and_mounts_fit(cluster: Cluster, inputs: Inputs) -> None:
    for child in _workloads(cluster, inputs):
        spec = child.manifest["spec"]
        pod = spec["template"]["spec"]
        claims = spec.get("volumeClaimTemplates", [])
        there = {volume["name"] for volume in pod["volumes"]}
        there |= {claim["metadata"]["name"] for claim in claims}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == there


@everywhere
def test_selectors_choose_their_own_pods(cluster: Cluster, inputs: Inputs) -> None:
    children = desired(cluster, inputs)
    templates = {
        child.component: child.manifest["spec"]["template"]["metadata"]["labels"]
        for child in _workloads(cluster, inputs)
    }
    for child in children:
        spec = child.manifest.get("spec", {})
        selector = spec.get("selector") or spec.get("podSelector")
        if selector is None or child.kind == "PodMonitor":
            continue
        chosen = selector.get("matchLabels", selector)
        matching = [
            component for component, labels in templates.items() if chosen.items() <= labels.items()
        ]
        assert matching == [child.component], child.name


@everywhere
def test_no_manifest_shows_a_secret(cluster: Cluster, inputs: Inputs) -> None:
    for child in desired(cluster, inputs):
        if child.kind == "Secret":
            continue
        text = msgspec.json.encode(child.manifest)
        for data in inputs.secrets.values():
            assert not [value for value in data.values() if value in text], child.name


@everywhere
def test_variables_are_defined_before_they_are_used(cluster: Cluster, inputs: Inputs) -> None:
    """Kubernetes leaves $(NAME) as it is when NAME comes later or not at all."""
    for container in _containers(cluster, inputs):
        defined: set[str] = set()
        for variable in container.get("env", []):
            used = set(re.findall(r"\$\((\w+)\)", variable.get("value", "")))
            assert used <= defined
            assert variable["name"] not in defined
            defined.add(variable["name"])


@everywhere
def test_services_fit_the_ports_of_containers(cluster: Cluster, inputs: Inputs) -> None:
    ports = {
        child.component: {
            (port["name"], port["containerPort"])
            for port in child.manifest["spec"]["template"]["spec"]["containers"][0]["ports"]
        }
        for child in _workloads(cluster, inputs)
    }
    for child in desired(cluster, inputs):
        if child.kind == "Service":
            spec = child.manifest["spec"]
            assert spec["ipFamilyPolicy"] == "PreferDualStack"
            assert {(port["name"], port["port"]) for port in spec["ports"]} <= ports[
                child.component
            ]
            assert all(port["appProtocol"] for port in spec["ports"])


def _hashes(cluster: Cluster, inputs: Inputs) -> dict[str, str]:
    return {
        child.component: pod_template_hash(child.manifest) for child in _workloads(cluster, inputs)
    }


def test_builders_are_functions_of_their_arguments() -> None:
    for cluster, inputs in CLUSTERS:
        assert desired(cluster, inputs) == desired(cluster, inputs)


def test_scaling_restarts_nothing() -> None:
    before = _hashes(MINIMAL, MINIMAL_INPUTS)
    scaled = make_cluster(
        {"nodes": {"replicas": 9}, "master": {"replicas": 3}, "gateway": {"replicas": 7}}
    )
    draining = msgspec.structs.replace(MINIMAL_INPUTS, node_replicas=12)
    assert _hashes(scaled, draining) == before
    assert _by_component(scaled, draining)["node"]["spec"]["replicas"] == 12


def test_an_upgraded_operator_restarts_no_redis() -> None:
    """Its new default image is for new clusters; a spec that names an image wins."""
    newer = OperatorSettings(redis_image="redis:9.0")
    kept = Inputs(settings=newer, secrets=SECRETS, redis_image="redis:8.0")
    assert _hashes(MINIMAL, kept) == _hashes(MINIMAL, MINIMAL_INPUTS)
    named = make_cluster({"redis": {"managed": {"image": "valkey/valkey:8.1"}}})
    image = _by_component(named, kept)["redis"]["spec"]["template"]["spec"]["containers"][0][
        "image"
    ]
    assert image == "valkey/valkey:8.1"


def test_a_new_version_restarts_mom_and_not_redis() -> None:
    before = _hashes(MINIMAL, MINIMAL_INPUTS)
    after = _hashes(make_cluster({"version": "0.2.0"}), MINIMAL_INPUTS)
    assert [part for part in before if before[part] != after[part]] == ["master", "node", "gateway"]


def test_a_changed_secret_or_a_restart_rolls_the_processes() -> None:
    before = _hashes(MINIMAL, MINIMAL_INPUTS)
    secrets = SECRETS | {"my-mom-redis-auth": {"password": b"other"}}
    rotated = _hashes(MINIMAL, Inputs(secrets=secrets))
    assert rotated["node"] != before["node"]
    assert rotated["redis"] != before["redis"]
    restarted = _hashes(make_cluster(annotations={"mom.dev/restart": "now"}), MINIMAL_INPUTS)
    assert restarted["gateway"] != before["gateway"]
    assert restarted["redis"] == before["redis"]


def test_secrets_are_made_only_of_given_values() -> None:
    assert [child.kind for child in desired(MINIMAL, Inputs()) if child.kind == "Secret"] == []
    names = [child.name for child in desired(MINIMAL, MINIMAL_INPUTS) if child.kind == "Secret"]
    assert names == [*SECRETS, "my-mom-binding"]


def test_data_is_kept_unless_the_policy_says_delete() -> None:
    policy = "persistentVolumeClaimRetentionPolicy"
    spec = _by_component(MINIMAL, MINIMAL_INPUTS)["redis"]["spec"]
    assert spec[policy] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    deleting = make_cluster({"deletionPolicy": "Delete"})
    spec = _by_component(deleting, MINIMAL_INPUTS)["redis"]["spec"]
    assert spec[policy]["whenDeleted"] == "Delete"


def test_a_grown_volume_does_not_change_the_claim_template() -> None:
    grown = make_cluster({"redis": {"managed": {"storage": {"size": "20Gi"}}}})
    inputs = msgspec.structs.replace(MINIMAL_INPUTS, redis_volume_size="10Gi")
    (claim,) = _by_component(grown, inputs)["redis"]["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "10Gi"


@pytest.mark.parametrize(
    ("has", "wants", "patched"), [("10Gi", "20Gi", "20Gi"), ("20Gi", "10Gi", None), (1, "1", None)]
)
def test_a_volume_grows_by_its_claim(has: object, wants: str, patched: str | None) -> None:
    managed = ManagedRedis(storage=Storage(size=wants))
    claim = {"spec": {"resources": {"requests": {"storage": has}}}}
    growth = volume_growth(managed, claim)
    assert (growth is None) == (patched is None)
    if growth is not None:
        assert growth["spec"]["resources"]["requests"] == {"storage": patched}


def test_only_redis_waits_for_its_machine() -> None:
    for component, manifest in _by_component(MINIMAL, MINIMAL_INPUTS).items():
        tolerations = manifest["spec"]["template"]["spec"].get("tolerations", [])
        assert bool(tolerations) == (component != "redis")


def test_the_network_is_closed_except_to_clients() -> None:
    policies = {
        child.component: child.manifest["spec"]
        for child in desired(MINIMAL, MINIMAL_INPUTS)
        if child.kind == "NetworkPolicy"
    }
    assert set(policies) == {"redis", "master", "node", "gateway"}
    open_to_all = {
        (component, port["port"])
        for component, policy in policies.items()
        for rule in policy["ingress"]
        if "from" not in rule
        for port in rule["ports"]
    }
    assert open_to_all == {("node", 7071), ("master", 7070), ("gateway", 8080)}
    assert "egress" not in policies["redis"]
    disabled = make_cluster({"networkPolicy": {"enabled": False}})
    assert "NetworkPolicy" not in {child.kind for child in desired(disabled, MINIMAL_INPUTS)}


@pytest.mark.parametrize(
    ("image", "registry", "reference"),
    [
        ("redis:8.0", "", "redis:8.0"),
        ("redis:8.0", "mirror.example/", "mirror.example/redis:8.0"),
        ("team/mom:1", "mirror.example:5000", "mirror.example:5000/team/mom:1"),
        ("registry.example/mom:1", "mirror.example", "registry.example/mom:1"),
        ("localhost/mom:1", "mirror.example", "localhost/mom:1"),
    ],
)
def test_image_references(image: str, registry: str, reference: str) -> None:
    assert image_reference(image, registry) == reference


@pytest.mark.parametrize(
    ("text", "size"),
    [("1Gi", 1 << 30), ("1.5Ki", 1536), (1024, 1024), ("1e3", 1000), ("1500m", 2), (".5k", 500)],
)
def test_quantities(text: object, size: int) -> None:
    assert quantity_bytes(text, "size") == size


@pytest.mark.parametrize("text", ["", "Gi", "1 Gi", "1gi", "-1", None, "1e999999999", "9" * 40])
def test_wrong_quantities_name_their_field(text: object) -> None:
    with pytest.raises(SpecError) as caught:
        quantity_bytes(text, "limits.memory")
    assert caught.value.field == "limits.memory"


@pytest.mark.parametrize("memory", ["64Mi", "128Mi", "512Mi", "2Gi", "64Gi"])
def test_redis_stays_below_its_container(memory: str) -> None:
    limit = quantity_bytes(memory, "memory")
    maxmemory = maxmemory_bytes({"limits": {"memory": memory}})
    assert limit // 4 <= maxmemory <= limit * 0.66


def test_maxmemory_without_a_limit_follows_the_request_or_the_default() -> None:
    assert maxmemory_bytes({"requests": {"memory": "1Gi"}}) == maxmemory_bytes(
        {"limits": {"memory": "1Gi"}}
    )
    assert maxmemory_bytes({}) == maxmemory_bytes({"limits": {"memory": "2Gi"}})


def test_merging_maps_lists_and_nulls() -> None:
    base = {
        "a": {"b": 1, "c": 2},
        "containers": [{"name": "node", "env": [{"name": "X", "value": "1"}], "args": ["a", "b"]}],
    }
    over = {
        "a": {"b": None, "d": 3},
        "containers": [
            {"name": "node", "env": [{"name": "Y", "value": "2"}], "args": ["c"]},
            {"name": "sidecar"},
        ],
    }
    before = msgspec.json.encode([base, over])
    assert merged(base, over) == {
        "a": {"c": 2, "d": 3},
        "containers": [
            {
                "name": "node",
                "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}],
                "args": ["c"],
            },
            {"name": "sidecar"},
        ],
    }
    assert msgspec.json.encode([base, over]) == before


def test_a_template_of_no_maps_is_an_error_of_the_user() -> None:
    broken = make_cluster({"nodes": {"podTemplate": {"spec": {"containers": ["node"]}}}})
    with pytest.raises(SpecError, match="containers must hold maps"):
        desired(broken, MINIMAL_INPUTS)


def test_a_template_may_replace_the_user_of_the_pods() -> None:
    """As on OpenShift, which chooses a user itself."""
    nobody = {"spec": {"securityContext": {"runAsUser": None, "runAsGroup": None}}}
    cluster = make_cluster({"nodes": {"podTemplate": nobody}})
    pod = _by_component(cluster, MINIMAL_INPUTS)["node"]["spec"]["template"]["spec"]
    assert "runAsUser" not in pod["securityContext"]
