"""A process to be killed -9: an engine with containers in every state.

`python -m tests.kernel.container.first_engine ROOT` says "ready" and then waits for its end.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from engine.container.model import ExecConfig, HostConfig
from tests.kernel.container.engine import House


async def main(root: Path) -> None:
    house = House(root)
    await house.open()
    containers = house.engine.containers
    await house.start("sleep", "1000", name="lasting")
    await house.start("sh", "-c", "sleep 0.3; exit 7", name="ending")
    host = HostConfig(auto_remove=True)
    await house.start("sh", "-c", "sleep 0.3", name="vanishing", host=host)
    await house.create("true", name="waiting")
    await house.start("sleep", "1000", name="frozen")
    await containers.pause("frozen")
    for seconds in ("0.3", "1000"):
        exec_id = await containers.exec_create("lasting", ExecConfig(cmd=("sleep", seconds)))
        await containers.exec_start(exec_id, detach=True)
        print(exec_id)
    print("ready", flush=True)
    await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
