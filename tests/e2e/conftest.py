"""Fixtures of the end-to-end tests; hack/e2e has made the cluster and says where it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest

from e2e import names
from e2e.kubernetes import Kubernetes, Namespace
from e2e.mom_cluster import MomCluster
from e2e.release import Release
from e2e.report import Report

_CALL = pytest.StashKey[pytest.CallInfo[None]]()


@pytest.fixture(scope="session")
def cluster() -> Kubernetes:
    """The Kubernetes."""
    return Kubernetes.from_environment()


@pytest.fixture(scope="session", autouse=True)
def resolved_names(cluster: Kubernetes) -> Iterator[None]:
    """Names of Ingresses and of nodes resolve in this process."""
    with names.resolved(cluster.ingress_url, os.environ.get("MOM_E2E_DNS", "")):
        yield


@pytest.fixture(scope="session")
def report() -> Report:
    """Where measured numbers go."""
    return Report.from_environment()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None]:  # the report, which pytest types as Any
    """Let fixtures see how their test went."""
    if call.when == "call":
        item.stash[_CALL] = call
    return (yield)


@contextmanager
def _namespace(cluster: Kubernetes) -> Iterator[Namespace]:
    made = Namespace(cluster, f"e2e-{uuid4().hex[:8]}")
    cluster.kubectl("create", "namespace", made.name)
    cluster.kubectl("label", "namespace", made.name, "mom.dev/e2e=test")
    try:
        yield made
    finally:
        cluster.kubectl("delete", "namespace", made.name, "--wait=false")


@pytest.fixture
def namespace(cluster: Kubernetes, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A namespace of the test's own; its pods, events and logs are printed when the test failed."""
    with _namespace(cluster) as made:
        yield made
        call = request.node.stash.get(_CALL, None)
        if call is None or call.excinfo is not None:
            print(made.story())


@pytest.fixture(scope="module")
def module_namespace(cluster: Kubernetes, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A namespace that the tests of a module share; its story is told when one failed."""
    with _namespace(cluster) as made:
        failed = request.session.testsfailed
        yield made
        if request.session.testsfailed > failed:
            print(made.story())


@pytest.fixture(scope="session")
def release(cluster: Kubernetes) -> Iterator[Release]:
    """The operator, installed by Helm once for all tests that need it."""
    made = Release(cluster)
    # Of an earlier run in a cluster that was kept, with another image under the same name.
    made.uninstall("--no-hooks")
    made.install()
    yield made
    if cluster.target == "given":
        made.uninstall()


@pytest.fixture
def mom(namespace: Namespace, release: Release) -> MomCluster:
    """A MomCluster of the test's own, not yet applied."""
    return MomCluster(namespace)


@pytest.fixture(scope="module")
def module_mom(module_namespace: Namespace, release: Release) -> MomCluster:
    """A MomCluster that the tests of a module share, not yet applied."""
    return MomCluster(module_namespace)


@pytest.fixture(scope="module")
def shared_mom(module_mom: MomCluster) -> MomCluster:
    """A small MomCluster that is Ready, shared by the tests of a module, which leave it so."""
    module_mom.apply()
    module_mom.wait_ready()
    return module_mom
