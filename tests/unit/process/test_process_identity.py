"""Whether a process has ended, as another process can prove it."""

from __future__ import annotations

import os
import signal

import pytest

from mom_process.process_identity import is_gone, own_process
from waiting_process import WaitingProcess

pytestmark = pytest.mark.skipif(not own_process(), reason="this system does not tell")


def test_a_process_is_gone_when_it_was_killed() -> None:
    one = WaitingProcess()
    try:
        assert not is_gone(one.word)
        one.process.send_signal(signal.SIGSTOP)
        assert not is_gone(one.word), "a paused process wakes again"
        one.process.kill()
        # It stays a zombie until it is waited for, and runs no more.
        os.waitid(os.P_PID, one.process.pid, os.WEXITED | os.WNOWAIT)
        assert is_gone(one.word)
    finally:
        one.kill()
    assert is_gone(one.word)


def test_another_process_under_the_same_id_does_not_count() -> None:
    where, started_at = own_process().rsplit(":", 1)
    assert not is_gone(f"{where}:{started_at}")
    assert is_gone(f"{where}:{int(started_at) - 1}")


@pytest.mark.parametrize("word", ["", "another", ":::", "a:b:c:d", "1:2:3:4", "boot:1:99999999:5"])
def test_what_can_not_be_proven_counts_as_alive(word: str) -> None:
    assert not is_gone(word)


def test_another_boot_or_name_space_proves_nothing() -> None:
    boot, space, _, started_at = own_process().split(":")
    free_pid = 2**22 + 1  # Beyond the largest id that Linux gives.
    assert is_gone(f"{boot}:{space}:{free_pid}:{started_at}")
    assert not is_gone(f"{boot[:-1]}x:{space}:{free_pid}:{started_at}")
    assert not is_gone(f"{boot}:{int(space) + 1}:{free_pid}:{started_at}")
