"""The command line without a server: parsing, help, exit codes, and how errors are said."""

from __future__ import annotations

import json
import os
import pty
import sys
from importlib import import_module

import click
import pytest

from mom_cli.failures import ExitCode
from mom_cli.main import COMMANDS, run

NOBODY = "127.0.0.1:1"


def test_help_lists_every_command_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == ExitCode.OK
    said = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"  {name} " in said
        assert command.help in " ".join(said.split())
    assert "Exit codes" in said


def _commands() -> list[list[str]]:
    """Every command and every group of commands."""
    leaves = []
    for name, lazy in COMMANDS.items():
        module, _, attribute = lazy.where.partition(":")
        command = getattr(import_module(f"mom_cli.{module}"), attribute)
        assert isinstance(command, click.Command)
        leaves.append([name])
        if isinstance(command, click.Group):
            leaves += [[name, sub] for sub in command.list_commands(click.Context(command))]
    return leaves


@pytest.mark.parametrize("words", _commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words, "--help"]) == ExitCode.OK
    said = capsys.readouterr().out
    examples = said.partition("Examples:")[2]
    assert "mom " in examples
    assert "--output" in said or "Commands:" in said
    assert said.count("[default: value]") < 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["prodcue"], "produce"),
        (["topic", "crate"], "create"),
        (["clustr"], "cluster"),
    ],
)
def test_a_misspelt_command_gets_the_nearest_name(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"Did you mean {expected}" in captured.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["topic", "create", "t", "--retention", "soon"], "not a duration"),
        (["topic", "create", "t", "--retention-bytes", "10Zi"], "not a size"),
        (["topic", "alter", "t"], "nothing to alter"),
        (["consume", "t", "--from", "yesterday"], "not a start position"),
        (["consume", "t", "--partition", "1", "--subscription", "s"], "can't choose partitions"),
        (["produce", "t", "--key", "k", "--key-separator", ":"], "--key-separator"),
        (["produce", "t", "v", "--header", "novalue"], "NAME=VALUE"),
        (["receive", "q", "--follow"], "--ack"),
        (["topic", "list", "--nodes", "http://127.0.0.1:8080?x=1"], "not the URL of a gateway"),
        (["topic", "list", "--nodes", "somewhere"], "host:port"),
        (["reschedule", "q", "0:1", "--at", "2027-01-31T08:00:00"], "has no time zone: add Z"),
        (["reschedule", "q", "0:1", "--at", "2027-01-31"], "is no time"),
        (["consume", "t", "--from", "timestamp:2027-01-31T08:00:00"], "has no time zone: add Z"),
        (["dev", "--port", "banana"], "'banana' is no whole number; 0 to 65535 is allowed"),
        (["produce", "t", "v", "--partition", "x"], "'x' is no whole number; 0 or more is allowed"),
        (["queue", "delete", "q"], "there is no terminal to ask at: give --yes"),
        (["dead", "list", "q", "--reason", "boredom"], "'handler_failed', 'payload'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_said_and_is_exit_code_2(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert expected in captured.err
    assert captured.err.count("\n") == 1


def test_a_question_is_asked_at_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leader, terminal = pty.openpty()
    with os.fdopen(leader, "wb", buffering=0) as answers, os.fdopen(terminal) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        answers.write(b"n\n")
        assert run(["topic", "delete", "logs", "--nodes", NOBODY]) == ExitCode.INTERRUPTED
        assert (
            "delete topic 'logs' with all its messages, for ever? [y/N]" in capsys.readouterr().err
        )
        answers.write(b"y\n")
        assert run(["topic", "delete", "logs", "--nodes", NOBODY]) == ExitCode.UNAVAILABLE


def test_the_help_of_a_rate_says_what_0_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dead", "redrive", "--help"]) == ExitCode.OK
    said = capsys.readouterr().out
    assert "--rate RATE" in said
    assert "0, the default" in said


def test_an_error_of_json_output_is_json_on_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["topic", "create", "no good name", "--output", "json"]) == ExitCode.FAILED
    captured = capsys.readouterr()
    assert captured.out == ""
    error = json.loads(captured.err)["error"]
    assert error["code"] == "invalid_argument"
    assert error["field"] == "name"
    assert error["retriable"] is False


def test_shared_options_may_stand_before_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-o", "json", "topic", "create", "no good name"]) == ExitCode.FAILED
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "invalid_argument"


def test_no_server_is_exit_code_4(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["topic", "list", "--nodes", NOBODY, "-o", "json"]) == ExitCode.UNAVAILABLE
    captured = capsys.readouterr()
    assert captured.out == ""
    error = json.loads(captured.err)["error"]
    assert error["retriable"] is True
    assert NOBODY in error["message"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == ExitCode.OK
    assert "_MOM_COMPLETE" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == ExitCode.OK
    assert capsys.readouterr().out.startswith("mom 0.")
