"""The ``mom-operator`` process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
import uvloop

from mom_core.errors import MomError
from mom_operator.app import Operator, Settings
from mom_operator.health import Pages
from mom_operator.kube import load_configuration
from mom_operator.names import CLUSTER_DOMAIN_DEFAULT
from mom_operator.resources import OperatorSettings
from mom_operator.resources.inputs import REDIS_IMAGE_DEFAULT
from mom_process.log_lines import LOG_FORMATS, LOG_LEVELS, configure_logging
from mom_process.system import SystemClock, SystemRandom

# kopf's lines about its own parts say nothing that ours do not, and it repeats itself.
QUIET_LOGGERS: Final = {"kopf": logging.ERROR, "aiohttp.access": logging.WARNING}
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger(__name__)


def flag(name: str, **settings: Any) -> Callable[[Any], Any]:
    """An option ``--name`` with the environment variable ``MOM_OPERATOR_NAME``."""
    variable = "MOM_OPERATOR_" + name.removeprefix("--").replace("-", "_").upper()
    settings.setdefault("show_default", True)
    return click.option(name, envvar=variable, show_envvar=True, **settings)


@click.command(context_settings={"max_content_width": 100})
@flag("--id", default="", help="Unique among the replicas; by default host and process.")
@flag("--namespace", default="default", help="Where the operator runs and its Lease is.")
@flag("--lease", default="mom-operator", help="The Lease by which replicas agree on a leader.")
@flag("--watch-namespaces", default="", help="Comma-separated; empty for all namespaces.")
@flag("--listen", default="127.0.0.1:8080", help="Serve /healthz, /readyz and /metrics here.")
@flag("--image-registry", default="", help="Put before images that name no registry.")
@flag("--pull-secrets", default="", help="Comma-separated Secrets to pull images with.")
@flag("--redis-image", default=REDIS_IMAGE_DEFAULT, help="Image of new managed Redis.")
@flag("--cluster-domain", default=CLUSTER_DOMAIN_DEFAULT, help="Kubernetes' DNS domain.")
@flag(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="How to reach the API server; by default by the pod's service account.",
)
@flag("--context", default=None, help="Of the kubeconfig; by default its current one.")
@flag(
    "--master-address",
    default="",
    metavar="HOST:PORT",
    help="Where masters are reached, of every cluster. For an operator outside of Kubernetes.",
)
@flag("--log-format", type=click.Choice(LOG_FORMATS), default="human", help="Log lines.")
@flag("--log-level", type=click.Choice(LOG_LEVELS), default="info", help="How much to log.")
def main(
    *,
    id: str,
    namespace: str,
    lease: str,
    watch_namespaces: str,
    listen: str,
    image_registry: str,
    pull_secrets: str,
    redis_image: str,
    cluster_domain: str,
    kubeconfig: Path | None,
    context: str | None,
    master_address: str,
    log_format: str,
    log_level: str,
) -> None:
    """Run MOM's operator: it keeps MomClusters, MomTopics and MomQueues as their resources say."""
    configure_logging(log_format, log_level, quiet=QUIET_LOGGERS)
    settings = Settings(
        identity=id or f"{socket.gethostname()}-{os.getpid()}",
        namespace=namespace,
        lease=lease,
        watch_namespaces=_several(watch_namespaces),
        clusters=OperatorSettings(
            image_registry=image_registry,
            pull_secrets=_several(pull_secrets),
            redis_image=redis_image,
            cluster_domain=cluster_domain,
            operator_namespace=namespace,
        ),
    )
    try:
        uvloop.run(_serve(settings, listen, kubeconfig, context, master_address))
    except MomError as error:
        raise click.ClickException(error.message) from None


def _several(text: str) -> tuple[str, ...]:
    return tuple(one.strip() for one in text.split(",") if one.strip())


async def _serve(
    settings: Settings,
    listen: str,
    kubeconfig: Path | None,
    context: str | None,
    master_address: str,
) -> None:
    stop = asyncio.Event()
    for one in _STOP_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(one, stop.set)
    configuration = await load_configuration(kubeconfig, context)
    operator = Operator(
        settings,
        configuration,
        SystemClock(),
        SystemRandom(),
        master_address=lambda names: master_address or names.master_address,
    )
    host, _, port = listen.rpartition(":")
    pages = Pages(
        host.strip("[]"),
        int(port),
        well=operator.well,
        ready=operator.ready,
        metrics=operator.metrics.registry,
    )
    await pages.start()
    await operator.start()
    _log.info("operator started", extra={"identity": settings.identity})
    await stop.wait()
    _log.info("stopping")
    await operator.stop()
    await pages.stop()


if __name__ == "__main__":
    main()
