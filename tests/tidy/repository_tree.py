"""The files of the repository, as the tidy tests see them."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMPONENTS = ("proto", "core", "process", "client", "broker", "gateway", "operator", "cli")
TEXT_SUFFIXES = frozenset(
    {"", ".cfg", ".in", ".md", ".proto", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml", ".lua"}
)


@cache
def files() -> tuple[Path, ...]:
    """Every file that is, or would be, in the repository; paths relative to its root."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    names = sorted(set(listing.stdout.split("\0")) - {""})
    return tuple(Path(name) for name in names if (ROOT / name).is_file())


def is_generated(path: Path) -> bool:
    """Whether a program writes the file."""
    return "_pb2" in path.name or path.name == "requirements.lock"


def python_files() -> list[Path]:
    """The Python files that people write."""
    return [path for path in files() if path.suffix == ".py" and not is_generated(path)]


def product_files() -> list[Path]:
    """The Python files of the components."""
    return [path for path in python_files() if path.parts[0] in COMPONENTS]


def text_files() -> list[Path]:
    """The text files that people write."""
    return [
        path
        for path in files()
        if path.suffix in TEXT_SUFFIXES and not is_generated(path) and path.name != "LICENSE"
    ]


def read(path: Path) -> str:
    """The text of a file of the repository."""
    return (ROOT / path).read_text(encoding="utf-8")
