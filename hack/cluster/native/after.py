"""Becomes another command when a URL answers 200. Usage: after.py URL CA COMMAND..."""

from __future__ import annotations

import os
import ssl
import sys
import time
import urllib.request


def main() -> None:
    """Ask, wait, and go over into the command."""
    url, authority, *command = sys.argv[1:]
    context = ssl.create_default_context(cafile=authority)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    while True:
        try:
            with opener.open(url, timeout=5):
                break
        except OSError:  # not there yet, or there and not ready
            time.sleep(0.1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
