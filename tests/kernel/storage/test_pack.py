"""A tree packed and unpacked is the same tree, whoever changes it meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import stat
import struct
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.storage import layer as layers
from engine.storage import pack
from tests.support import tars

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kernel.storage.stores import Stores

OPAQUE = "trusted.overlay.opaque"
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def layer(path: Path) -> bytes:
    with opened(path) as root:
        return b"".join(pack.layer(root))


def tree(path: Path) -> bytes:
    with opened(path) as root:
        return b"".join(pack.tree(root))


def compared(data: bytes) -> dict[str, tars.Entry]:
    """Whose a whiteout is and how old says nothing."""
    return {
        name: entry._replace(uid=0, gid=0, mtime_ns=0) if ".wh." in name else entry
        for name, entry in tars.by_name(data).items()
    }


# Random trees

_names = st.binary(min_size=1, max_size=120).filter(
    lambda name: (
        not {0, 0x2F} & {*name} and name not in (b".", b"..") and not name.startswith(b".wh.")
    )
)
_leaves = st.sampled_from(
    ["file", "big", "empty", "sparse", "symlink", "fifo", "char", "block", "whiteout", "link"]
)
_trees: st.SearchStrategy[Any] = st.recursive(
    st.dictionaries(_names, _leaves, max_size=4),
    lambda below: st.dictionaries(_names, _leaves | below, max_size=4),
    max_leaves=20,
)
_facts = st.lists(
    st.tuples(
        st.integers(0, 0o7777),
        st.integers(0, 2**32 - 2),
        st.integers(0, 2**32 - 2),
        st.integers(0, 2**33),
        st.booleans(),
    ),
    min_size=6,
    max_size=6,
)


class _Builder:
    """Makes a random tree; attributes are dealt out in turn."""

    def __init__(self, facts: list[tuple[int, int, int, int, bool]]) -> None:
        self._facts = itertools.cycle(facts)
        self._files: list[bytes] = []

    def fill(self, folder: bytes, shape: dict[bytes, Any]) -> None:
        for name, what in shape.items():
            path = folder + b"/" + name
            mode, uid, gid, mtime, flag = next(self._facts)
            self._make(path, what, flag=flag)
            if what == "whiteout":
                continue
            os.chown(path, uid, gid, follow_symlinks=False)
            if what != "symlink":
                os.chmod(path, mode)
            if flag and what in ("file", "big"):
                os.setxattr(path, "security.capability", CAPABILITY)
            if flag and isinstance(what, dict):
                os.setxattr(path, OPAQUE, b"y")
            os.utime(path, ns=(mtime * 10**9, mtime * 10**9), follow_symlinks=False)

    def _make(self, path: bytes, what: Any, *, flag: bool) -> None:
        match what:
            case "file" | "big" | "empty":
                size = {"file": 700, "big": 200_000, "empty": 0}[what]
                Path(os.fsdecode(path)).write_bytes((path * size)[:size])
                self._files.append(path)
            case "sparse":
                with open(path, "wb") as file:
                    file.truncate(150_000)
            case "symlink":
                os.symlink(b"x" * (150 if flag else 3), path)
            case "fifo":
                os.mkfifo(path)
            case "char" | "block":
                kind = stat.S_IFCHR if what == "char" else stat.S_IFBLK
                os.mknod(path, kind | 0o600, os.makedev(300 if flag else 1, 70_000))
            case "whiteout":
                os.mknod(path, stat.S_IFCHR, 0)
            case "link" if self._files:
                os.link(self._files[-1], path)
            case "link":
                os.mkfifo(path)
            case below:
                os.mkdir(path)
                self.fill(path, below)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(shape=_trees, facts=_facts)
def test_a_packed_layer_is_unpacked_as_it_was(
    stores: Stores,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: dict[bytes, Any],
    facts: Any,
) -> None:
    monkeypatch.setattr(layers, "sync", lambda _: None)  # nothing here outlives the test
    upper = tmp_path / "upper"
    shutil.rmtree(upper, ignore_errors=True)
    upper.mkdir()
    _Builder(facts).fill(os.fsencode(upper), shape)
    packed = layer(upper)
    assert layer(upper) == packed
    with opened(upper) as root:
        staged = stores.snapshots.stage_layer(pack.Pieces(pack.layer(root)), is_plain=True)
    try:
        again = Path(staged.staged.folder) / "diff"
        assert compared(layer(again)) == compared(packed)
    finally:
        staged.discard()


# What overlayfs has its own forms for


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    path = tmp_path / "upper"
    path.mkdir()
    return path


def test_whiteouts_in_all_their_forms(upper: Path) -> None:
    os.mknod(upper / "node", stat.S_IFCHR, 0)
    os.link(upper / "node", upper / "shared")
    (upper / "d").mkdir()
    os.setxattr(upper / "d", OPAQUE, b"x")
    for name in ("kept", "gone"):
        (upper / "d" / name).touch()
    os.setxattr(upper / "d" / "gone", "trusted.overlay.whiteout", b"")
    (upper / "gone-not").touch()
    os.setxattr(upper / "gone-not", "trusted.overlay.whiteout", b"")
    found = tars.by_name(layer(upper))
    assert {name: (e.kind, e.mode, e.target) for name, e in found.items() if ".wh." in name} == {
        ".wh.node": ("file", 0o600, ""),
        ".wh.shared": ("file", 0o600, ""),
        "d/.wh.gone": ("file", 0o600, ""),
    }
    assert {"d", "d/kept", "gone-not"} < {*found}
    # Seen as a plain tree, all of it is what it is.
    assert tars.by_name(tree(upper))["node"].kind == "char"


def test_attributes_of_overlayfs_and_of_users_stay_behind(upper: Path) -> None:
    (upper / "file").touch()
    for name in ("trusted.overlay.origin", "user.overlay.origin", "user.x", "trusted.x"):
        os.setxattr(upper / "file", name, b"v")
    os.setxattr(upper / "file", "security.capability", CAPABILITY)
    assert tars.by_name(layer(upper))["file"].xattrs == (("security.capability", CAPABILITY),)


def test_capabilities_lose_the_user_they_were_given_for(upper: Path) -> None:
    (upper / "file").touch()
    value = struct.pack("<IIIIII", 0x03000001, 1 << 13, 0, 0, 0, 1000)
    os.setxattr(upper / "file", "security.capability", value)
    assert tars.by_name(layer(upper))["file"].xattrs == (("security.capability", CAPABILITY),)


@pytest.mark.parametrize("attribute", ["redirect", "metacopy"])
def test_what_shows_lower_files_is_refused(upper: Path, attribute: str) -> None:
    (upper / "d").mkdir()
    os.setxattr(upper / "d", f"trusted.overlay.{attribute}", b"/x")
    with pytest.raises(pack.NotPlain, match=f"/d has the attribute trusted.overlay.{attribute}"):
        layer(upper)


def test_sockets_are_left_out(upper: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, opened(upper) as root:
        listening.bind(f"/proc/self/fd/{root}/sock")
    (upper / "file").touch()
    assert [*tars.by_name(layer(upper))] == ["file"]


def test_a_name_that_looks_like_a_compressed_stream(stores: Stores, upper: Path) -> None:
    (upper / "BZh91AY&SY").write_bytes(b"x")
    with opened(upper) as root:
        staged = stores.snapshots.stage_layer(pack.Pieces(pack.layer(root)), is_plain=True)
    assert os.listdir(Path(staged.staged.folder) / "diff") == ["BZh91AY&SY"]
    staged.discard()


# Large and deep


def test_deeper_than_there_are_descriptors(upper: Path, stores: Stores) -> None:
    upper = stores.root / "upper"  # where what is this deep can be removed
    upper.mkdir()
    fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        os.close(os.open("last", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    before = len(os.listdir("/proc/self/fd"))
    names = [entry.name for entry in tars.entries(layer(upper))]
    assert len(os.listdir("/proc/self/fd")) == before
    # Down to the longest path that there is, and every directory to its end.
    assert names.count("last") == 1
    deepest = max(name.count("/") for name in names)
    assert 2000 < deepest < 2048
    assert sum(name.endswith("last") for name in names) == (4096 - len("last")) // 2


def test_pieces_are_bounded(upper: Path) -> None:
    with open(upper / "large", "wb") as file:
        file.truncate(20 << 20)
    for number in range(3000):
        (upper / f"small-{number}").write_bytes(b"x" * 3000)
    with opened(upper) as root:
        sizes = [len(piece) for piece in pack.layer(root)]
    assert all(0 < size <= pack.PIECE_BYTES + 2 * pack.SMALL_BYTES for size in sizes)


# Changed meanwhile


def test_a_file_has_the_length_that_was_announced(upper: Path) -> None:
    for name in ("grows", "shrinks"):
        (upper / name).write_bytes(b"x" * 3_000_000)
    (upper / "zz-last").write_bytes(b"end")
    out: list[bytes] = []
    with opened(upper) as root:
        for piece in pack.layer(root):
            out.append(piece)
            if len(out) == 2:
                with open(upper / "grows", "ab") as file:
                    file.write(b"y" * 1_000_000)
            if b"shrinks" in piece:
                os.truncate(upper / "shrinks", 10)
    found = tars.by_name(b"".join(out))
    assert found["grows"].size == found["shrinks"].size == 3_000_000
    assert found["zz-last"].size == 3


def test_what_goes_or_turns_into_something_else_is_left_out(upper: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("host")
    (upper / "a").write_bytes(b"x" * 100_000)
    for name in ("b", "c", "d"):
        (upper / name).mkdir()
        (upper / name / "inside").touch()
    for name in ("e", "f", "g"):
        (upper / name).touch()
    with opened(upper) as root:
        pieces = pack.tree(root)
        out = [next(pieces)]  # all names of the root have been read
        shutil.rmtree(upper / "b")
        shutil.rmtree(upper / "c")
        (upper / "c").symlink_to(tmp_path / "secret")
        (upper / "e").unlink()
        (upper / "f").unlink()
        os.mkfifo(upper / "f")
        (upper / "g").unlink()
        (upper / "g").symlink_to(tmp_path / "secret" / "key")
        out += pieces
    found = tars.by_name(b"".join(out))
    assert [*found] == ["a", "c", "d", "d/inside", "f", "g"]
    assert [found[name].kind for name in "cfg"] == ["symlink", "fifo", "symlink"]


def test_renames_never_lead_out(upper: Path, tmp_path: Path) -> None:
    """A directory and a link that leads out of the tree are exchanged without end."""
    secret = tmp_path / "secret"
    secret.mkdir()
    for number in range(20):
        (secret / f"host-{number}").write_text("host")
    for number in range(40):
        (upper / f"d{number}").mkdir()
        (upper / f"d{number}" / "own").write_text("own")
        (upper / f"l{number}").symlink_to(secret)
    is_over = threading.Event()

    def exchange() -> None:
        for number in itertools.cycle(range(40)):
            if is_over.is_set():
                return
            os.rename(upper / f"d{number}", upper / "aside")
            os.rename(upper / f"l{number}", upper / f"d{number}")
            os.rename(upper / f"d{number}", upper / f"l{number}")
            os.rename(upper / "aside", upper / f"d{number}")

    racing = threading.Thread(target=exchange)
    racing.start()
    try:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            names = [entry.name for entry in tars.entries(tree(upper))]
            assert not [name for name in names if "host" in name]
    finally:
        is_over.set()
        racing.join()


def test_a_device_in_the_place_of_a_file_is_never_opened(
    upper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening one may act on the host."""
    for number in range(30):
        (upper / f"f{number}").touch()
    is_over = threading.Event()

    def exchange() -> None:
        os.mknod(upper / "device", stat.S_IFCHR, os.makedev(1, 3))
        for number in itertools.cycle(range(30)):
            if is_over.is_set():
                return
            os.rename(upper / f"f{number}", upper / "aside")
            os.rename(upper / "device", upper / f"f{number}")
            os.rename(upper / f"f{number}", upper / "device")
            os.rename(upper / "aside", upper / f"f{number}")

    opened_kinds: set[int] = set()
    real_open = os.open

    def watched(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        fd = real_open(path, flags, *args, **kwargs)
        if not flags & os.O_PATH:
            opened_kinds.add(stat.S_IFMT(os.fstat(fd).st_mode))
        return fd

    monkeypatch.setattr(os, "open", watched)
    racing = threading.Thread(target=exchange)
    racing.start()
    try:
        end = time.monotonic() + 2
        while time.monotonic() < end:
            tree(upper)
    finally:
        is_over.set()
        racing.join()
    assert opened_kinds <= {stat.S_IFREG, stat.S_IFDIR}


def test_a_directory_that_moves_while_it_is_read_is_read_to_its_end(upper: Path) -> None:
    """So deep that its parents had to be let go; above it everything goes on."""
    deep = upper / "a" / "/".join(["d"] * 100)
    deep.mkdir(parents=True)
    (deep / "large").write_bytes(b"x" * 200_000)
    (deep / "last").touch()
    (upper / "a" / "e").touch()
    (upper / "z").touch()
    out: list[bytes] = []
    with opened(upper) as root:
        for piece in pack.tree(root):
            if not out:
                os.rename(upper / "a" / "d", upper / "moved")
            out.append(piece)
    names = [entry.name for entry in tars.entries(b"".join(out))]
    assert names[-4:] == [
        str((deep / "large").relative_to(upper)),
        str((deep / "last").relative_to(upper)),
        "a/e",
        "z",
    ]


def test_a_failing_disk_is_told(upper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (upper / "file").write_bytes(b"x")

    def read(_fd: int, _n: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "read", read)
    with pytest.raises(OSError, match="Input/output error"):
        layer(upper)
