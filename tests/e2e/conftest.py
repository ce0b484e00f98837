"""Fixtures of the end-to-end tests; hack/e2e has made the cluster and says where it is."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from e2e.kubernetes import Kubernetes, Namespace

_CALL = pytest.StashKey[pytest.CallInfo[None]]()


@pytest.fixture(scope="session")
def cluster() -> Kubernetes:
    """The Kubernetes."""
    return Kubernetes.from_environment()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None]:  # the report, which pytest types as Any
    """Let fixtures see how their test went."""
    if call.when == "call":
        item.stash[_CALL] = call
    return (yield)


@pytest.fixture
def namespace(cluster: Kubernetes, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A namespace of the test's own; its pods, events and logs are printed when the test failed."""
    made = Namespace(cluster, f"e2e-{uuid4().hex[:8]}")
    cluster.kubectl("create", "namespace", made.name)
    cluster.kubectl("label", "namespace", made.name, "mom.dev/e2e=test")
    yield made
    call = request.node.stash.get(_CALL, None)
    if call is None or call.excinfo is not None:
        print(made.story())
    cluster.kubectl("delete", "namespace", made.name, "--wait=false")
