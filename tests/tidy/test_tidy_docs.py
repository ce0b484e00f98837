"""What documents refer to is there."""

from __future__ import annotations

import re
from pathlib import Path

import repository_tree as tree

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CITED_TEST = re.compile(r"`?(tests/[A-Za-z0-9_/]+\.py)(?:::([A-Za-z0-9_]+))?")
MAKE_COMMAND = re.compile(r"(?:^|[`$(\s])make ([a-z0-9]+)(?=$|[`\s)|.,;:])", re.MULTILINE)
# In prose "make" is also a verb; in these places it is the command.
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def _documents() -> list[Path]:
    return [path for path in tree.files() if path.suffix == ".md"]


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+\s+(.*)$", tree.read(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in headings}


def _link_is_broken(document: Path, link: str) -> bool:
    if re.match(r"[a-z]+:", link):
        return False
    name, _, anchor = link.partition("#")
    target = (tree.ROOT / document).parent / name if name else tree.ROOT / document
    if not target.exists():
        return True
    relative = target.resolve().relative_to(tree.ROOT)
    return bool(anchor) and target.suffix == ".md" and anchor not in _anchors(relative)


def test_links_lead_somewhere() -> None:
    broken = [
        f"{document}: {link}"
        for document in _documents()
        for link in LINK.findall(CODE.sub("", tree.read(document)))
        if _link_is_broken(document, link)
    ]
    assert not broken, "\n".join(broken)


def test_cited_tests_exist() -> None:
    missing = []
    for document in _documents():
        for name, test in CITED_TEST.findall(tree.read(document)):
            path = tree.ROOT / name
            text = path.read_text() if path.is_file() else ""
            if not text or (test and not re.search(rf"(def|class) {test}\b", text)):
                missing.append(f"{document}: {name}::{test}")
    assert not missing, "\n".join(missing)


def test_named_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9]+):", tree.read(Path("Makefile")), re.MULTILINE))
    unknown = [
        f"{document}: make {target}"
        for document in _documents()
        for code in CODE.findall(tree.read(document))
        for target in MAKE_COMMAND.findall(code)
        if target not in targets
    ]
    assert not unknown, "\n".join(unknown)


def test_named_repository_paths_exist() -> None:
    """ARCHITECTURE.md's map from component to source file does not drift."""
    components = "|".join(tree.COMPONENTS)
    path_like = re.compile(rf"`((?:{components}|tests|bench|docs|hack)/[\w./-]*\w)`")
    missing = [
        f"{document}: {name}"
        for document in _documents()
        for name in path_like.findall(tree.read(document))
        if not (tree.ROOT / name).exists() and not name.startswith("bench/results")
    ]
    assert not missing, "\n".join(missing)
