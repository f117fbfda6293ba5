"""Rows and the memory of them: what waited for a lock, and names that change hands meanwhile."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, cast
from unittest import mock

import msgspec
import pytest

from engine import offload
from engine.container.containers import Containers
from engine.container.model import Config, Container, HostConfig, State, Status
from engine.container.store import Store
from engine.errors import NoSuchContainer
from engine.ids import ContainerId
from engine.storage.database import Database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engine.container.rooms import Rooms
    from engine.container.store import Handle


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(str(tmp_path / "wharf.db"))
    yield opened
    offload.close()
    opened.close()


def container(letter: str, name: str) -> Container:
    return Container(
        id=ContainerId(letter * 64),
        name=name,
        created_ns=1,
        config=Config(),
        host_config=HostConfig(),
        image_id="",
    )


def renamed(value: Container, name: str) -> Container:
    return msgspec.structs.replace(value, name=name)


async def make(store: Store, value: Container) -> Handle:
    await offload.disk(store.insert_row, value)
    return store.add(value)


async def is_empty(database: Database) -> bool:
    return await offload.disk(database.table("container").items) == []


class Delay:
    """Keeps a method from coming back from what it has done, until it is let go."""

    def __init__(self, owner: object, method: str) -> None:
        self._call = getattr(owner, method)
        self._has_written = threading.Event()
        self._let_go = threading.Event()
        setattr(owner, method, self)

    def __call__(self, *args: object, **kwargs: object) -> None:
        self._call(*args, **kwargs)
        self._has_written.set()
        assert self._let_go.wait(10)

    async def written(self) -> None:
        assert await asyncio.to_thread(self._has_written.wait, 10)

    def end(self) -> None:
        self._let_go.set()


def test_what_is_gone_is_not_written_again(database: Database) -> None:
    async def check() -> None:
        store = Store(database)
        value = container("a", "web")
        handle = await make(store, value)
        await store.delete(handle)
        with pytest.raises(NoSuchContainer):
            await store.save(handle, renamed(value, "ghost"))
        with pytest.raises(NoSuchContainer):
            await store.save_state(handle, State(status=Status.DEAD))
        assert not await store.note(handle, renamed(value, "ghost"))
        assert store.named("ghost") is None
        assert await is_empty(database)

    asyncio.run(check())


def test_renaming_waits_for_a_removal_and_then_finds_nothing(database: Database) -> None:
    async def check() -> None:
        store = Store(database)
        handle = await make(store, container("a", "web"))
        rooms = mock.Mock(store=store)
        rooms.work.do = lambda coroutine, **_: coroutine
        containers = Containers(cast("Rooms", rooms))
        async with handle.lock:
            renaming = asyncio.ensure_future(containers.rename("web", "ghost"))
            await asyncio.sleep(0)
            await store.delete(handle)
        with pytest.raises(NoSuchContainer, match=r"^No such container: web$"):
            await renaming
        assert store.named("ghost") is None
        assert await is_empty(database)
        rooms.events.publish.assert_not_called()

    asyncio.run(check())


@pytest.mark.parametrize("verb", ["rename", "remove"])
def test_a_name_that_another_took_meanwhile_stays_its(database: Database, verb: str) -> None:
    async def check() -> None:
        store = Store(database)
        first = container("a", "web")
        handle = await make(store, first)
        if verb == "rename":
            delay = Delay(store._containers, "put")
            change = asyncio.ensure_future(store.save(handle, renamed(first, "old")))
        else:
            delay = Delay(store, "_delete_rows")
            change = asyncio.ensure_future(store.delete(handle))
        await delay.written()
        other = await make(store, container("b", "web"))
        delay.end()
        await change
        assert store.named("web") is other

    asyncio.run(check())
