"""Notices when somebody else changes the host's firewall, and has ours mended.

`nft flush ruleset`, a firewall service that reloads or another engine that starts take our table
or our accepts away without asking. The kernel tells of it, and they are there again at once; and
once more after a while, because a reload is many changes in a row.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from typing import TYPE_CHECKING

from engine import offload
from engine.linux import nftables as nft
from engine.linux.netlink import NETLINK_NETFILTER, Socket

if TYPE_CHECKING:
    from engine.network.firewall import Firewall
    from engine.work import Work

log = logging.getLogger(__name__)

# At least so long between two looks, whatever goes on.
_PAUSE_S = 0.3


class Watch:
    """Reads notifications on the event loop; mends in a worker thread."""

    def __init__(self, firewall: Firewall, sock: Socket, own_port_id: int, work: Work) -> None:
        self._firewall = firewall
        self._socket = sock
        self._own_port_id = own_port_id
        self._changed = asyncio.Event()
        self._is_ours_changed = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._read)
        self._task = work.keep_running(self._mend(), what="firewall watch")

    @classmethod
    async def over(cls, firewall: Firewall, work: Work) -> Watch:
        own_port_id = await offload.kernel(firewall.port_id)
        sock = Socket(NETLINK_NETFILTER, groups=(nft.NFNLGRP_NFTABLES,))
        return cls(firewall, sock, own_port_id, work)

    def _read(self) -> None:
        try:
            for type, port_id, body in self._socket.notices():
                if port_id != self._own_port_id:
                    self._changed.set()
                    ours = nft.NFPROTO_INET, self._firewall.name
                    self._is_ours_changed |= nft.changed_table(type, body) == ours
        except OSError:  # ENOBUFS: some were lost, so somebody may have changed something
            self._is_ours_changed = True
            self._changed.set()

    async def _mend(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            is_ours, self._is_ours_changed = self._is_ours_changed, False
            try:
                await offload.kernel(functools.partial(self._firewall.mend, is_touched=is_ours))
            except OSError as error:
                log.warning("cannot mend the firewall: %s", error)
            except Exception:
                # Whatever it was, the next change has to be answered too.
                log.exception("cannot mend the firewall")
            await asyncio.sleep(_PAUSE_S)

    async def close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        # Closing a socket of nf_tables waits for a grace period of the kernel.
        await offload.kernel(self._socket.close)
