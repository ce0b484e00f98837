"""What text files may hold: short lines, words for strangers, nothing of one machine."""

from __future__ import annotations

import ast
import re

import repository_tree as tree

LINE_LENGTH_MAX = 100
# Ruff counts a line without the remarks that are meant for tools, and so does this.
_REMARK_FOR_TOOLS = re.compile(r"\s+# (?:type: ignore|noqa).*$")
FUNCTION_LINES_MAX = 70

# Written in pieces, so that this file does not hold what it looks for.
REGISTRY_HOSTS = (
    ("py", "pi.org"),
    ("python", "hosted.org"),
    ("npm", "js.org"),
    ("npm", "js.com"),
    ("proxy.go", "lang.org"),
    ("sum.go", "lang.org"),
    ("crates", ".io/api"),
    ("registry-1.", "docker.io"),
    ("artifact", "ory"),
    ("dev", "pi."),
    ("index", "-url ="),
)
MACHINE_PATHS = (("/wo", "rk/"), ("/ro", "ot/"), ("/ho", "me/"), ("/Use", "rs/"))
# The product speaks of itself, never of who or what wrote it.
AUTHORSHIP_WORDS = (("cla", "ude"), ("anthro", "pic"), ("sub", "agent"), ("l", "lm "))


def _pattern(pieces: tuple[tuple[str, str], ...], flags: int = 0) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(head + tail) for head, tail in pieces), flags)


def _lines_with(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path}:{number}: {line.strip()[:80]}"
        for path in tree.text_files()
        for number, line in enumerate(tree.read(path).splitlines(), start=1)
        if pattern.search(line)
    ]


def test_lines_are_short() -> None:
    """Of what is read as code. Markdown is read as it is set, and TOML can't break a string."""
    long = [
        f"{path}:{number}: {len(line)} characters"
        for path in tree.text_files()
        for number, line in enumerate(tree.read(path).splitlines(), start=1)
        if len(_REMARK_FOR_TOOLS.sub("", line)) > LINE_LENGTH_MAX
        and path.suffix not in (".md", ".toml")
        and path.name != "Makefile"
    ]
    assert not long, "\n".join(long)


def test_text_files_end_with_one_newline() -> None:
    wrong = [
        str(path)
        for path in tree.text_files()
        if (text := tree.read(path)) and (not text.endswith("\n") or text.endswith("\n\n"))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_registry_is_named() -> None:
    """Where packages come from is the machine's configuration, not the repository's."""
    found = _lines_with(_pattern(REGISTRY_HOSTS, re.IGNORECASE))
    assert not found, "\n".join(found)


def test_no_path_of_one_machine_is_named() -> None:
    found = _lines_with(_pattern(MACHINE_PATHS))
    assert not found, "\n".join(found)


def test_no_word_about_who_wrote_it() -> None:
    found = _lines_with(_pattern(AUTHORSHIP_WORDS, re.IGNORECASE))
    assert not found, "\n".join(found)


def test_functions_are_short() -> None:
    long = []
    for path in tree.product_files():
        for node in ast.walk(ast.parse(tree.read(path))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                lines = node.end_lineno - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    long.append(f"{path}:{node.lineno}: {node.name} has {lines} lines")
    assert not long, "\n".join(long)


def test_public_modules_say_what_they_are() -> None:
    silent = [
        str(path)
        for path in tree.product_files()
        if (text := tree.read(path)).strip() and not ast.get_docstring(ast.parse(text))
    ]
    assert not silent, "\n".join(silent)


def test_every_limit_is_used() -> None:
    """A bound that nothing reads bounds nothing."""
    limits = tree.Path("core/mom_core/limits.py")
    names = [
        node.target.id
        for node in ast.parse(tree.read(limits)).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    assert len(names) > 50
    text = "\n".join(tree.read(path) for path in tree.product_files())
    counts = {name: len(re.findall(rf"\b{name}\b", text)) for name in names}
    assert [name for name, count in counts.items() if count < 2] == []
