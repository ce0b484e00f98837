"""The cluster's certificate authority, and a kubeconfig for whoever speaks to the API server."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Sequence

from layout import Layout

DAYS = 365
_OPENSSL_CONFIG = "[req]\ndistinguished_name = name\n[name]\n"


class Authority:
    """Makes keys and certificates in the cluster's folder."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._folder = layout.certificates
        self._folder.mkdir(mode=0o700)
        (self._folder / "openssl.cnf").write_text(_OPENSSL_CONFIG)
        self._request(
            "ca", "/CN=mom-e2e", "basicConstraints=critical,CA:TRUE", "keyUsage=keyCertSign"
        )
        self._openssl("ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", "accounts.key")

    def issue(self, name: str, subject: str, alternatives: Sequence[str] = ()) -> None:
        """Write NAME.crt and NAME.key."""
        extensions = [
            "basicConstraints=critical,CA:FALSE",
            "extendedKeyUsage=clientAuth,serverAuth",
        ]
        if alternatives:
            extensions.append("subjectAltName=" + ",".join(alternatives))
        self._request(name, subject, *extensions, signer=("-CA", "ca.crt", "-CAkey", "ca.key"))

    def issue_kubeconfig(self, name: str, subject: str, alternatives: Sequence[str] = ()) -> None:
        """Write NAME.crt and NAME.key, and NAME.kubeconfig with both in it."""
        self.issue(name, subject, alternatives)
        server = f"https://{self._layout.control_address}:6443"
        user = {
            "client-certificate-data": self._encoded(f"{name}.crt"),
            "client-key-data": self._encoded(f"{name}.key"),
        }
        cluster = {"server": server, "certificate-authority-data": self._encoded("ca.crt")}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": self._layout.name,
            "contexts": [
                {"name": self._layout.name, "context": {"cluster": "mom-e2e", "user": name}}
            ],
            "clusters": [{"name": "mom-e2e", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
        }
        path = self._folder / f"{name}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(json.dumps(config, indent=1))

    def _encoded(self, name: str) -> str:
        return base64.b64encode((self._folder / name).read_bytes()).decode()

    def _request(
        self, name: str, subject: str, *extensions: str, signer: Sequence[str] = ()
    ) -> None:
        options = [word for one in extensions for word in ("-addext", one)]
        self._openssl(
            "req", "-config", "openssl.cnf", "-x509", "-newkey", "ec", "-nodes",
            "-pkeyopt", "ec_paramgen_curve:P-256", "-days", str(DAYS), "-subj", subject,
            "-keyout", f"{name}.key", "-out", f"{name}.crt", *signer, *options,
        )  # fmt: skip

    def _openssl(self, *words: str) -> None:
        result = subprocess.run(
            ["openssl", *words], cwd=self._folder, capture_output=True, text=True
        )
        if result.returncode:
            raise SystemExit(f"openssl {words[0]} failed:\n{result.stderr}")
