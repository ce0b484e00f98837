"""The tree is the diagram: where files may lie and what they may be called."""

from __future__ import annotations

import re
import tomllib
from collections import Counter

import repository_tree as tree
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Each of these says "something" and nothing about what: the thing has a better name.
VAGUE_NAMES = frozenset({"utils", "util", "common", "helpers", "helper", "manager", "misc"})


def test_no_component_folder_holds_python_of_its_own() -> None:
    """An importable top folder shadows others: `operator` would be the standard library's."""
    stray = [
        str(path)
        for path in tree.files()
        if len(path.parts) == 2 and path.parts[0] in tree.COMPONENTS and path.suffix == ".py"
    ]
    assert not stray, "\n".join(stray)


def test_no_file_or_folder_has_a_vague_name() -> None:
    vague = [
        str(path)
        for path in tree.python_files()
        if VAGUE_NAMES & set(re.split(r"[_/.]", str(path).lower()))
    ]
    assert not vague, "\n".join(vague)


def test_every_package_in_the_wheel_is_typed_and_every_component_is_in_the_wheel() -> None:
    project = tomllib.loads(tree.read(tree.Path("pyproject.toml")))
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    on_disk = {
        str(path.parent)
        for path in tree.files()
        if path.name == "__init__.py" and len(path.parts) == 3 and path.parts[0] in tree.COMPONENTS
    }
    assert packages == on_disk
    untyped = [name for name in packages if not (tree.ROOT / name / "py.typed").exists()]
    assert not untyped, "\n".join(untyped)


def test_make_test_runs_every_folder_of_tests_but_e2e() -> None:
    project = tomllib.loads(tree.read(tree.Path("pyproject.toml")))
    named = set(project["tool"]["pytest"]["ini_options"]["testpaths"])
    folders = {
        f"tests/{path.parts[1]}"
        for path in tree.python_files()
        if path.parts[0] == "tests" and len(path.parts) > 2 and path.name.startswith("test_")
    }
    assert named == folders - {"tests/e2e"}


def _declared() -> dict[str, Requirement]:
    project = tomllib.loads(tree.read(tree.Path("pyproject.toml")))
    lines = list(project["project"]["dependencies"])
    for extra in project["project"]["optional-dependencies"].values():
        lines += extra
    for group in project["dependency-groups"].values():
        lines += group
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def _locked() -> tuple[dict[str, str], set[str]]:
    """The locked versions, and those that are there because pyproject.toml names them."""
    versions: dict[str, str] = {}
    direct: set[str] = set()
    name = ""
    for line in tree.read(tree.Path("requirements.lock")).splitlines():
        pin = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;]+)", line)
        if pin:
            name = canonicalize_name(pin[1])
            versions[name] = pin[2]
        elif re.match(r"\s+#\s+(via )?mom-mq \(pyproject\.toml", line):
            direct.add(name)
    return versions, direct


def test_the_lock_fits_the_project() -> None:
    """Offline: what pyproject.toml names is locked, in an allowed version, and nothing else is."""
    declared = _declared()
    versions, direct = _locked()
    assert direct == set(declared), "run make lock"
    unfit = {
        name: versions[name]
        for name, requirement in declared.items()
        if not requirement.specifier.contains(versions[name])
    }
    assert unfit == {}, "run make lock"


def test_names_of_test_files_are_unique() -> None:
    """pytest collects two of a name only one by one, so a run of all of them would fail."""
    counts = Counter(path.name for path in tree.python_files() if path.name.startswith("test_"))
    assert [name for name, count in counts.items() if count > 1] == []
