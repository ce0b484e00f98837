"""From a bare Kubernetes to messages: what the chart's README tells a user to do."""

from __future__ import annotations

import json

import pytest
import yaml

from e2e.kubernetes import ROOT, Object
from e2e.mom_cluster import MomCluster
from e2e.release import image_parts

pytestmark = pytest.mark.timeout(400)
EXAMPLES = ROOT / "examples"


def _example(name: str) -> Object:
    found: Object = yaml.safe_load((EXAMPLES / name).read_text())
    return found


def test_the_example_cluster_comes_up_and_serves(mom: MomCluster) -> None:
    example = _example("momcluster.yaml")
    kubernetes = mom.namespace.cluster
    repository, tag = image_parts(kubernetes.image)
    example["spec"]["image"] = {"repository": repository, "tag": tag}
    example["spec"]["gateway"]["ingress"]["host"] = mom.host
    if kubernetes.ingress_class:
        example["spec"]["gateway"]["ingress"]["className"] = kubernetes.ingress_class
    mom.kubectl("apply", "-f", "-", stdin=json.dumps(example))
    seconds = mom.wait_ready()
    print("apply to ready", seconds)
    with mom.http() as client:
        assert client.get("/v1/topics").status_code == 200
    with mom.http(token="") as client:
        assert client.get("/v1/topics").status_code == 401
