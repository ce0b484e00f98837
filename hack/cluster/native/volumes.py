"""Gives each claim of the class "standard" a folder, and removes the folder with its volume.

It asks, twice a second and from the API server's memory, which costs less than a process.
Usage: volumes.py SERVER CERTIFICATES FOLDER
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from api import Api, ApiError

INTERVAL_SECONDS = 0.5
CLASS = "standard"
PROVISIONER = "mom-e2e/volumes"
_VOLUMES = "/api/v1/persistentvolumes"


def volume(claim: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The volume for a claim, bound to it."""
    metadata, spec = claim["metadata"], claim["spec"]
    reference = {key: metadata[key] for key in ("namespace", "name", "uid")}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": f"pvc-{metadata['uid']}",
            "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER},
        },
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "storageClassName": CLASS,
            "persistentVolumeReclaimPolicy": "Delete",
            "hostPath": {"path": str(folder), "type": "Directory"},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **reference},
        },
    }


def provide(api: Api, root: Path) -> None:
    """Make what is claimed. Raises ApiError."""
    for claim in api.get("/api/v1/persistentvolumeclaims?resourceVersion=0")["items"]:
        waits = claim["status"].get("phase") == "Pending" and not claim["spec"].get("volumeName")
        if waits and claim["spec"].get("storageClassName") == CLASS:
            folder = root / claim["metadata"]["uid"]
            folder.mkdir(exist_ok=True)
            folder.chmod(0o777)  # whichever user the pod has; fsGroup does not work on it
            api.apply(_VOLUMES, volume(claim, folder))


def reclaim(api: Api, root: Path) -> None:
    """Remove what no claim has any more. Raises ApiError."""
    for one in api.get(f"{_VOLUMES}?resourceVersion=0")["items"]:
        spec, metadata = one["spec"], one["metadata"]
        ours = metadata.get("annotations", {}).get("pv.kubernetes.io/provisioned-by") == PROVISIONER
        deletes = spec.get("persistentVolumeReclaimPolicy") == "Delete"
        if ours and deletes and one["status"].get("phase") == "Released":
            shutil.rmtree(root / spec["claimRef"]["uid"], ignore_errors=True)
            api.delete(f"{_VOLUMES}/{metadata['name']}")


def main() -> None:
    """Until the machine ends."""
    server, certificates, folder = sys.argv[1:]
    api, root = Api(server, Path(certificates), "admin"), Path(folder)
    while True:
        try:
            provide(api, root)
            reclaim(api, root)
        except ApiError as error:
            print(error, file=sys.stderr, flush=True)
        time.sleep(INTERVAL_SECONDS)


if __name__ == "__main__":
    main()
