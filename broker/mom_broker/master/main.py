"""The ``mom-master`` process."""

from __future__ import annotations

from typing import Any

import click

from mom_broker.master.app import Master
from mom_broker.master.settings import MasterSettings
from mom_broker.rpc.flags import server_flags
from mom_broker.rpc.process import ServerStart, run_server
from mom_broker.storage.open import store_from_url
from mom_core.ports import Store
from mom_process.flags import version_flag


@click.command(context_settings={"max_content_width": 100})
@version_flag("mom-master")
@server_flags("127.0.0.1:7070", 7170)
def main(**flags: Any) -> None:
    """Run a MOM master: it registers nodes, places partitions on them and serves administration.

    Several may run over one store; one leads, and another takes over within three seconds.

    \b
    Example:
      mom-master --store redis://127.0.0.1:6379 --listen 127.0.0.1:7070
    """

    def make(start: ServerStart, store: Store) -> Master:
        settings = MasterSettings(
            master_id=start.server_id,
            listen=start.listen,
            advertise=start.advertise,
            cluster_token=start.cluster_token,
            open_to_all=start.open_to_all,
        )
        return Master(settings, store, start.clock, start.random)

    run_server(make, store_from_url, **flags)


if __name__ == "__main__":
    main()
