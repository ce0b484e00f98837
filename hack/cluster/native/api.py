"""The few calls of the Kubernetes API that the cluster itself makes."""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 10


class ApiError(Exception):
    """The API server refused, or could not be reached."""


class Api:
    """One connection, kept open, with a client certificate."""

    def __init__(self, server: str, certificates: Path, name: str) -> None:
        context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
        context.load_cert_chain(certificates / f"{name}.crt", certificates / f"{name}.key")
        host = server.removeprefix("https://")
        self._connection = http.client.HTTPSConnection(
            host, timeout=TIMEOUT_SECONDS, context=context
        )

    def get(self, path: str) -> Any:
        """Read. Raises ApiError."""
        return self._call("GET", path)

    def delete(self, path: str) -> None:
        """Delete. Raises ApiError."""
        self._call("DELETE", path)

    def apply(self, path: str, body: dict[str, Any]) -> None:
        """Make it so, whether it exists or not. Raises ApiError."""
        url = f"{path}/{body['metadata']['name']}?fieldManager=mom-e2e&force=true"
        self._call("PATCH", url, body, "application/apply-patch+yaml")

    def _call(self, method: str, path: str, body: Any = None, kind: str = "") -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": kind} if kind else {}
        try:
            self._connection.request(method, path, data, headers)
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ApiError(f"{method} {path}: {error}") from error
        if response.status >= 300:
            raise ApiError(f"{method} {path}: {response.status} {text.decode()[:300]}")
        return json.loads(text) if text.startswith(b"{") else text


def collection(body: dict[str, Any]) -> str:
    """The path of the kind of an object, in its namespace."""
    group = body["apiVersion"]
    root = "/api/" if "/" not in group else "/apis/"
    namespace = body["metadata"].get("namespace")
    inside = f"/namespaces/{namespace}" if namespace else ""
    kind = body["kind"].lower()
    return f"{root}{group}{inside}/{kind}{'es' if kind.endswith('s') else 's'}"
