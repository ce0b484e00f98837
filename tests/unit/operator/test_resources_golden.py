"""The manifests of two clusters, a minimal and a full one, as files to read and to compare with.

After a wanted change, write them anew and look at the difference, since a changed pod template
restarts the processes of every cluster when the operator is upgraded:

    MOM_UPDATE_GOLDEN=1 make test ARGS="tests/unit/operator -k golden"
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from operator_objects import FULL, FULL_INPUTS, MINIMAL, MINIMAL_INPUTS

from mom_operator.resources import Inputs, desired
from mom_operator.spec import Cluster

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "operator"


@pytest.mark.parametrize(
    ("name", "cluster", "inputs"),
    [("minimal", MINIMAL, MINIMAL_INPUTS), ("full", FULL, FULL_INPUTS)],
)
def test_golden_manifests(name: str, cluster: Cluster, inputs: Inputs) -> None:
    manifests = [child.manifest for child in desired(cluster, inputs)]
    text = yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False, width=90)
    file = GOLDEN / f"{name}.yaml"
    if os.environ.get("MOM_UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text(), "see the top of this file for how to renew it"


class _Dumper(yaml.SafeDumper):
    """Without references between equal parts, which nobody can read."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else "")


_Dumper.add_representer(str, _text)
