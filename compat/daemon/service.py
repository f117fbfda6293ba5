"""The life of the serving daemon: engine up, API up, wait to be told, both down again."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from compat.app import create_app, create_runner
from compat.daemon import memory, systemd
from compat.daemon.listeners import BACKLOG
from compat.daemon.origin import refuse_browsers
from compat.daemon.tls import server_context
from engine.engine import Engine

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from aiohttp import web

    from compat.daemon.listeners import Listener
    from engine.config import EngineConfig

log = logging.getLogger(__name__)

# How long requests that are under way may take to end by themselves when the daemon is told to
# stop. Streams (logs, attach, wait) never do, so every second here is one the user waits.
_GRACE_S = 1.0

# Signals after which the daemon goes without any more care (moby cmd/dockerd/trap).
_PATIENCE = 3

# dockerd never closes an idle connection; a day ends those whose client vanished.
_KEEPALIVE_S = 24 * 3600.0
# As often asyncio tries to accept before it looks at anything else, and logs what fails each time.
_ACCEPTED_AT_ONCE = 16


async def serve(config: EngineConfig, listeners: Sequence[Listener]) -> None:
    """Serve until a signal says stop; raises WharfError if the engine cannot start."""
    stop = _stop_by_signal()
    engine = await Engine.open(config)
    try:
        app = create_app(engine, config)
        app.middlewares.insert(0, refuse_browsers)
        runner = create_runner(
            app,
            auto_decompress=False,
            keepalive_timeout=_KEEPALIVE_S,
            shutdown_timeout=_GRACE_S,
        )
        await runner.setup()
        servers = await _accept(runner, listeners, server_context(config))
        # What was made until now stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        log.info("Daemon has completed initialization")
        systemd.notify("READY=1")
        keeping = asyncio.create_task(memory.keep_small())
        await stop.wait()
        keeping.cancel()
        systemd.notify("STOPPING=1")
        for server in servers:
            server.close()
        engine.events.close()
        await runner.cleanup()
    finally:
        await engine.close()
    log.info("Daemon shutdown complete")


async def _accept(
    runner: web.AppRunner, listeners: Sequence[Listener], tls: ssl.SSLContext | None
) -> list[asyncio.Server]:
    """Let each listener's connections in; TLS is for TCP alone."""
    loop = asyncio.get_running_loop()
    factory = runner.server
    assert factory is not None
    servers: list[asyncio.Server] = []
    for listener in listeners:
        if listener.socket.family == socket.AF_UNIX:
            # 3.13 would remove the file at close, even systemd's; Listener.close knows better.
            keep: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
            server = await loop.create_unix_server(
                factory, sock=listener.socket, backlog=_ACCEPTED_AT_ONCE, **keep
            )
        else:
            server = await loop.create_server(
                factory, sock=listener.socket, backlog=_ACCEPTED_AT_ONCE, ssl=tls
            )
        listener.socket.listen(BACKLOG)  # asyncio has set its own
        servers.append(server)
        log.info("API listen on %s", listener.address)
    return servers


def _stop_by_signal() -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets; the third ends the process on the spot."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    count = 0

    def on_stop(number: signal.Signals) -> None:
        nonlocal count
        count += 1
        log.info("Processing signal '%s'", number.name)
        stop.set()
        if count >= _PATIENCE:
            log.warning("Forcing shutdown without cleanup; %d interrupts received", count)
            os._exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_stop, number)
    loop.add_signal_handler(signal.SIGHUP, _on_hangup)
    return stop


def _on_hangup() -> None:
    log.warning("The configuration is read at the start only: restart the daemon to change it")
