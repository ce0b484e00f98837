"""The SDK as a framework: handlers by decorators, and a program that runs them.

::

    from mom_client import MomApp

    app = MomApp()

    @app.worker("emails", concurrency=20)
    async def send(email: Email) -> None: ...

    @app.subscriber("orders", subscription="billing", dead_letter="orders.dlq")
    def bill(order: Order) -> None: ...

``mom run app.py`` runs it. Modules below: how a message becomes arguments (:mod:`.handler`,
:mod:`.payload`), how often it is tried (:mod:`.retry`), workers of queues (:mod:`.queue_runner`),
readers of topics (:mod:`.stream_runner`), and the application around them (:mod:`.application`).
"""

from mom_client.app.application import MomApp
from mom_client.app.payload import PayloadError
from mom_client.app.retry import Retry

__all__ = ["MomApp", "PayloadError", "Retry"]
