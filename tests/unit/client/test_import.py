"""Importing the client does no I/O beyond loading modules, and starts nothing."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys, threading
events = []
def hook(event, args):
    if event.startswith(("socket.", "subprocess.", "os.fork", "os.exec", "os.posix_spawn")):
        events.append((event, args))
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        events.append((event, args))
sys.dont_write_bytecode = True
sys.addaudithook(hook)
import mom_client
import mom_client.sync
client = mom_client.connect("127.0.0.1:1")
other = mom_client.sync.connect("127.0.0.1:1")
assert not [name for name in sys.modules if name.split(".")[0] == "grpc"], "grpc was imported"
assert threading.active_count() == 1, threading.enumerate()
assert not events, events
"""


def test_import_and_connect_do_no_io_and_start_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
