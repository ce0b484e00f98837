"""Sends a message through the gateway, receives and acknowledges it: what `helm test` runs."""

import json
import os
import secrets
import time
import urllib.error
import urllib.request

BASE = os.environ["MOM_URI"] + "/v1/queues/helm-test-" + secrets.token_hex(4)
GIVE_UP_S = 60


def call(method, path="", body=None, kind="application/json"):
    """One request; unavailable parts may come within the time limit."""
    deadline = time.monotonic() + GIVE_UP_S
    headers = {"authorization": "Bearer " + os.environ["MOM_TOKEN"], "content-type": kind}
    while True:
        request = urllib.request.Request(BASE + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or b"{}")
        except (urllib.error.URLError, TimeoutError) as error:
            final = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if final or time.monotonic() > deadline:
                said = error.read().decode() if isinstance(error, urllib.error.HTTPError) else ""
                raise SystemExit(f"{method} {BASE}{path}: {error} {said}") from None
            time.sleep(1)


settings = {"partitions": 1, "retention_bytes": "1Mi"}
call("PUT", body=json.dumps(settings).encode())
try:
    sent = call("POST", "/messages", b"hello\n", "text/plain")
    assert sent["accepted"] == 1, sent
    wish = {"max": 1, "wait_ms": 10_000, "lease_ms": 30_000}
    (message,) = call("POST", "/messages:receive", json.dumps(wish).encode())["messages"]
    assert message["value"] == "hello", message
    receipts = {"receipts": [message["receipt"]]}
    (result,) = call("POST", "/messages:ack", json.dumps(receipts).encode())["results"]
    assert result["status"] == "ok", result
    print("a message was sent, received and acknowledged")  # noqa: T201 - the log of the pod
finally:
    call("DELETE")
