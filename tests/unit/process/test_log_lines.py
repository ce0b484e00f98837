"""What a server's log says."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from mom_process.log_lines import configure_logging, redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:hunter2@host:1/0", "redis://:***@host:1/0"),
        ("redis://user:hunter2@host:1/0", "redis://user:***@host:1/0"),
        ("Authorization: Bearer hunter2, x", "Authorization: Bearer ***, x"),
        (f"got mom_{'0' * 16}_{'f' * 64}", f"got mom_{'0' * 16}_***"),
    ],
)
def test_no_secret_in_a_log(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_lines(root_logger: logging.Logger) -> None:
    stream = io.StringIO()
    configure_logging("json", "info", stream)
    logging.getLogger("mom_broker.test").info("node %s", "registered", extra={"node_id": "a"})
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "mom_broker.test",
        "message": "node registered",
        "node_id": "a",
    }


def test_human_lines(root_logger: logging.Logger) -> None:
    stream = io.StringIO()
    configure_logging("human", "warning", stream)
    logger = logging.getLogger("mom_broker.test")
    logger.info("not shown")
    logger.warning("lost", extra={"node_id": "a"})
    assert stream.getvalue().endswith("WARNING broker.test: lost node_id=a\n")
    assert stream.getvalue().count("\n") == 1
