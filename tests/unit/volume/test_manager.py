"""Volumes made, held and removed, on a real database in a temporary directory."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from engine import offload
from engine.config import EngineConfig
from engine.errors import EngineError, InvalidParameter, NoSuchVolume, UnreadableVolume, WharfError
from engine.events import EventBus
from engine.storage.database import Database
from engine.volume import local, manager
from engine.volume.manager import VolumeInUse, Volumes
from engine.volume.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


def run(tmp_path: Path, test: Callable[[Volumes, EventBus], Awaitable[None]]) -> None:
    async def whole() -> None:
        database = await offload.disk(Database, str(tmp_path / "db"))
        events = EventBus()
        try:
            volumes = Volumes(EngineConfig(data_root=str(tmp_path)), database, events)
            await volumes.open_engine()
            await test(volumes, events)
        finally:
            await offload.disk(database.close)

    try:
        asyncio.run(whole())
    finally:
        offload.close()


def happened(events: EventBus) -> list[tuple[str, str]]:
    return [(e.action, e.actor_id) for e in events.past(since_ns=0)]


def test_creating_twice_gives_the_first(tmp_path: Path) -> None:
    async def test(volumes: Volumes, events: EventBus) -> None:
        one = await volumes.create("data", labels={"a": "b"})
        two = await volumes.create("data", "local", {}, {"a": "c"})
        assert one == two
        assert one.mountpoint == str(tmp_path / "volumes/data/_data")
        assert await offload.disk(os.path.isdir, one.mountpoint)
        assert (one.labels, one.options) == ({"a": "b"}, None)
        assert happened(events) == [("create", "data")]

    run(tmp_path, test)


def test_nobody_s_name_is_an_id_and_a_label(tmp_path: Path) -> None:
    async def test(volumes: Volumes, events: EventBus) -> None:
        volume = await volumes.create()
        assert len(volume.name) == 64
        assert volume.labels == {"com.docker.volume.anonymous": ""}

    run(tmp_path, test)


def test_volumes_are_there_after_a_restart(tmp_path: Path) -> None:
    async def first(volumes: Volumes, events: EventBus) -> None:
        await volumes.create("data", labels={"a": "b"})

    async def second(volumes: Volumes, events: EventBus) -> None:
        assert (await volumes.get("data")).labels == {"a": "b"}

    run(tmp_path, first)
    run(tmp_path, second)


def test_a_boot_removes_what_was_made_for_a_container_that_never_was(tmp_path: Path) -> None:
    names: dict[str, str] = {}

    async def first(volumes: Volumes, events: EventBus) -> None:
        for container_id in ("there", "never", "removed"):
            volume, _ = await volumes.hold("", "", {}, {}, container_id=container_id)
            names[container_id] = volume.name
        await volumes.hold("named", "", {}, {}, container_id="never")
        await volumes.keep(names["removed"], "removed")
        await volumes.keep(names["there"], "another")

    async def second(volumes: Volumes, events: EventBus) -> None:
        await volumes.sweep(lambda container_id: container_id == "there")
        left = {volume.name for volume in await volumes.list()}
        assert left == {names["there"], names["removed"], "named"}
        assert not (tmp_path / "volumes" / names["never"]).exists()

    run(tmp_path, first)
    run(tmp_path, second)


@pytest.mark.parametrize("data", [[], ["_data"]])
def test_the_empty_directory_of_a_create_that_was_killed_goes(
    tmp_path: Path, data: list[str]
) -> None:
    name = "0123456789abcdef" * 4
    os.makedirs(tmp_path.joinpath("volumes", name, *data))

    async def test(volumes: Volumes, events: EventBus) -> None:
        assert await volumes.list() == ()
        assert os.listdir(tmp_path / "volumes") == []

    run(tmp_path, test)


def test_a_directory_without_a_record_is_taken_up(tmp_path: Path) -> None:
    os.makedirs(tmp_path / "volumes/found/_data")
    (tmp_path / "volumes/found/_data/file").write_text("somebody's")

    async def test(volumes: Volumes, events: EventBus) -> None:
        volume = await volumes.get("found")
        assert await offload.disk(os.listdir, volume.mountpoint) == ["file"]

    run(tmp_path, test)


def test_refusals(tmp_path: Path) -> None:
    async def test(volumes: Volumes, events: EventBus) -> None:
        for name, driver, options, said in (
            (
                "a",
                "",
                {},
                "create a: volume name is too short, names should be at least two "
                "alphanumeric characters",
            ),
            (
                "ab",
                "nope",
                {},
                'create ab: error looking up volume plugin nope: plugin "nope" not found',
            ),
            ("ab", "", {"foo": "x"}, 'create ab: invalid option: "foo"'),
        ):
            with pytest.raises(WharfError) as refused:
                await volumes.create(name, driver, options)
            assert str(refused.value) == said
        with pytest.raises(NoSuchVolume) as missing:
            await volumes.get("nope")
        assert str(missing.value) == "get nope: no such volume"
        with pytest.raises(NoSuchVolume):
            await volumes.remove("nope")
        await volumes.remove("nope", force=True)
        assert happened(events) == []

    run(tmp_path, test)


def test_a_volume_in_use_stays(tmp_path: Path) -> None:
    async def test(volumes: Volumes, events: EventBus) -> None:
        volume = await volumes.create("data")
        volumes.users_of = lambda name: ["c1", "c2"] if name == "data" else []
        with pytest.raises(manager.VolumeInUse) as refused:
            await volumes.remove("data", force=True)
        assert str(refused.value) == "remove data: volume is in use - [c1, c2]"
        assert (await volumes.prune({"all": ["true"]})).names == ()
        volumes.users_of = lambda _: []
        await volumes.remove("data")
        assert not await offload.disk(os.path.exists, os.path.dirname(volume.mountpoint))
        assert happened(events)[-1] == ("destroy", "data")

    run(tmp_path, test)


def test_pruning_takes_the_anonymous_unless_told_all(tmp_path: Path) -> None:
    async def test(volumes: Volumes, events: EventBus) -> None:
        named = await volumes.create("named", labels={"keep": "no"})
        await offload.disk((tmp_path / "volumes/named/_data/file").write_bytes, b"x" * 100)
        assert named.mountpoint == str(tmp_path / "volumes/named/_data")
        nobody = await volumes.create()
        await volumes.create("mounted", "", {"type": "tmpfs", "device": "tmpfs"})
        assert (await volumes.prune({})).names == (nobody.name,)
        assert (await volumes.prune({"all": ["1"], "label": ["keep=yes"]})).names == ()
        pruned = await volumes.prune({"all": ["1"], "label": ["keep"]})
        assert (pruned.names, pruned.reclaimed_bytes) == (("named",), 100)
        assert [v.name for v in await volumes.list({})] == ["mounted"]

    run(tmp_path, test)


def test_who_owns_a_directory_makes_it_no_other_volume(tmp_path: Path) -> None:
    async def test(volumes: Volumes, events: EventBus) -> None:
        await volumes.create("owned", options={"mode": "0700"})
        await volumes.create("mounted", options={"type": "tmpfs", "device": "tmpfs"})
        assert await volumes.sizes() == {"owned": 0}
        assert (await volumes.prune({"all": ("true",)})).names == ("owned",)

    run(tmp_path, test)


def test_lists_are_filtered(tmp_path: Path) -> None:
    async def test(volumes: Volumes, events: EventBus) -> None:
        for name in ("web", "web-data", "db"):
            await volumes.create(name, labels={"n": name})
        volumes.users = lambda: {"db": ["c"]}

        async def names(**filters: list[str]) -> list[str]:
            return [v.name for v in await volumes.list(filters)]

        assert await names(name=["web"]) == ["web", "web-data"]
        assert await names(label=["n=db"]) == ["db"]
        assert await names(dangling=["true"]) == ["web", "web-data"]
        assert await names(dangling=["false"]) == ["db"]
        assert await names(driver=["other"]) == []
        with pytest.raises(InvalidParameter, match="invalid filter 'foo'"):
            await names(foo=["x"])

    run(tmp_path, test)


def test_a_lost_directory_is_made_again_for_who_needs_it(tmp_path: Path) -> None:
    async def test(volumes: Volumes, events: EventBus) -> None:
        volume = await volumes.create("data")
        await offload.disk(os.rmdir, volume.mountpoint)
        assert await volumes.acquire("data", "c1") == volume.mountpoint
        assert await offload.disk(os.path.isdir, volume.mountpoint)
        with pytest.raises(manager.VolumeInUse):
            await volumes.remove("data")
        await volumes.release("data", "c1")
        await volumes.release("data", "c1")
        await volumes.remove("data")
        await volumes.release("data", "c1")

    run(tmp_path, test)


def test_many_at_once_make_one(tmp_path: Path) -> None:
    async def test(volumes: Volumes, events: EventBus) -> None:
        await asyncio.gather(*(volumes.create("data") for _ in range(20)))
        assert happened(events) == [("create", "data")]

    run(tmp_path, test)


def test_making_and_holding_leave_no_gap_for_a_prune(tmp_path: Path) -> None:
    async def test(volumes: Volumes, events: EventBus) -> None:
        async def prune_on_and_on() -> None:
            while not held.done():
                await volumes.prune({"all": ["true"]})
                await asyncio.sleep(0)

        held = asyncio.ensure_future(volumes.hold("data", "", {}, {}, container_id="c1"))
        await prune_on_and_on()
        volume, is_new = await held
        assert is_new
        assert volumes.find("data") == volume
        assert await volumes.hold("data", "", {}, {}, container_id="c2") == (volume, False)
        await volumes.release("data", "c1")
        with pytest.raises(manager.VolumeInUse):
            await volumes.remove("data")

    run(tmp_path, test)


def test_that_a_volume_cannot_be_mounted_is_said_when_it_is_needed(tmp_path: Path) -> None:
    async def test(volumes: Volumes, events: EventBus) -> None:
        options = {"type": "nosuchfs", "device": "none"}
        volume, is_new = await volumes.hold("data", "", options, {}, container_id="c1")
        assert is_new
        with pytest.raises(WharfError, match="error while mounting volume"):
            await volumes.acquire("data", "c1")
        with pytest.raises(manager.VolumeInUse):
            await volumes.remove("data")
        await volumes.release(volume.name, "c1")
        await volumes.remove("data")

    run(tmp_path, test)


def test_names_leave_nothing_behind(tmp_path: Path) -> None:
    async def test(volumes: Volumes, events: EventBus) -> None:
        volume, _ = await volumes.hold("", "", {}, {}, container_id="c1")
        await volumes.release(volume.name, "c1")
        await volumes.remove(volume.name)
        await volumes.keep(volume.name, "c1")
        await volumes.release("none-such", "c1")
        with pytest.raises(NoSuchVolume):
            await volumes.acquire("none-such-either", "c1")
        assert (len(volumes._turns), volumes._holders) == (0, {})

    run(tmp_path, test)


def test_one_at_a_time_however_often_it_is_removed(tmp_path: Path) -> None:
    async def test(volumes: Volumes, events: EventBus) -> None:
        turns = Turns()
        inside = 0

        async def take() -> None:
            nonlocal inside
            async with turns.of("data"):
                inside += 1
                assert inside == 1
                await asyncio.sleep(0)
                inside -= 1

        await asyncio.gather(*(take() for _ in range(20)))
        assert len(turns) == 0

    run(tmp_path, test)


def test_a_row_that_cannot_be_read_is_passed_over_and_keeps_its_files(tmp_path: Path) -> None:
    async def break_it(volumes: Volumes, events: EventBus) -> None:
        await volumes.create("broken")
        await volumes.create("whole")
        await offload.disk(volumes._table.put, "broken", b"no row", name="broken")

    async def test(volumes: Volumes, events: EventBus) -> None:
        assert [v.name for v in await volumes.list()] == ["whole"]
        assert (await volumes.prune({"all": ["true"]})).names == ("whole",)
        with pytest.raises(WharfError, match="create broken: there is a volume whose record"):
            await volumes.create("broken")
        assert await offload.disk(volumes._table.get, "broken") == b"no row"
        assert await offload.disk((tmp_path / "volumes/broken/_data").is_dir)

    run(tmp_path, break_it)
    run(tmp_path, test)


def test_one_whose_row_cannot_be_read_is_removed_by_force(tmp_path: Path) -> None:
    async def break_it(volumes: Volumes, events: EventBus) -> None:
        await volumes.create("broken")
        await offload.disk(volumes._table.put, "broken", b"no row", name="broken")

    async def test(volumes: Volumes, events: EventBus) -> None:
        with pytest.raises(UnreadableVolume, match="get broken: no such volume: its record cannot"):
            await volumes.get("broken")
        with pytest.raises(UnreadableVolume):
            await volumes.remove("broken")
        volumes.users_of = lambda name: ("c1",)
        with pytest.raises(VolumeInUse):
            await volumes.remove("broken", force=True)
        volumes.users_of = lambda name: ()
        await volumes.remove("broken", force=True)
        assert await offload.disk(volumes._table.get, "broken") is None
        assert not await offload.disk((tmp_path / "volumes/broken").exists)
        assert (await volumes.create("broken")).name == "broken"

    run(tmp_path, break_it)
    run(tmp_path, test)


def test_a_stray_volume_that_cannot_be_removed_is_said_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(volumes: Volumes, events: EventBus) -> None:
        volume, _ = await volumes.hold("", "", {}, {}, container_id="c1")
        await volumes.release(volume.name, "c1")

        def refuse(*_: object) -> None:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

        monkeypatch.setattr(local, "remove", refuse)
        await volumes.sweep(lambda _: False)
        assert volumes.find(volume.name) == volume

    run(tmp_path, test)


def test_a_client_that_leaves_does_not_end_a_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(volumes: Volumes, events: EventBus) -> None:
        await volumes.create("data")
        begun, go_on = threading.Event(), threading.Event()
        real = local.remove

        def slow(root: str, name: str) -> None:
            begun.set()
            go_on.wait(10)
            real(root, name)

        monkeypatch.setattr(local, "remove", slow)
        asked = asyncio.ensure_future(volumes.remove("data"))
        await offload.disk(begun.wait, 10)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        go_on.set()
        await volumes.close_engine()
        assert volumes.find("data") is None
        assert await offload.disk(volumes._table.items) == []

    run(tmp_path, test)


def test_nothing_is_mounted_while_the_last_is_still_being_unmounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes and goes meanwhile does not make it look as if it had ended."""
    goes_on, calls = threading.Event(), 0

    def detach(_path: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            goes_on.wait(20)

    monkeypatch.setattr(local, "detach", detach)
    monkeypatch.setattr(local, "attach", lambda _options, _path: None)
    monkeypatch.setattr(offload, "FOREIGN_TIMEOUT_S", 0.2)
    options = {"type": "nfs", "device": ":/x", "o": "addr=192.0.2.1"}

    async def test(volumes: Volumes, _: EventBus) -> None:
        await volumes.create("far", options=options)
        await volumes.acquire("far", "one")
        await volumes.release("far", "one")
        await volumes.hold("far", "", options, {}, container_id="two")
        await volumes.release("far", "two")
        with pytest.raises(EngineError, match="is still being unmounted"):
            await volumes.acquire("far", "three")
        goes_on.set()
        async with asyncio.timeout(20):
            while True:  # its end is told by a thread, some time after it went on
                with contextlib.suppress(EngineError):
                    await volumes.acquire("far", "three")
                    break
                await asyncio.sleep(0.01)

    try:
        run(tmp_path, test)
    finally:
        goes_on.set()
