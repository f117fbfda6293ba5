"""A process that ends in the middle of changing a container that runs, as if killed -9.

`python -m tests.kernel.container.changing_engine ROOT VERB NUMBER before|after`: it ends before or
after the row is written for the NUMBER-th time in the course of "connect", "disconnect", "update".
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from engine.container.model import HostConfig, Resources
from engine.network.model import EndpointConfig, NetworkRequest
from tests.kernel.container.engine import House

if TYPE_CHECKING:
    from engine.container.model import Container
    from engine.container.store import Handle

ENDED = 77


async def main(root: Path, verb: str, number: int, when: str) -> None:
    house = House(root)
    await house.open()
    engine = house.engine
    for name in ("aaa", "bbb"):
        await engine.networks.create(NetworkRequest(name=name))
    host = HostConfig(network_mode="bbb", resources=Resources(memory_bytes=64 << 20))
    ref = await house.start("sleep", "1000", name="changing", host=host)
    if verb == "disconnect":
        await engine.containers.connect(ref, "aaa", EndpointConfig())
    store = engine.containers._rooms.store
    save, left = store.save, number

    async def save_or_end(handle: Handle, container: Container) -> None:
        nonlocal left
        left -= 1
        if not left and when == "before":
            os._exit(ENDED)
        await save(handle, container)
        if not left:
            os._exit(ENDED)

    store.save = save_or_end  # type: ignore[method-assign]
    match verb:
        case "connect":
            await engine.containers.connect(ref, "aaa", EndpointConfig())
        case "disconnect":
            await engine.containers.disconnect(ref, "aaa")
        case _:
            limits = Resources(memory_bytes=32 << 20, memory_swap_bytes=64 << 20)
            await engine.containers.update(ref, limits, None)
    os._exit(1)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]))
