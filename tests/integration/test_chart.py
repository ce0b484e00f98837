"""The Helm chart: what it renders, that an API server takes it, and what its hooks do."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

import kube_api_server
from kube_api_server import KubeApiServer, path_of, program
from mom_operator import hooks
from mom_operator.kube import Kube, load_configuration
from mom_operator.spec import FINALIZER

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/mom"
KUBE_VERSION = "1.34.0"
# All that can be switched on, but for what needs other definitions in the API server.
EVERYTHING = (
    "cluster.enabled=true",
    "cluster.spec.version=0.1.0",
    "global.imageRegistry=mirror.example",
    "global.imagePullSecrets={one,two}",
    "operator.podLabels.team=a",
)

needs_helm = pytest.mark.skipif(program("helm") is None, reason="no helm: `make e2e` builds it")
needs_api = pytest.mark.skipif(
    not kube_api_server.is_installed(), reason="no etcd and kube-apiserver: `make e2e` builds them"
)


def _helm(*words: str) -> subprocess.CompletedProcess[str]:
    found = program("helm")
    assert found is not None
    return subprocess.run([found, *words], capture_output=True, text=True, timeout=60, check=False)


def _render(*settings: str) -> str:
    values = [word for one in settings for word in ("--set", one)]
    done = _helm(
        "template", "mom", str(CHART), "-n", "default", "--kube-version", KUBE_VERSION, *values
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _manifests(*settings: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(_render(*settings)) if one]


def test_the_chart_is_of_the_projects_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version)
    example = yaml.safe_load((ROOT / "examples/momcluster.yaml").read_text())
    assert example["spec"]["version"] == version


@needs_helm
def test_the_chart_has_no_faults() -> None:
    done = _helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout


@needs_helm
@pytest.mark.parametrize("settings", [(), EVERYTHING], ids=["default", "everything"])
def test_two_renderings_are_equal(settings: tuple[str, ...]) -> None:
    assert _render(*settings) == _render(*settings)


@needs_helm
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("operator.replica=3", "replica"),
        ("operator.replicas=0", "replicas"),
        ("cluster.name=1mom", "name"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("cluster.enabled=true", "cluster.spec.version must be set"),
    ],
)
def test_mistaken_values_are_refused(setting: str, words: str) -> None:
    done = _helm("template", "mom", str(CHART), "--kube-version", KUBE_VERSION, "--set", setting)
    assert done.returncode != 0
    assert words in done.stderr


@needs_helm
def test_pods_pass_the_restricted_level() -> None:
    for manifest in _manifests(*EVERYTHING):
        spec = manifest.get("spec", {})
        pod = spec if manifest["kind"] == "Pod" else spec.get("template", {}).get("spec")
        if not pod:
            continue
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert [one["name"] for one in pod["imagePullSecrets"]] == ["one", "two"]
        for container in pod["containers"]:
            assert container["image"].startswith("mirror.example/mom:")
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["allowPrivilegeEscalation"] is False


@needs_helm
def test_definitions_outlive_the_release() -> None:
    """They are in crds/, which Helm never removes, and in no template."""
    assert "CustomResourceDefinition" not in {one["kind"] for one in _manifests()}
    (config_map,) = (
        one
        for one in _manifests()
        if one["metadata"]["name"] == "mom-operator-crds" and one["kind"] == "ConfigMap"
    )
    for file in sorted((CHART / "crds").glob("*.yaml")):
        carried = msgspec.json.decode(config_map["data"][f"{file.stem}.json"])
        assert carried == yaml.safe_load(file.read_text())


@needs_helm
def test_a_list_of_namespaces_needs_no_rights_over_the_whole() -> None:
    """Only the hook that applies the definitions has them, and only while it runs."""
    manifests = _manifests("operator.watchNamespaces={a,b}")
    cluster_wide = {one["metadata"]["name"] for one in manifests if one["kind"] == "ClusterRole"}
    assert cluster_wide == {"default-mom-operator-crds"}
    roles = [one for one in manifests if one["kind"] == "Role"]
    assert {one["metadata"]["namespace"] for one in roles} == {"a", "b", "default"}


_KEEP = {"get", "list", "watch", "create", "patch", "delete"}
# Exactly what the operator does, so that its rights never exceed it.
OPERATOR_DOES = {
    "momclusters": {"get", "list", "watch", "patch"},
    "momtopics": {"get", "list", "watch", "patch"},
    "momqueues": {"get", "list", "watch", "patch"},
    "momclusters/status": {"patch"},
    "momtopics/status": {"patch"},
    "momqueues/status": {"patch"},
    "momclusters/finalizers": {"update"},
    "services": _KEEP,
    "configmaps": _KEEP,
    "serviceaccounts": _KEEP,
    "secrets": {"get", "create", "patch", "delete"},
    "pods": {"get", "list", "watch", "delete"},
    "persistentvolumeclaims": {"get", "patch"},
    "events": {"get", "create", "patch"},
    "statefulsets": _KEEP,
    "deployments": _KEEP,
    "ingresses": _KEEP,
    "networkpolicies": _KEEP,
    "poddisruptionbudgets": _KEEP,
    "podmonitors": {"get", "create", "patch", "delete"},
    "nodes": {"get"},
}


@needs_helm
def test_the_operator_may_do_what_it_does_and_no_more() -> None:
    (role,) = (
        one
        for one in _manifests()
        if one["kind"] == "ClusterRole" and one["metadata"]["name"] == "default-mom-operator"
    )
    allowed: dict[str, set[str]] = {}
    for rule in role["rules"]:
        for resource in rule["resources"]:
            allowed.setdefault(resource, set()).update(rule["verbs"])
    assert allowed == OPERATOR_DOES


@needs_helm
def test_the_operator_can_not_read_all_secrets() -> None:
    for manifest in _manifests():
        for rule in manifest.get("rules", []):
            assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
            if "secrets" in rule["resources"]:
                assert not {"list", "watch"} & set(rule["verbs"])


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApiServer]:
    """An API server without our definitions."""
    server = KubeApiServer(tmp_path_factory.mktemp("kubernetes"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
async def kube(api: KubeApiServer, tmp_path: Path) -> AsyncIterator[Kube]:
    """The operator's own way to that API server."""
    kubeconfig = api.write_kubeconfig(tmp_path / "kubeconfig")
    opened = Kube(await load_configuration(kubeconfig, None))
    yield opened
    await opened.close()


