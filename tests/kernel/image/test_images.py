"""Images end to end in one engine's stores: load, save, import, list, remove, prune."""

from __future__ import annotations

import asyncio
import errno
import gzip
import io
import json
import os
import tarfile
import threading
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from engine import offload
from engine.errors import NoSpace, NoSuchImage, WharfError
from engine.events import EventBus
from engine.image import archive, failure, load, store
from engine.image.importing import ImportFailed
from engine.image.model import ImageQuery, Progress, Removed
from engine.image.spool import Range, Spool
from engine.image.store import Images
from engine.oci import platform as platforms
from engine.oci import reference
from engine.storage.leases import Lease
from engine.storage.snapshots import Snapshots
from tests.kernel.storage.stores import Stores
from tests.support.images import (
    Image,
    Index,
    Layer,
    docker_archive,
    file,
    hardlink,
    oci_layout,
    sha256,
    symlink,
    tar,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

BASE = Layer(tar({"bin/sh": file(b"shell" * 100), "etc/os": file(b"base")}))
TOP = Layer(tar({"app": file(b"app")}), "zstd")
ONE = Image(layers=(BASE, TOP), config={"Cmd": ["app"], "Labels": {"a": "1"}})
OTHER = Image(layers=(BASE,), config={"Cmd": ["sh"]})


class House:
    """The stores, their images and the events so far."""

    def __init__(self, root: Path) -> None:
        self.stores = Stores(root)
        self.events = EventBus()
        self.images = Images(
            self.stores.database, self.stores.content, self.stores.snapshots, self.events
        )

    def actions(self) -> list[str]:
        return [event.action for event in self.events.past(since_ns=0)]

    async def load(self, archive: bytes, **options: Any) -> list[Progress]:
        return [p async for p in self.images.load(chunks(archive), **options)]

    async def save(self, *refs: str) -> bytes:
        return b"".join([piece async for piece in self.images.save(refs)])

    def is_empty(self) -> bool:
        return (
            not self.stores.folders()
            and not self.stores.unfinished()
            and not list(self.stores.content.walk())
            and not self.images.all()
        )


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    found = House(tmp_path / "data")
    yield found
    found.stores.close()


def run(scenario: Callable[[], Awaitable[Any]]) -> Any:
    async def play() -> Any:
        return await asyncio.wait_for(scenario(), 60)

    return asyncio.run(play())


async def chunks(data: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def said(steps: list[Progress]) -> str:
    return "".join(step.stream for step in steps)


def refused(house: House, archive: bytes) -> str:
    """The sentence with which an archive is refused; nothing of it is left."""
    with pytest.raises(WharfError) as caught:
        run(lambda: house.load(archive))
    assert house.is_empty()
    return str(caught.value)


# Load


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
@pytest.mark.parametrize("form", ["docker", "oci", "both"])
def test_load(house: House, form: str, pack: Callable[[bytes], bytes]) -> None:
    images = {"one:1": ONE, "registry.example/two:2": OTHER}
    archive = (
        docker_archive(images)
        if form == "docker"
        else oci_layout(images, with_manifest_json=form == "both")
    )
    steps = run(lambda: house.load(pack(archive)))
    assert "Loaded image: one:1\n" in said(steps)
    assert "Loaded image: registry.example/two:2\n" in said(steps)
    one = house.images.find("one:1")
    assert one is not None
    assert one.id == ONE.id
    assert one.size_bytes == 500 + 4 + 3
    assert house.images.catalog.raw_config(one.id) == ONE.config_bytes
    assert len(house.stores.folders()) == 2  # the base is shared
    assert house.actions() == ["load", "load"]
    assert house.stores.unfinished() == []


def test_load_without_a_name(house: House) -> None:
    steps = run(lambda: house.load(docker_archive({"<none>:1": ONE}), quiet=True))
    assert steps == [Progress(stream=f"Loaded image ID: {ONE.id}\n")]


def test_load_moves_a_name(house: House) -> None:
    run(lambda: house.load(docker_archive({"name:1": ONE})))
    steps = run(lambda: house.load(docker_archive({"name:1": OTHER})))
    assert said(steps) == (
        f"The image name:1 already exists, renaming the old one with ID {ONE.id} to empty string\n"
        "Loaded image: name:1\n"
    )
    former = house.images.find(ONE.id)
    assert former is not None
    assert former.repo_tags == ()


def test_load_shows_how_far_it_is(house: House) -> None:
    steps = run(lambda: house.load(docker_archive({"name:1": OTHER})))
    shown = BASE.diff_id.removeprefix("sha256:")[:12]
    size = len(BASE.blob)
    assert Progress(id=shown, status="Loading layer", current=size, total=size) in steps


def test_load_of_an_index_takes_the_platform_of_this_host(house: House) -> None:
    foreign = Image(layers=(TOP,), architecture="s390x")
    run(lambda: house.load(oci_layout({"multi:1": Index((foreign, ONE))})))
    assert [image.id for image in house.images.all()] == [ONE.id]


def test_load_of_an_index_for_a_platform(house: House) -> None:
    foreign = Image(layers=(TOP,), architecture="s390x")
    archive = oci_layout({"multi:1": Index((foreign, ONE))})
    run(lambda: house.load(archive, platform=platforms.parse("linux/s390x")))
    assert [image.id for image in house.images.all()] == [foreign.id]


def test_load_for_a_platform(house: House) -> None:
    foreign = Image(layers=(TOP,), architecture="s390x")
    archive = docker_archive({"a:1": ONE, "b:1": foreign})
    wanted = platforms.parse("linux/s390x")
    run(lambda: house.load(archive, platform=wanted))
    assert [image.id for image in house.images.all()] == [foreign.id]


def _before_1_10() -> bytes:
    old = {
        "aa": {"id": "aa", "created": "2014-01-01T00:00:00Z", "os": "linux", "architecture": "x"},
        "bb": {
            "id": "bb",
            "parent": "aa",
            "created": "2014-01-02T00:00:00Z",
            "config": {"Cmd": ["app"]},
            "container_config": {"Cmd": ["/bin/sh", "-c", "build"]},
        },
    }
    tree = {"repositories": file(json.dumps({"old": {"1": "bb"}}).encode())}
    for old_id, layer in (("bb", TOP), ("aa", BASE)):
        tree[f"{old_id}/json"] = file(json.dumps(old[old_id]).encode())
        tree[f"{old_id}/layer.tar"] = file(layer.tar)
        tree[f"{old_id}/VERSION"] = file(b"1.0")
    return tar(tree)


OLD = _before_1_10()


def test_load_of_an_archive_before_1_10(house: House) -> None:
    run(lambda: house.load(OLD))
    image = house.images.find("old:1")
    assert image is not None
    assert image.diff_ids == (BASE.diff_id, TOP.diff_id)
    assert image.config.config is not None
    assert image.config.config.cmd == ("app",)
    assert [h.created_by for h in image.config.history] == ["", "/bin/sh -c build"]
    assert image.parent is not None


def _with_manifest(items: object, **members: bytes) -> bytes:
    tree = {"manifest.json": file(json.dumps(items).encode())}
    return tar(tree | {name.replace("__", "."): file(data) for name, data in members.items()})


ITEM = {"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["layer"]}
CONFIG = OTHER.config_bytes


@pytest.mark.parametrize(
    ("archive", "sentence"),
    [
        (docker_archive({"x:1": ONE})[:2000], "unexpected EOF"),
        (os.urandom(3000), "archive/tar: invalid tar header"),
        (b"hi\n", "unexpected EOF"),
        (b"", "open repositories: no such file or directory"),
        (_with_manifest(None), "invalid manifest, manifest cannot be null (but can be [])"),
        (
            _with_manifest({}),
            "json: cannot unmarshal object into Go value of type []tarexport.manifestItem",
        ),
        (tar({"manifest.json": file(b'[{"Config":')}), "unexpected EOF"),
        (_with_manifest([ITEM]), "open c.json: no such file or directory"),
        (_with_manifest([ITEM], c__json=CONFIG), "open layer: no such file or directory"),
        (_with_manifest([ITEM], c__json=b"{}"), "invalid image JSON, no RootFS key"),
        (
            _with_manifest([ITEM | {"Layers": []}], c__json=CONFIG),
            "invalid manifest, layers length mismatch: expected 0, got 1",
        ),
        (
            _with_manifest([ITEM], c__json=b'{"os":"windows","rootfs":{}}'),
            "cannot load windows image on linux",
        ),
        (
            _with_manifest([ITEM], c__json=CONFIG, layer=TOP.tar),
            "invalid diffID for layer 0: expected",
        ),
        (_with_manifest([ITEM], c__json=CONFIG, layer=BASE.tar[:700]), "unexpected EOF"),
        (_with_manifest([ITEM], c__json=CONFIG, layer=b"x" * 600), "invalid tar header"),
        (
            _with_manifest([ITEM | {"RepoTags": ["UP:1"]}], c__json=CONFIG, layer=BASE.tar),
            "invalid reference format: repository name (library/UP) must be lowercase",
        ),
        (
            _with_manifest([ITEM | {"Layers": ["../../etc/shadow"]}], c__json=CONFIG),
            "open ../../etc/shadow: no such file or directory",
        ),
        (_with_manifest([ITEM], c__json=b"[" * 50_000), "exceeded max depth"),
        (_with_manifest([ITEM], c__json=b"{"), "unexpected end of JSON input"),
        (_with_manifest([ITEM], c__json=b"{x"), "looking for beginning of object key string"),
        (
            _with_manifest([ITEM], c__json=b'{"config":{"Env":"x"}}'),
            "json: cannot unmarshal string into Go struct field Image.config.Env of type []string",
        ),
        (_with_manifest([ITEM], **{"../evil": b""}), 'invalid entry name "../evil"'),
        (tar({"repositories": file(b"{")}), "unexpected EOF"),
        (
            tar({"oci-layout": file(b"{}"), "index.json": file(b'{"manifests":[]}')}),
            "index.json names no image for this host",
        ),
    ],
)
def test_a_broken_archive_leaves_nothing(house: House, archive: bytes, sentence: str) -> None:
    assert sentence in refused(house, archive)


@pytest.mark.parametrize(
    ("link", "sentence"),
    [
        (symlink("/etc/passwd"), "no such file or directory"),
        (symlink("../../../etc/passwd"), "no such file or directory"),
        (hardlink("../../../etc/passwd"), 'invalid hardlink target "../../../etc/passwd"'),
    ],
)
def test_a_member_that_leads_to_the_host(house: House, link: Any, sentence: str) -> None:
    archive = tar(
        {
            "manifest.json": file(json.dumps([ITEM]).encode()),
            "c.json": file(CONFIG),
            "layer": link,
        }
    )
    assert sentence in refused(house, archive)


def test_a_layout_whose_blob_lies(house: House) -> None:
    archive = oci_layout({"x:1": OTHER}).replace(b'"Cmd":["sh"]', b'"Cmd":["su"]')
    assert "other content than its digest says" in refused(house, archive)


def test_one_impossible_image_refuses_the_whole_archive(house: House) -> None:
    good = {"Config": "good", "RepoTags": ["good:1"], "Layers": ["base"]}
    archive = _with_manifest(
        [good, ITEM], good=CONFIG, base=BASE.tar, c__json=ONE.config_bytes, layer=b""
    )
    with pytest.raises(WharfError, match="length mismatch"):
        run(lambda: house.load(archive))
    assert house.is_empty()


def test_a_client_that_leaves_leaves_nothing(house: House) -> None:
    big = Image(layers=(Layer(tar({f"f{n}": file(os.urandom(50_000)) for n in range(60)})),))
    archive = docker_archive({"big:1": big})

    async def leave() -> None:
        async with aclosing(house.images.load(chunks(archive))) as steps:
            async for _ in steps:
                break

    async def cut_short() -> None:
        async def endless() -> AsyncIterator[bytes]:
            yield archive[:1_500_000]
            has_come.set()
            await asyncio.sleep(3600)

        has_come = asyncio.Event()
        task = asyncio.create_task(anext(house.images.load(endless())))  # type: ignore[arg-type]
        await has_come.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(cut_short)
    assert house.is_empty()
    run(leave)
    assert house.stores.unfinished() == []
    # It may have been quicker than the client: then it is there, and whole.
    assert house.is_empty() or len(list(house.stores.content.walk())) == 1


class Visit:
    """A load whose client leaves while one of its threads is kept waiting."""

    def __init__(self) -> None:
        self.has_left = threading.Event()
        self._is_reached = threading.Event()

    def wait(self) -> None:
        """In the thread: come here, and go on when the client has left."""
        self._is_reached.set()
        self.has_left.wait(10)

    async def load(self, house: House, archive: bytes) -> None:
        task = asyncio.create_task(house.load(archive, quiet=True))
        assert await asyncio.to_thread(self._is_reached.wait, 10)
        task.cancel()
        await asyncio.sleep(0.1)
        self.has_left.set()
        with pytest.raises(asyncio.CancelledError):
            await task


def test_a_large_file_is_not_unpacked_for_a_client_that_left(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Image(layers=(Layer(tar({"large": file(os.urandom(20 << 20))})),))
    archive = docker_archive({"large:1": large})
    visit = Visit()
    read = Range.read
    late: list[int] = []

    def watched(stream: Range, n: int = -1) -> bytes:
        if visit.has_left.is_set():
            late.append(n)
        elif stream.consumed > 2 << 20:
            visit.wait()
        return read(stream, n)

    stage_layer = house.stores.snapshots.stage_layer

    def stage(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(Range, "read", watched)
        return stage_layer(*args, **kwargs)

    monkeypatch.setattr(house.stores.snapshots, "stage_layer", stage)
    run(lambda: visit.load(house, archive))
    assert late == []
    assert house.is_empty()


@pytest.mark.parametrize(
    ("owner", "name", "archive"),
    [
        (load, "plan", docker_archive({"one:1": ONE})),
        (load, "legacy_order", OLD),
        (load, "legacy_names", OLD),
        (load.Loader, "_put", docker_archive({"one:1": ONE})),
        (load.Loader, "_put", OLD),
        (load.Loader, "_link_parents", docker_archive({"one:1": ONE})),
        (load.Loader, "_set_parent", OLD),
        (load.Loader, "_name", OLD),
        (Snapshots, "adopt_layer", docker_archive({"one:1": ONE})),
    ],
)
def test_archive_and_lease_outlive_the_threads_of_a_client_that_left(
    house: House, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, archive: bytes
) -> None:
    visit = Visit()
    order: list[str] = []

    def noted(owner: object, name: str, *, is_waiting: bool) -> None:
        inner = getattr(owner, name)

        def call(*args: Any) -> Any:
            if is_waiting:
                visit.wait()
            try:
                return inner(*args)
            finally:
                order.append(name)

        monkeypatch.setattr(owner, name, call)

    noted(owner, name, is_waiting=True)
    noted(Lease, "close", is_waiting=False)
    noted(Spool, "close", is_waiting=False)
    run(lambda: visit.load(house, archive))
    assert order == [name, "close", "close"]
    assert house.stores.unfinished() == []


@pytest.mark.parametrize("verb", ["load", "import_"])
def test_the_archive_is_let_go_of_in_a_thread(
    house: House, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """The pages of ten gigabytes take a second to free."""
    close = Spool.close
    closers: list[str] = []

    def noted(spool: Spool) -> None:
        closers.append(threading.current_thread().name.partition("_")[0])
        close(spool)

    async def scenario() -> None:
        async for _ in getattr(house.images, verb)(chunks(docker_archive({"one:1": ONE}))):
            pass

    monkeypatch.setattr(Spool, "close", noted)
    run(scenario)
    assert closers == ["disk"]


# Save


def files(archive: bytes) -> dict[str, bytes]:
    """The files of a tar, in order."""
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        for member in opened:
            content = opened.extractfile(member)
            if content is not None:
                found[member.name] = content.read()
    return found


def test_save_gives_the_same_bytes_each_time(house: House) -> None:
    run(lambda: house.load(docker_archive({"one:1": ONE, "two:2": OTHER})))
    first = run(lambda: house.save("one:1", "two:2"))
    assert run(lambda: house.save("one:1", "two:2")) == first
    members = files(first)
    names = list(members)
    assert names == sorted(names)
    manifest = json.loads(members["manifest.json"])
    assert [item["RepoTags"] for item in manifest] == [["one:1"], ["two:2"]]
    assert json.loads(members["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads(members["repositories"])["two"] == {"2": BASE.diff_id[7:]}
    assert len(json.loads(members["index.json"])["manifests"]) == 2
    for name, data in members.items():
        if name.startswith("blobs/sha256/"):
            assert sha256(data).endswith(name.rpartition("/")[2])


def test_what_was_saved_can_be_loaded(house: House, tmp_path: Path) -> None:
    run(lambda: house.load(docker_archive({"one:1": ONE})))
    archive = run(lambda: house.save("one:1"))
    other = House(tmp_path / "other")
    run(lambda: other.load(archive))
    assert run(lambda: other.save("one:1")) == archive
    other.stores.close()


def test_save_of_what_is_not_there(house: House) -> None:
    run(lambda: house.load(docker_archive({"one:1": ONE})))
    with pytest.raises(NoSuchImage, match="No such image: nope"):
        run(lambda: house.save("one:1", "nope"))


@pytest.mark.parametrize("number", [0, 1])
def test_a_client_that_leaves_a_save_waits_for_the_piece_under_way(
    house: House, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    run(lambda: house.load(docker_archive({"one:1": ONE})))
    begun = threading.Event()
    go_on = threading.Event()

    real = archive.save

    def save(*args: Any) -> Iterator[bytes]:
        for n, piece in enumerate(real(*args)):
            if n == number:
                begun.set()
                go_on.wait(10)
            yield piece

    monkeypatch.setattr(archive, "save", save)
    monkeypatch.setattr(store, "PIECE_BYTES", 1)

    async def leave() -> None:
        task = asyncio.ensure_future(house.save("one:1"))
        await offload.disk(begun.wait, 10)
        task.cancel()
        await asyncio.sleep(0.01)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(leave)
    assert not house.stores.snapshots.leases.names()


def test_save_by_id_has_no_name(house: House) -> None:
    run(lambda: house.load(docker_archive({"one:1": ONE})))
    saved = files(run(lambda: house.save(ONE.id[7:19])))
    (item,) = json.loads(saved["manifest.json"])
    assert item["RepoTags"] is None
    assert "repositories" not in saved


# Import


def test_import(house: House) -> None:
    async def scenario() -> list[Progress]:
        steps = house.images.import_(
            chunks(gzip.compress(BASE.tar)),
            reference.parse("made:1"),
            "by hand",
            ['CMD ["sh"]', "ENV A=1"],
            platforms.parse("linux/arm64"),
        )
        return [step async for step in steps]

    (step,) = run(scenario)
    image = house.images.find("made:1")
    assert image is not None
    assert step == Progress(status=image.id)
    assert image.config.config is not None
    assert (image.config.config.cmd, image.config.config.env) == (("sh",), ("A=1",))
    assert image.config.architecture == "arm64"
    assert image.config.comment == "by hand"
    assert image.diff_ids == (BASE.diff_id,)
    assert image.row.last_tagged_ns > 0
    assert house.actions() == ["tag", "import"]


def test_import_of_garbage_leaves_nothing(house: House) -> None:
    async def scenario() -> None:
        await anext(house.images.import_(chunks(os.urandom(3000))))

    with pytest.raises(ImportFailed, match="archive/tar: invalid tar header"):
        run(scenario)
    assert house.is_empty()


def test_an_import_whose_row_cannot_be_written_leaves_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise NoSpace("wharf.db")

    async def scenario() -> None:
        await anext(house.images.import_(chunks(gzip.compress(BASE.tar))))

    monkeypatch.setattr(house.images.catalog, "put", fail)
    with pytest.raises(NoSpace):
        run(scenario)
    assert house.is_empty()


def test_an_import_that_cannot_be_kept_on_disk_says_so(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def scenario() -> None:
        await anext(house.images.import_(chunks(BASE.tar)))

    monkeypatch.setattr(Spool, "write", fail)
    with pytest.raises(failure.DiskFailed, match=r"^no space left on device$"):
        run(scenario)
    assert house.is_empty()


# Remove and prune


def test_removing_the_last_name_removes_all(house: House) -> None:
    run(lambda: house.load(docker_archive({"one:1": ONE, "two:2": OTHER})))
    removed = run(lambda: house.images.remove("one:1"))
    top = house.stores.snapshots
    assert removed[:2] == [Removed(untagged="one:1"), Removed(deleted=ONE.id)]
    assert len(removed) == 3
    assert [x.diff_id for x in top.layers()] == [BASE.diff_id]  # the other's
    removed = run(lambda: house.images.remove(OTHER.id))
    assert removed[0] == Removed(untagged="two:2")
    assert house.is_empty()
    assert house.actions() == ["load", "load", "untag", "delete", "untag", "delete"]


def test_a_container_keeps_the_layers_of_a_removed_image(house: House) -> None:
    run(lambda: house.load(docker_archive({"one:1": ONE})))
    image = house.images.find("one:1")
    assert image is not None
    house.stores.snapshots.prepare("c", image.chain_id)
    house.images.users_of = lambda image_id: [("c" * 64, False)]
    with pytest.raises(failure.ImageInUse):
        run(lambda: house.images.remove("one:1"))
    removed = run(lambda: house.images.remove("one:1", force=True))
    assert removed == [Removed(untagged="one:1"), Removed(deleted=ONE.id)]
    assert len(house.stores.snapshots.stack(image.chain_id)) == 2
    house.stores.snapshots.remove("c")
    pruned = run(lambda: house.images.prune({}))
    assert pruned.reclaimed_bytes == 500 + 4 + 3
    assert house.is_empty()


def test_prune_of_dangling_images(house: House) -> None:
    run(lambda: house.load(docker_archive({"<none>:1": ONE, "two:2": OTHER})))
    pruned = run(lambda: house.images.prune({}))
    assert pruned.removed[0] == Removed(deleted=ONE.id)
    assert pruned.reclaimed_bytes == 3
    assert [image.id for image in house.images.all()] == [OTHER.id]
    run(lambda: house.images.prune({"dangling": ("false",)}))
    assert house.is_empty()


def test_sizes_that_images_share(house: House) -> None:
    run(lambda: house.load(docker_archive({"one:1": ONE, "two:2": OTHER})))
    listed = run(lambda: house.images.list(ImageQuery(shared_size=True)))
    assert {s.image.id: s.shared_size_bytes for s in listed} == {ONE.id: 504, OTHER.id: 504}
    usage = run(house.images.usage)
    assert sorted((u.size_bytes, u.images) for u in usage) == [(3, 1), (504, 2)]


def test_history_and_inspect(house: House) -> None:
    run(lambda: house.load(docker_archive({"one:1": ONE})))
    items = run(lambda: house.images.history("one"[:3] + ":1"))
    assert [(i.id, i.size_bytes, i.tags) for i in items] == [
        (ONE.id, 3, ("one:1",)),
        ("<missing>", 504, None),
    ]
    view = run(lambda: house.images.inspect(ONE.id[7:15]))
    assert view.raw_config == ONE.config_bytes
    assert set(view.directories) == {"LowerDir", "MergedDir", "UpperDir", "WorkDir"}
    assert os.path.isdir(view.directories["LowerDir"])


def test_everything_is_there_after_a_restart(house: House, tmp_path: Path) -> None:
    run(lambda: house.load(docker_archive({"one:1": ONE})))
    run(lambda: house.images.tag("one:1", "again", "2"))
    before = run(lambda: house.save("one:1"))
    house.stores.close()
    later = House(tmp_path / "data")
    image = later.images.find("again:2")
    assert image is not None
    assert image.repo_tags == ("again:2", "one:1")
    assert run(lambda: later.save("one:1")) == before
    later.stores.close()
