"""A web service that publishes what it is asked for, and works on it in the same process.

mom dev
mom queue create emails
uvicorn --app-dir examples fastapi_app:web
curl localhost:8000/emails -H 'content-type: application/json' -d '{"to": "ada"}'
"""

from fastapi import FastAPI, Response
from pydantic import BaseModel

from mom_client import MomApp

mom = MomApp()
web = FastAPI(lifespan=mom.lifespan)  # Handlers begin and end with the service.
sent: list[str] = []


class Email(BaseModel):
    """What is to be sent."""

    to: str
    text: str = ""


@mom.worker("emails", concurrency=20)
async def send(email: Email) -> None:
    """Work on one message of the queue."""
    sent.append(email.to)


@web.post("/emails", status_code=202)
async def accept(email: Email) -> dict[str, str]:
    """Answer as soon as the message is durable."""
    published = await mom.publish("emails", email)
    return {"id": published.id_text, "durability": published.durability}


@web.get("/emails")
async def list_sent() -> list[str]:
    """What was sent by this process."""
    return sent


@web.get("/healthz")
async def health(response: Response) -> dict[str, str]:
    """Whether the workers work, and why not."""
    response.status_code = 503 if mom.problems else 200
    return mom.problems
