"""The example of an application inside of a FastAPI service."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import httpx

import mom_client.sync
from integration.broker_process import BrokerProcess
from integration.dev_process import environment
from polling import until

EXAMPLES = Path(__file__).parents[2] / "examples"


def started(address: str, log: BinaryIO) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "--port", "0", "fastapi_app:web"],
        cwd=EXAMPLES,
        env=environment(MOM_URL=address),
        stdout=subprocess.DEVNULL,
        stderr=log,
    )


async def test_a_service_publishes_and_works(tmp_path: Path) -> None:
    with BrokerProcess(1) as broker, mom_client.sync.connect(broker.addresses) as client:
        client.create_queue("emails")
        log = tmp_path / "log"
        with log.open("wb") as file:
            service = started(broker.addresses[0], file)
        try:
            await until(lambda: b"running on" in log.read_bytes(), "it serves")
            found = re.search(r"http://[\d.:]+", log.read_text())
            assert found is not None
            async with httpx.AsyncClient(base_url=found[0]) as web:
                answer = await web.post("/emails", json={"to": "ada"})
                assert answer.status_code == 202
                assert answer.json()["id"]

                async def sent() -> bool:
                    return bool((await web.get("/emails")).json() == ["ada"])

                await until(sent, "the worker got it")
                assert (await web.get("/healthz")).json() == {}
            service.terminate()
            assert service.wait(60) in (0, -15)
        finally:
            service.kill()
            service.wait()
        assert "Application shutdown complete" in log.read_text()
        assert client.receive("emails") == []
        counts = client.describe("emails")[0].subscriptions[0]
        assert (counts.ready, counts.leased) == (0, 0), "and acknowledged it"