@needs_api
async def test_definitions_are_applied_over_older_ones(
    api: KubeApiServer, kube: Kube, tmp_path: Path
) -> None:
    for file in (CHART / "crds").glob("*.yaml"):
        definition = yaml.safe_load(file.read_text())
        (tmp_path / f"{file.stem}.json").write_bytes(msgspec.json.encode(definition))
    manifests = hooks.read_definitions(tmp_path)
    older = msgspec.json.decode(msgspec.json.encode(manifests[0]))
    older["spec"]["names"]["shortNames"] = ["old"]
    assert api.create(older).status_code == 201
    await hooks.apply_definitions(kube, manifests)
    for manifest in manifests:
        api.establish(manifest)
    now = api.client.get(path_of(older)).json()
    assert now["spec"]["names"]["shortNames"] == manifests[0]["spec"]["names"]["shortNames"]


@needs_api
async def test_finalizers_are_released_and_others_stay(api: KubeApiServer, kube: Kube) -> None:
    assert await hooks.release_finalizers(kube, ["nowhere"]) == 0
    for file in (CHART / "crds").glob("*.yaml"):
        api.establish(yaml.safe_load(file.read_text()))
    topic = yaml.safe_load((ROOT / "examples/topic.yaml").read_text())
    topic["metadata"] |= {"namespace": "default", "finalizers": ["example.com/other", FINALIZER]}
    queue = yaml.safe_load((ROOT / "examples/queue.yaml").read_text())
    queue["metadata"] |= {"namespace": "default", "finalizers": [FINALIZER]}
    for manifest in (topic, queue):
        assert api.create(manifest).status_code == 201
        api.client.delete(path_of(manifest))
    await hooks.stop_operator(kube, "default", "absent", "a=b")
    assert await hooks.release_finalizers(kube, []) == 2
    assert api.client.get(path_of(queue)).status_code == 404
    left = api.client.get(path_of(topic)).json()["metadata"]["finalizers"]
    assert left == ["example.com/other"]


@needs_api
@needs_helm
def test_an_api_server_takes_all_of_the_chart(api: KubeApiServer) -> None:
    for file in (CHART / "crds").glob("*.yaml"):
        api.establish(yaml.safe_load(file.read_text()))
    for manifest in _manifests(*EVERYTHING):
        response = api.apply(manifest, dryRun="All", fieldValidation="Strict")
        assert response.status_code in (200, 201), f"{manifest['kind']}: {response.text}"
        assert "warning" not in response.headers, response.headers["warning"]
