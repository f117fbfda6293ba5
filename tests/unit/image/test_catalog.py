"""Names, ids, lists, removal and prune, on images without layers: nothing is unpacked."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from engine.errors import EngineError, InvalidParameter, NoSuchImage, WharfError
from engine.events import EventBus
from engine.image import failure
from engine.image.catalog import MissingLayer
from engine.image.model import ImageQuery, Removed
from engine.image.store import Images
from engine.oci import digest, reference
from engine.oci import platform as platforms
from engine.oci.digest import Digest, ImageId
from engine.storage.content import Content
from engine.storage.database import Database, Table
from engine.storage.snapshots import Snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engine.oci.reference import Reference

SHA = "sha256:" + "a1" * 32


class House:
    def __init__(self, root: Path) -> None:
        self.database = Database(str(root / "wharf.db"))
        self.content = Content(str(root / "content"))
        self.events = EventBus()
        self.snapshots = Snapshots(str(root), self.database)
        self.images = Images(self.database, self.content, self.snapshots, self.events)
        self.users: dict[str, list[tuple[str, bool]]] = {}
        self.images.users_of = lambda image_id: self.users.get(image_id, [])
        self.images.users = lambda: self.users

    def put(self, mark: str, *names: str, parent: str | None = None, **config: Any) -> ImageId:
        document = {
            "os": "linux",
            "architecture": "amd64",
            "created": f"2024-01-{len(self.images.all()) + 1:02}T00:00:00Z",
            "author": mark,
            "rootfs": {"type": "layers"},
        } | config
        data = json.dumps(document).encode()
        self.content.put(data)
        image_id = ImageId(digest.of(data))
        references = [reference.parse(name) for name in names]
        given = ImageId(parent) if parent else None
        return self.images.catalog.put(image_id, names=references, parent=given).id

    def remove(self, ref: str, **options: Any) -> list[Removed]:
        return list(asyncio.run(self.images.remove(ref, **options)))

    def names(self, **filters: tuple[str, ...]) -> list[str]:
        query = ImageQuery(filters={k.replace("_", "!"): v for k, v in filters.items()})
        return [s.image.config.author for s in asyncio.run(self.images.list(query))]

    def actions(self) -> list[str]:
        return [event.action for event in self.events.past(since_ns=0)]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    found = House(tmp_path)
    yield found
    found.database.close()


# Finding


def test_found_by_any_of_its_names(house: House) -> None:
    image_id = house.put("a", "busybox", f"busybox@{SHA}", "host:5000/x/y:2")
    hexadecimal = image_id.removeprefix("sha256:")
    for ref in (
        "busybox",
        "busybox:latest",
        "docker.io/library/busybox",
        f"busybox@{SHA}",
        f"busybox:whatever@{SHA}",
        "host:5000/x/y:2",
        image_id,
        hexadecimal,
        hexadecimal[:12],
        hexadecimal[:1],
        f"sha256:{hexadecimal[:5]}",
    ):
        found = house.images.find(ref)
        assert found is not None, ref
        assert found.id == image_id
    assert found.repo_tags == ("busybox:latest", "host:5000/x/y:2")
    assert found.repo_digests == (f"busybox@{SHA}",)


@pytest.mark.parametrize(
    ("ref", "shown"),
    [
        ("nope", "nope:latest"),
        ("docker.io/library/nope:1", "nope:1"),
        ("sha256:abcd", "sha256:abcd"),
        ("a1" * 32, SHA),
        (f"nope@{SHA}", f"nope@{SHA}"),
    ],
)
def test_not_found(house: House, ref: str, shown: str) -> None:
    with pytest.raises(NoSuchImage) as caught:
        asyncio.run(house.images.get(ref))
    assert str(caught.value) == f"No such image: {shown}"


def test_an_ambiguous_beginning_means_none(house: House) -> None:
    ids = [house.put(str(n)).removeprefix("sha256:") for n in range(40)]
    first = max({i[0] for i in ids}, key=lambda c: sum(i[0] == c for i in ids))
    assert sum(i[0] == first for i in ids) > 1
    assert house.images.find(first) is None


def test_a_name_counts_more_than_an_id(house: House) -> None:
    other = house.put("other")
    image_id = house.put("a", other.removeprefix("sha256:")[:12])
    found = house.images.find(other.removeprefix("sha256:")[:12])
    assert found is not None
    assert found.id == image_id


def test_another_platform(house: House) -> None:
    house.put("a", "a:1")
    with pytest.raises(failure.PlatformMismatch) as caught:
        asyncio.run(house.images.get("a:1", platforms.parse("linux/arm64")))
    assert str(caught.value) == (
        "image with reference a:1 was found but its platform (linux/amd64) does not match "
        "the specified platform (linux/arm64)"
    )
    assert asyncio.run(house.images.get("a:1", platforms.parse("linux/amd64")))


def test_an_image_without_its_layers_is_refused(house: House) -> None:
    with pytest.raises(MissingLayer):
        house.put("a", rootfs={"type": "layers", "diff_ids": [SHA]})
    assert house.images.all() == []


# Naming


def test_a_tag_moves(house: House) -> None:
    first, second = house.put("a", "name:1"), house.put("b")
    asyncio.run(house.images.tag(second, "name", "1"))
    found = house.images.find("name:1")
    assert found is not None
    assert found.id == second
    assert found.row.last_tagged_ns > 0
    former = house.images.find(first)
    assert former is not None
    assert former.repo_tags == ()
    (event,) = house.events.past(since_ns=0)
    assert (event.action, event.actor_id) == ("tag", second)
    assert event.attributes == {"name": "name:1"}


@pytest.mark.parametrize(
    ("repo", "sentence"),
    [
        ("sha256", "refusing to create an ambiguous tag using digest algorithm as name"),
        ("UP", "invalid reference format: repository name (library/UP) must be lowercase"),
        (f"a@{SHA}", "cannot import digest reference"),
    ],
)
def test_names_that_cannot_be_given(house: House, repo: str, sentence: str) -> None:
    image_id = house.put("a")
    with pytest.raises(InvalidParameter) as caught:
        asyncio.run(house.images.tag(image_id, repo))
    assert str(caught.value) == sentence


def test_a_digest_means_one_image_for_good(house: House) -> None:
    house.put("a", f"a@{SHA}")
    with pytest.raises(failure.DigestTaken, match=f"cannot overwrite digest {SHA}"):
        house.put("b", f"a@{SHA}", "b:1")
    assert house.images.find("b:1") is None


def test_everything_is_there_after_a_restart(house: House, tmp_path: Path) -> None:
    parent = house.put("p", "p:1")
    house.put("c", "c:1", f"c@{SHA}", parent=parent)
    before = sorted(house.images.all(), key=lambda i: i.id)
    house.database.close()
    later = House(tmp_path)
    assert sorted(later.images.all(), key=lambda i: i.id) == before
    assert later.images.catalog.has_children(parent)
    later.database.close()


def test_an_image_whose_config_is_lost_is_out_of_sight(house: House, tmp_path: Path) -> None:
    lost, kept = house.put("lost", "lost:1"), house.put("kept", "kept:1")
    house.content.delete(digest.parse(lost))
    house.database.close()
    later = House(tmp_path)
    assert [image.id for image in later.images.all()] == [kept]
    assert later.images.find("lost:1") is None
    later.database.close()


# Lists


def test_filters_of_a_list(house: House) -> None:
    house.put("one", "one:1", config={"Labels": {"a": "1", "b": "2"}})
    parent = house.put("two", "two:2", "user/two:2")
    house.put("none", parent=parent, config={"Labels": {"a": "2"}})
    middle = house.put("middle")
    house.put("leaf", "leaf:1", parent=middle)
    assert house.names() == ["leaf", "none", "two", "one"]
    assert house.names(dangling=("true",)) == ["none"]
    assert house.names(dangling=("false",)) == ["leaf", "two", "one"]
    assert house.names(label=("a",)) == ["none", "one"]
    assert house.names(label=("a=1", "b")) == ["one"]
    assert house.names(reference=("two*",)) == ["two"]
    assert house.names(reference=("*/two", "one:1")) == ["two", "one"]
    assert house.names(before=("two:2",)) == ["one"]
    assert house.names(since=("two:2",)) == ["leaf", "none"]
    assert house.names(until=("2024-01-02T00:00:00Z",)) == ["one"]
    everything = asyncio.run(house.images.list(ImageQuery(all=True)))
    assert len(everything) == 5


def test_a_reference_filter_shows_the_names_it_means(house: House) -> None:
    house.put("two", "two:2", "user/two:2")
    query = ImageQuery(filters={"reference": ("two",)})
    (summary,) = asyncio.run(house.images.list(query))
    assert summary.repo_tags == ("two:2",)


@pytest.mark.parametrize(
    ("filters", "kind", "sentence"),
    [
        ({"foo": ("x",)}, InvalidParameter, "invalid filter 'foo'"),
        ({"dangling": ("zz",)}, InvalidParameter, "invalid filter 'dangling=[zz]'"),
        ({"until": ("zz",)}, EngineError, 'failed to parse value as time or duration: "zz"'),
        ({"reference": ("[x",)}, EngineError, "syntax error in pattern"),
    ],
)
def test_filters_that_are_none(
    house: House, filters: dict[str, tuple[str, ...]], kind: type[WharfError], sentence: str
) -> None:
    house.put("a", "a:1")
    with pytest.raises(kind) as caught:
        asyncio.run(house.images.list(ImageQuery(filters=filters)))
    assert str(caught.value) == sentence


# Removal


def test_a_name_goes_alone_if_others_remain(house: House) -> None:
    house.put("a", "a:1", "b:1")
    assert house.remove("a:1") == [Removed(untagged="a:1")]
    assert house.images.find("b:1") is not None
    assert house.actions() == ["untag"]


def test_the_last_tag_takes_the_digests_of_its_repository(house: House) -> None:
    image_id = house.put("a", "a:1", f"a@{SHA}")
    assert house.remove("a:1") == [
        Removed(untagged="a:1"),
        Removed(untagged=f"a@{SHA}"),
        Removed(deleted=image_id),
    ]
    assert list(house.content.walk()) == []


def test_an_id_with_one_name_takes_it_along(house: House) -> None:
    image_id = house.put("a", "a:1")
    assert house.remove(image_id[7:15]) == [Removed(untagged="a:1"), Removed(deleted=image_id)]


def test_an_id_with_several_names_needs_force(house: House) -> None:
    image_id = house.put("a", "a:1", "b:1")
    with pytest.raises(failure.DeleteConflict) as caught:
        house.remove(image_id)
    assert str(caught.value) == (
        f"conflict: unable to delete {image_id[7:19]} (must be forced) - "
        "image is referenced in multiple repositories"
    )
    assert house.remove(image_id, force=True) == [
        Removed(untagged="a:1"),
        Removed(untagged="b:1"),
        Removed(deleted=image_id),
    ]


def test_the_name_of_an_image_in_use(house: House) -> None:
    image_id = house.put("a", "a:1")
    house.users[image_id] = [("c" * 64, False)]
    with pytest.raises(failure.ImageInUse) as caught:
        house.remove("a:1")
    assert str(caught.value) == (
        'conflict: unable to remove repository reference "a:1" (must force) - container '
        f"{'c' * 12} is using its referenced image {image_id[7:19]}"
    )


@pytest.mark.parametrize(
    ("is_running", "how", "kind"),
    [(True, "cannot be forced", "running"), (False, "must be forced", "stopped")],
)
def test_an_image_in_use(house: House, is_running: bool, how: str, kind: str) -> None:
    image_id = house.put("a", "a:1")
    house.users[image_id] = [("c" * 64, is_running)]
    with pytest.raises(failure.DeleteConflict) as caught:
        house.remove(image_id)
    assert str(caught.value) == (
        f"conflict: unable to delete {image_id[7:19]} ({how}) - "
        f"image is being used by {kind} container {'c' * 12}"
    )
    if is_running:
        with pytest.raises(failure.DeleteConflict):
            house.remove(image_id, force=True)
        assert house.remove("a:1", force=True) == [Removed(untagged="a:1")]
        assert house.images.find(image_id) is not None


def test_parents_go_with_the_last_child(house: House) -> None:
    grandparent = house.put("g")
    parent = house.put("p", parent=grandparent)
    child = house.put("c", "c:1", parent=parent)
    with pytest.raises(failure.DeleteConflict, match="image has dependent child images"):
        house.remove(parent, force=True)
    assert house.remove("c:1") == [
        Removed(untagged="c:1"),
        Removed(deleted=child),
        Removed(deleted=parent),
        Removed(deleted=grandparent),
    ]


def test_parents_stay_if_told_so(house: House) -> None:
    parent = house.put("p")
    house.put("c", "c:1", parent=parent)
    assert len(house.remove("c:1", prune=False)) == 2
    assert house.images.find(parent) is not None


def test_several_platforms(house: House) -> None:
    house.put("a", "a:1")
    with pytest.raises(InvalidParameter, match="multiple platforms are not supported"):
        house.remove("a:1", platforms=(platforms.default(), platforms.default()))


# Prune


def test_prune(house: House) -> None:
    house.put("tagged", "a:1")
    used = house.put("used")
    house.users[used] = [("c" * 64, False)]
    dangling = house.put("dangling")
    only_digest = house.put("digest", f"d@{SHA}")
    pruned = asyncio.run(house.images.prune({}))
    assert {r.deleted for r in pruned.removed} == {"", dangling, only_digest}
    assert house.names() == ["used", "tagged"]
    assert house.actions()[-1] == "prune"
    asyncio.run(house.images.prune({"dangling": ("false",)}))
    assert house.names() == ["used"]


def test_filters_of_a_prune(house: House) -> None:
    house.put("a", config={"Labels": {"keep": "1"}})
    house.put("b", config={"Labels": {"drop": "1"}})
    asyncio.run(house.images.prune({"label!": ("keep",), "until": ("2024-01-01T12:00:00Z",)}))
    assert house.names() == ["b", "a"]
    asyncio.run(house.images.prune({"label": ("drop=1",)}))
    assert house.names() == ["a"]
    with pytest.raises(EngineError, match="more than one until filter specified"):
        asyncio.run(house.images.prune({"until": ("1h", "2h")}))
    with pytest.raises(InvalidParameter, match="invalid filter 'before'"):
        asyncio.run(house.images.prune({"before": ("a",)}))


def test_one_prune_at_a_time(house: House) -> None:
    async def both() -> list[object]:
        return await asyncio.gather(
            house.images.prune({}), house.images.prune({}), return_exceptions=True
        )

    results = asyncio.run(both())
    assert sum(isinstance(r, failure.PruneRunning) for r in results) == 1


def test_a_sweep_leaves_what_is_held(house: House) -> None:
    house.put("a", "a:1")
    unnamed, held = house.content.put(b"unnamed"), house.content.put(b"held")
    with house.snapshots.lease() as lease:
        lease.add(held)
        asyncio.run(house.images.sweep())
        assert not house.content.has(unnamed)
        assert house.content.has(held)
    asyncio.run(house.images.sweep())
    assert not house.content.has(held)
    assert house.images.find("a:1") is not None


def test_labels_in_events(house: House) -> None:
    image_id = house.put("a", "a:1", config={"Labels": {"l": "v"}})
    house.remove("a:1")
    untag, delete = house.events.past(since_ns=0)
    assert untag.attributes == {"l": "v", "name": image_id}
    assert delete.attributes == {"name": image_id}


def test_the_event_of_a_pull(house: House) -> None:
    house.put("a", "a:1", config={"Labels": {"l": "v"}})
    pulled: Reference = reference.parse("a:1")
    house.images.publish_pull(pulled)
    (event,) = house.events.past(since_ns=0)
    assert (event.action, event.actor_id) == ("pull", "a:1")
    assert event.attributes == {"l": "v", "name": "a"}


# Beside each other


def test_reading_never_waits_for_a_change(house: House) -> None:
    image_id = house.put("a", "a:1")
    found: list[bool] = []

    def read() -> None:
        catalog = house.images.catalog
        found.append(catalog.find("a:1") is not None and catalog.by_id(image_id) is not None)
        found.append(bool(catalog.all() and catalog.references(image_id)))
        found.append(house.snapshots.layers() == [] and house.snapshots.keys() == [])

    # What a change holds for as long as it lasts.
    with house.images.catalog._changes, house.snapshots._changes:
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(10)
    assert found == [True, True, True]


def test_files_are_removed_while_nothing_is_locked(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.put("a", "a:1")
    other = house.put("b", "b:1")
    done: list[ImageId] = []

    def remove_folders(_: object) -> None:
        changer = threading.Thread(
            target=lambda: done.append(house.images.catalog.put(other).id), daemon=True
        )
        changer.start()
        changer.join(10)

    monkeypatch.setattr(house.snapshots, "remove_folders", remove_folders)
    house.remove("a:1")
    assert done == [other]


def test_a_removal_reads_no_other_image(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        house.put(str(number))
    monkeypatch.setattr(Table, "items", lambda _: pytest.fail("all rows are read again"))
    assert len(asyncio.run(house.images.prune({})).removed) == 20
    assert list(house.content.walk()) == []


def test_rows_that_cannot_be_read_are_passed_over_and_keep_what_is_theirs(
    house: House, tmp_path: Path
) -> None:
    kept = house.put("kept", "kept:1")
    blob = house.content.put(b"of the unreadable one")
    house.database.table("image").put("sha256:" + "0" * 64, b"no row at all")
    house.database.table("tag").put("docker.io/library/broken:1", b"nor a name")
    house.database.close()
    later = House(tmp_path)
    assert [image.id for image in later.images.all()] == [kept]
    asyncio.run(later.images.sweep())
    later.remove("kept:1")
    assert {digest for digest, _ in later.content.walk()} == {kept, blob}
    later.database.close()


@pytest.mark.parametrize("ref", ["{id}", "{short}", "broken:1"])
def test_one_that_was_damaged_can_be_given_up(house: House, tmp_path: Path, ref: str) -> None:
    """Until then nothing is swept, as nobody knows what is its."""
    kept = house.put("kept", "kept:1")
    broken = house.put("broken", "broken:1", "broken:2")
    with open(house.content.path(Digest(broken)), "r+b") as file:
        file.write(b"[")
    house.database.close()
    later = House(tmp_path)
    assert [image.id for image in later.images.all()] == [kept]
    text = ref.format(id=broken, short=broken.partition(":")[2][:12])
    removed = asyncio.run(later.images.remove(text))
    assert [one.deleted for one in removed] == [broken]
    assert {digest for digest, _ in later.content.walk()} == {kept}
    with pytest.raises(NoSuchImage):
        asyncio.run(later.images.remove(text))
    later.database.close()
    again = House(tmp_path)
    assert [image.id for image in again.images.all()] == [kept]
    assert again.images.find("broken:2") is None
    again.database.close()
