"""Layers: unpacked as the archive says, within their folder, and the same archive again."""

from __future__ import annotations

import bz2
import ctypes
import gzip
import hashlib
import io
import lzma
import os
import stat
import struct
import subprocess
import tarfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.linux import tree
from engine.oci.digest import DiffId
from engine.storage.layer import CorruptLayer, DiffIdMismatch
from engine.storage.recipe import DamagedLayer
from engine.storage.snapshots import LayerMissing, TooDeep
from tests.kernel.storage.stores import Stores
from tests.support.images import (
    Entry,
    character_device,
    directory,
    fifo,
    file,
    hardlink,
    opaque,
    symlink,
    tar,
    whiteout,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.storage.snapshots import Mount

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)

BASE = {".dockerenv", "dev", "etc", "proc", "sys"}
"""What a container's root has even above an image that is empty."""


def digest_of(data: bytes) -> DiffId:
    return DiffId("sha256:" + hashlib.sha256(data).hexdigest())


def mounted(mounts: list[Mount], look: Callable[[Path], object], target: Path) -> object:
    """What `look` finds with the mounts made, in a mount namespace of a child process."""
    (mount,) = mounts
    target.mkdir(exist_ok=True)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.unshare(0x20000) == 0
            assert libc.mount(b"none", b"/", None, 0x4C000, None) == 0
            if mount.base:
                os.chdir(mount.base)
            flags, data = (0x1000, None)
            if mount.type == "overlay":
                flags, data = 0, ",".join(mount.options).encode()
            source = mount.source.encode()
            if libc.mount(source, os.fsencode(target), mount.type.encode(), flags, data) != 0:
                os.write(write, os.strerror(ctypes.get_errno()).encode())
            else:
                os.write(write, repr(look(target)).encode())
                status = 0
        finally:
            os._exit(status)
    os.close(write)
    with open(read, "rb") as pipe:
        answer = pipe.read().decode()
    assert os.waitpid(pid, 0)[1] == 0, answer
    return eval(answer)


# Faithfulness


def test_everything_a_layer_can_hold(stores: Stores) -> None:
    blob = os.urandom(3_000_000)
    name = "n" * 60 + "/" + "m" * 120
    archive = tar(
        {
            "etc": directory(mode=0o750, uid=7, gid=8),
            "etc/passwd": file(b"root\n", mode=0o640, uid=1000, gid=70000),
            "bin": directory(mode=0o1777),
            "bin/su": file(b"x", mode=0o6755, uid=5),
            "bin/blob": file(blob),
            "bin/empty": file(),
            "bin/link": symlink("../etc/passwd"),
            "bin/hard": hardlink("bin/su"),
            "pipe": fifo(mode=0o600),
            "null": character_device(1, 3),
            "n" * 60: directory(),
            name: file(b"long"),
            "ping": Entry(data=b"p", mode=0o755, pax={"SCHILY.xattr.user.note": "hi"}),
        }
    )
    layer = stores.extract(archive)
    root = Path(stores.diff(layer))

    status = (root / "etc/passwd").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1000, 70000, 0o640)
    assert stat.S_IMODE((root / "etc").stat().st_mode) == 0o750
    assert stat.S_IMODE((root / "bin").stat().st_mode) == 0o1777
    assert (root / "etc").stat().st_mtime == 1_727_386_302
    assert (root / "bin/blob").read_bytes() == blob
    assert os.readlink(root / "bin/link") == "../etc/passwd"
    assert (root / "bin/hard").stat().st_ino == (root / "bin/su").stat().st_ino
    assert (root / name).read_bytes() == b"long"
    assert stat.S_ISFIFO((root / "pipe").stat().st_mode)
    assert (root / "null").stat().st_rdev == os.makedev(1, 3)
    assert os.getxattr(root / "ping", "user.note") == b"hi"
    assert layer.diff_id == digest_of(archive)
    assert layer.tar_bytes == len(archive)
    assert layer.size_bytes == 3_000_000 + 5 + 1 + len("../etc/passwd") + 4 + 1
    assert stores.tar(layer) == archive


def test_capabilities_and_nanoseconds_survive(stores: Stores) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("ping")
        info.size, info.mode, info.uid = 1, 0o4755, 9
        info.pax_headers = {
            "SCHILY.xattr.security.capability": CAPABILITY.decode("latin-1"),
            "mtime": "1700000000.123456789",
        }
        archive.addfile(info, io.BytesIO(b"p"))
    # tarfile writes UTF-8; these bytes are all below 0x80 but for none, so they are as meant.
    ping = Path(stores.diff(stores.extract(out.getvalue()))) / "ping"
    assert os.getxattr(ping, "security.capability") == CAPABILITY
    assert ping.stat().st_mtime_ns == 1_700_000_000_123_456_789
    assert stat.S_IMODE(ping.stat().st_mode) == 0o4755


@pytest.mark.parametrize("format_", ["v7", "ustar", "gnu", "posix", "oldgnu"])
def test_what_gnu_tar_writes(stores: Stores, tmp_path: Path, format_: str) -> None:
    source = tmp_path / "source"
    (source / "deep/er").mkdir(parents=True)
    (source / "deep/er/file").write_bytes(b"content")
    os.link(source / "deep/er/file", source / "deep/hard")
    (source / "deep/link").symlink_to("er/file")
    if format_ not in ("v7", "ustar"):
        (source / ("x" * 200)).write_bytes(b"long name")
        with open(source / "sparse", "wb") as holes:
            holes.seek(1 << 20)
            holes.write(b"data")
            holes.truncate(5 << 20)
    (source / b"caf\xe9".decode("latin-1")).write_bytes(b"x")
    os.rename(os.fsencode(source) + "/café".encode(), os.fsencode(source) + b"/caf\xe9")
    sparse = ["--sparse"] if format_ not in ("v7", "ustar") else []
    archive = subprocess.run(
        ["tar", f"--format={format_}", *sparse, "-cf", "-", "-C", str(source), "."],
        check=True,
        capture_output=True,
    ).stdout
    layer = stores.extract(archive)
    assert stores.tar(layer) == archive
    found = subprocess.run(
        ["diff", "-r", "--no-dereference", str(source), stores.diff(layer)],
        check=False,
        capture_output=True,
    )
    assert found.returncode == 0, found.stdout
    if format_ not in ("v7", "ustar"):
        assert os.stat(stores.diff(layer) + "/sparse").st_blocks < 1024


@pytest.mark.parametrize(
    "pack",
    [
        bytes,
        gzip.compress,
        lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]),
        zstandard.ZstdCompressor().compress,
        bz2.compress,
        lzma.compress,
    ],
    ids=["none", "gzip", "gzip-members", "zstd", "bzip2", "xz"],
)
def test_any_compression(stores: Stores, pack: Callable[[bytes], bytes]) -> None:
    archive = tar({"a": file(b"x" * 5000), "b": file(os.urandom(9000))})
    layer = stores.extract(pack(archive), diff_id=digest_of(archive))
    assert stores.tar(layer) == archive


_names = st.lists(
    st.sampled_from(["a", "b", "dir", ".wh.a", ".wh..wh..opq", "..", ".", "é"]),
    min_size=1,
    max_size=4,
).map("/".join)
_entries = st.one_of(
    st.binary(max_size=1500).map(file),
    st.just(directory()),
    _names.map(symlink),
    _names.map(hardlink),
    st.just(fifo()),
)


@settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, *HealthCheck]
)
@given(st.lists(st.tuples(_names, _entries), max_size=12))
def test_whatever_is_unpacked_gives_the_same_archive(
    stores: Stores, members: list[tuple[str, Entry]]
) -> None:
    archive = tar(members)
    before = stores.folders()
    try:
        layer = stores.extract(archive)
    except CorruptLayer:
        assert stores.folders() == before
    else:
        assert stores.tar(layer) == archive
    assert stores.unfinished() == []


# Names given twice


def test_a_name_given_twice(stores: Stores) -> None:
    archive = tar(
        [
            ("d", directory()),
            ("d/a", file(b"first")),
            ("d/a", file(b"second!")),
            ("d", file(b"no directory any more")),
            ("d", directory(mode=0o700)),
            ("d/a", file(b"third")),
            ("s", symlink("d")),
            ("s/b", file(b"through the link")),
            ("s", file(b"no link any more")),
        ]
    )
    layer = stores.extract(archive)
    root = Path(stores.diff(layer))
    assert (root / "d/a").read_bytes() == b"third"
    assert (root / "d/b").read_bytes() == b"through the link"
    assert (root / "s").read_bytes() == b"no link any more"
    assert stores.tar(layer) == archive
    assert layer.size_bytes == len(b"third" + b"through the link" + b"no link any more")


# Nothing leads out


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that no archive may touch."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "victim").write_text("safe")
    return folder


def test_names_that_lead_out(stores: Stores, outside: Path) -> None:
    archive = tar(
        [
            ("../../outside/new", file(b"x")),
            (f"{outside}/absolute", file(b"x")),
            ("out", symlink(str(outside))),
            ("out/through", file(b"x")),
            ("up", symlink("../../../../../../../../../../.." + str(outside))),
            ("up/through", file(b"x")),
            ("up/.wh.victim", file()),
            ("hard", hardlink(f"..{outside}/through")),
        ]
    )
    layer = stores.extract(archive)
    assert sorted(p.name for p in outside.iterdir()) == ["victim"]
    assert (outside / "victim").read_text() == "safe"
    # Each went where it would have gone had the layer been the whole file system.
    inside = Path(stores.diff(layer)) / str(outside).lstrip("/")
    assert (inside / "through").read_bytes() == b"x"
    assert stat.S_ISCHR((inside / "victim").lstat().st_mode)
    assert stores.tar(layer) == archive


def test_a_hard_link_to_a_file_of_the_host(stores: Stores, outside: Path) -> None:
    archive = tar([("link", symlink(str(outside))), ("grab", hardlink("link/victim"))])
    with pytest.raises(CorruptLayer, match="no such file or directory"):
        stores.extract(archive)
    assert (outside / "victim").stat().st_nlink == 1


def test_attributes_of_overlayfs_are_not_taken(stores: Stores) -> None:
    attributes = {
        f"SCHILY.xattr.trusted.overlay.{name}": value
        for name, value in (("redirect", "/etc"), ("metacopy", ""), ("opaque", "y"))
    }
    archive = tar({"d": Entry(type=tarfile.DIRTYPE, mode=0o755, pax=attributes)})
    folder = stores.diff(stores.extract(archive)) + "/d"
    assert os.listxattr(folder) == []


@pytest.mark.parametrize(
    ("archive", "sentence"),
    [
        (b"garbage" * 200, "invalid tar header"),
        (tar({"a": file(b"x" * 4000)})[:2000], "unexpected EOF"),
        (tar({"a": file(b"x")})[:300], "unexpected EOF"),
        (gzip.compress(tar({"a": file(os.urandom(9000))}))[:4000], "unexpected EOF"),
        (gzip.compress(b"x")[:10] + b"\xff" * 900, "gzip"),
        (b"\x28\xb5\x2f\xfd" + b"\xff" * 900, "zstd"),
        (tar({"a/.wh..": file()}), "invalid whiteout"),
        (tar({"a/.wh...": file()}), "invalid whiteout"),
        (tar({"a/.wh.": file()}), "invalid whiteout"),
        (tar({"l": hardlink("missing")}), "link /missing /l: no such file or directory"),
        (tar({"l": hardlink("l")}), "invalid hardlink"),
        (tar({"a": Entry(data=b"x", uid=0xFFFFFFFF)}), "invalid owner"),
        (tar({"d": directory(), "l": hardlink("d")}), "operation not permitted"),
        (tar({"/".join("a" * 3000): file()}), "file name too long"),
        (tar({"n" * 300: file()}), "file name too long"),
        (tar({"a" * (2 << 20): file()}), "header field too long"),
        (tar({"l": symlink("l"), "l/x": file()}), "too many levels of symbolic links"),
        (tar({"a": Entry(type=b"V")}), "unhandled tar header type 86"),
    ],
)
def test_what_is_no_layer_leaves_nothing(stores: Stores, archive: bytes, sentence: str) -> None:
    with pytest.raises(CorruptLayer, match=sentence):
        stores.extract(archive)
    assert stores.folders() == set()
    assert stores.unfinished() == []
    assert stores.snapshots.layers() == []


def test_a_directory_that_cannot_have_its_attributes_leaves_no_descriptor(stores: Stores) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("d")
        info.type = tarfile.DIRTYPE
        info.pax_headers = {"SCHILY.xattr.without-namespace": "x"}
        archive.addfile(info)
    stores.extract(tar({"warm": file()}))
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises((CorruptLayer, OSError)):
        stores.extract(out.getvalue())
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_layer_that_is_not_the_one_named(stores: Stores) -> None:
    with pytest.raises(DiffIdMismatch):
        stores.extract(tar({"a": file()}), diff_id=digest_of(b"other"))
    assert stores.folders() == set()
    assert stores.unfinished() == []


def test_deep_paths(stores: Stores) -> None:
    deepest = "a/" * 2040
    archive = tar({deepest + "n" * 250: file(b"deep"), deepest + "m": file(b"er")})
    layer = stores.extract(archive)
    assert layer.size_bytes == 6
    assert stores.tar(layer) == archive
    assert tree.usage(stores.diff(layer)) == 6
    assert stores.release(layer) == [layer]
    assert stores.folders() == set()
    assert stores.unfinished() == []


def test_cancelled_unpacking_leaves_nothing(stores: Stores) -> None:
    archive = tar({f"f{n}": file(b"x") for n in range(50)})
    stop = threading.Event()
    stop.set()
    with pytest.raises(InterruptedError):
        stores.snapshots.stage_layer(io.BytesIO(archive), is_cancelled=stop.is_set)
    assert stores.unfinished() == []


def test_a_source_that_fails(stores: Stores) -> None:
    class Broken(io.BytesIO):
        def read(self, n: int | None = -1, /) -> bytes:
            if self.tell() > 0:
                raise ConnectionResetError("gone")
            return super().read(n)

    packed = gzip.compress(tar({"a": file(os.urandom(1 << 20))}))
    with pytest.raises(ConnectionResetError):
        stores.snapshots.stage_layer(Broken(packed))
    assert stores.unfinished() == []


# Whiteouts, seen through overlayfs


def test_whiteouts_hide_what_is_below(stores: Stores, tmp_path: Path) -> None:
    bottom = stores.extract(
        tar(
            {
                "gone": file(b"x"),
                "kept": file(b"x"),
                "dir": directory(),
                "dir/old": file(b"x"),
                "again": directory(),
                "again/old": file(b"x"),
            }
        )
    )
    top_tar = tar(
        [
            *whiteout("gone").items(),
            *opaque("dir").items(),
            ("dir/new", file(b"x")),
            *whiteout("again").items(),
            ("again", directory()),
            ("again/new", file(b"x")),
        ]
    )
    top = stores.extract(top_tar, bottom.chain_id)

    def names(root: Path) -> list[str]:
        return sorted(str(p.relative_to(root)) for p in root.rglob("*"))

    found = mounted(stores.snapshots.view_mounts(top.chain_id), names, tmp_path / "m")
    assert found == ["again", "again/new", "dir", "dir/new", "kept"]
    assert stores.tar(top) == top_tar


def test_an_opaque_root_hides_everything(stores: Stores, tmp_path: Path) -> None:
    bottom = stores.extract(tar({"old": file(b"x")}))
    top = stores.extract(tar({".wh..wh..opq": file(), "new": file(b"x")}), bottom.chain_id)
    found = mounted(
        stores.snapshots.view_mounts(top.chain_id), lambda root: os.listdir(root), tmp_path / "m"
    )
    assert found == ["new"]


def test_a_whiteout_beside_its_file_keeps_the_file(stores: Stores) -> None:
    archive = tar([("a", file(b"x")), (".wh.a", file()), (".wh.b", file()), ("b", file(b"y"))])
    root = Path(stores.diff(stores.extract(archive)))
    assert (root / "a").read_bytes() == b"x"
    assert (root / "b").read_bytes() == b"y"


# What the layers below know


def test_directories_left_out_are_as_below(stores: Stores) -> None:
    bottom = stores.extract(
        tar({"tmp": directory(mode=0o1777), "tmp/x": directory(mode=0o700, uid=5, gid=6)})
    )
    top = stores.extract(tar({"tmp/x/file": file(b"x"), "new/file": file()}), bottom.chain_id)
    root = Path(stores.diff(top))
    assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777
    status = (root / "tmp/x").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (5, 6, 0o700)
    assert (root / "tmp").stat().st_mtime == 1_727_386_302
    assert stat.S_IMODE((root / "new").stat().st_mode) == 0o755


def test_a_hard_link_to_a_file_below_becomes_a_copy(stores: Stores) -> None:
    bottom = stores.extract(tar({"bin": directory(), "bin/a": file(b"below", mode=0o4755, uid=3)}))
    archive = tar({"bin": directory(), "bin/b": hardlink("bin/a")})
    top = stores.extract(archive, bottom.chain_id)
    copy = Path(stores.diff(top)) / "bin/b"
    assert copy.read_bytes() == b"below"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o4755
    assert top.size_bytes == 5
    assert stores.tar(top) == archive


def test_a_hard_link_to_a_file_hidden_below(stores: Stores) -> None:
    bottom = stores.extract(tar({"a": file(b"below")}))
    middle = stores.extract(tar(whiteout("a")), bottom.chain_id)
    with pytest.raises(CorruptLayer, match="no such file"):
        stores.extract(tar({"b": hardlink("a")}), middle.chain_id)
    assert stores.unfinished() == []


# Stacks


def test_the_same_tar_is_unpacked_once(stores: Stores, tmp_path: Path) -> None:
    archive = tar({"a": file(b"x")})
    other = stores.extract(tar({"o": file(b"o")}))
    alone = stores.extract(archive)
    upon = stores.extract(archive, other.chain_id)
    twice = stores.extract(archive, upon.chain_id)
    assert alone.folder == upon.folder == twice.folder
    assert len(stores.folders()) == 2
    stores.snapshots.prepare("c", twice.chain_id)
    found = mounted(stores.snapshots.mounts("c"), lambda r: {*os.listdir(r)}, tmp_path / "m")
    assert found - BASE == {"a", "o"}
    assert stores.release(alone) == [alone]
    assert stores.tar(upon) == archive


def test_a_stack_as_deep_as_may_be(stores: Stores, tmp_path: Path) -> None:
    parent = None
    for n in range(128):
        parent = stores.extract(tar({f"f{n}": file(b"x")}), parent).chain_id
    stores.snapshots.prepare("deep", parent)
    found = mounted(
        stores.snapshots.mounts("deep"), lambda r: len({*os.listdir(r)} - BASE), tmp_path / "m"
    )
    assert found == 128
    with pytest.raises(TooDeep, match="max depth exceeded"):
        stores.extract(tar({"more": file()}), parent)
    assert stores.unfinished() == []


def test_writing_goes_to_the_container(stores: Stores, tmp_path: Path) -> None:
    layer = stores.extract(tar({"a": file(b"below")}))
    stores.snapshots.prepare("key", layer.chain_id)

    def write(root: Path) -> int:
        return (root / "a").write_bytes(b"0123456789") + (root / "b").write_bytes(b"xy")

    mounted(stores.snapshots.mounts("key"), write, tmp_path / "m")
    assert stores.snapshots.usage("key") == 12
    assert (Path(stores.diff(layer)) / "a").read_bytes() == b"below"
    stores.snapshots.remove("key")
    stores.snapshots.remove("key")
    assert not stores.snapshots.exists("key")
    assert stores.folders() == {layer.folder}


def test_a_missing_parent(stores: Stores) -> None:
    with pytest.raises(LayerMissing):
        stores.extract(tar({"a": file()}), stores.snapshots.layers and digest_of(b"none"))  # type: ignore[arg-type]
    with pytest.raises(LayerMissing):
        stores.snapshots.prepare("key", digest_of(b"none"))  # type: ignore[arg-type]
    assert stores.folders() == set()


def test_a_layer_that_was_tampered_with(stores: Stores) -> None:
    layer = stores.extract(tar({"a": file(b"0123456789")}))
    os.truncate(stores.diff(layer) + "/a", 3)
    with pytest.raises(DamagedLayer, match="shorter"):
        stores.tar(layer)
    os.unlink(stores.diff(layer) + "/a")
    os.symlink("/etc/hostname", stores.diff(layer) + "/a")
    with pytest.raises(DamagedLayer, match="missing"):
        stores.tar(layer)


# Sweeping


def test_a_sweep_takes_what_nobody_needs(stores: Stores) -> None:
    bottom = stores.extract(tar({"a": file()}))
    top = stores.extract(tar({"b": file()}), bottom.chain_id)
    alone = stores.extract(tar({"c": file()}))
    held = stores.extract(tar({"d": file()}))
    stores.snapshots.prepare("key", alone.chain_id)
    with stores.snapshots.lease() as lease:
        lease.add(held.chain_id)
        assert stores.sweep({top.chain_id}) == []
    assert stores.sweep({top.chain_id}) == [held]
    assert stores.sweep(()) == [top, bottom]
    assert stores.snapshots.layers() == [alone]
    stores.snapshots.remove("key")
    assert stores.sweep(()) == [alone]
    assert stores.folders() == set()
    assert os.listdir(os.path.join(stores.snapshots.root, "l")) == []


def test_what_every_container_finds_is_not_its_own(stores: Stores, tmp_path: Path) -> None:
    stores.snapshots.prepare("bare", None)

    def look(root: str) -> tuple[list[str], str, int]:
        etc = os.path.join(root, "etc")
        mode = stat.S_IMODE(os.stat(os.path.join(root, ".dockerenv")).st_mode)
        return sorted(os.listdir(etc)), os.readlink(os.path.join(etc, "mtab")), mode

    found = mounted(stores.snapshots.mounts("bare"), look, tmp_path / "m")
    assert found == (["hostname", "hosts", "mtab", "resolv.conf"], "/proc/mounts", 0o755)
    assert os.listdir(stores.snapshots.upper("bare")) == []
    assert stores.snapshots.usage("bare") == 0


def test_what_a_container_finds_stands_above_its_image(stores: Stores, tmp_path: Path) -> None:
    """As in dockerd: empty files in place of the image's, folders in place of links, modes kept."""
    below = stores.extract(tar({"dev": directory(mode=0o700), "proc": file(b"none")}))
    image = stores.extract(
        tar(
            {
                "etc": directory(mode=0o750, uid=5, gid=6),
                "etc/hosts": file(b"text"),
                "etc/resolv.conf": symlink("../run/none"),
                "etc/mtab": file(b"text"),
                "etc/kept": file(b"text"),
                "sys": symlink("/etc"),
            }
        ),
        below.chain_id,
    )
    stores.snapshots.prepare("c", image.chain_id)

    def look(root: str) -> dict[str, tuple[int, int, int, int]]:
        names = ("etc", "etc/hosts", "etc/resolv.conf", "etc/kept", "proc", "sys", "dev")
        found = {name: os.lstat(os.path.join(root, name)) for name in names}
        assert os.readlink(os.path.join(root, "etc/mtab")) == "/proc/mounts"
        return {n: (s.st_mode, s.st_uid, s.st_gid, s.st_size) for n, s in found.items()}

    found = mounted(stores.snapshots.mounts("c"), look, tmp_path / "m")
    assert found["etc"][:3] == (stat.S_IFDIR | 0o750, 5, 6)
    assert found["etc/hosts"] == found["etc/resolv.conf"] == (stat.S_IFREG | 0o755, 0, 0, 0)
    assert found["etc/kept"][3] == 4
    assert found["proc"][:3] == found["sys"][:3] == (stat.S_IFDIR | 0o755, 0, 0)
    assert found["dev"][0] == stat.S_IFDIR | 0o700
    assert os.listdir(stores.snapshots.upper("c")) == []


def test_containers_of_one_image_share_what_stands_above_it(stores: Stores) -> None:
    image = stores.extract(tar({"etc": directory(mode=0o700)}))
    for key, parent in (("a", image.chain_id), ("b", image.chain_id), ("c", None)):
        stores.snapshots.prepare(key, parent)
    tops = [
        stores.snapshots.directories(key)["LowerDir"].partition(":")[0] for key in ("a", "b", "c")
    ]
    assert tops[0] == tops[1] != tops[2]
    stores.snapshots.remove("c")
    again = Stores(stores.root)
    again.snapshots.sweep_folders()
    assert [os.path.exists(top) for top in tops] == [True, True, False]
    again.close()


def test_a_snapshots_row_that_cannot_be_read_keeps_all_layers(stores: Stores) -> None:
    below = stores.extract(tar({"a": file()}))
    alone = stores.extract(tar({"b": file()}))
    stores.snapshots.prepare("key", below.chain_id)
    stores.database.table("snapshot").put("key", b"no row")
    stores.close()
    again = Stores(stores.root)
    again.snapshots.sweep_folders()
    assert again.snapshots.keys() == []
    assert again.sweep(()) == again.release(alone) == []
    assert again.folders() == {below.folder, alone.folder, "key"}
    again.snapshots.remove("key")
    assert again.release(alone) == [alone]
    assert again.release(below) == [below]
    again.close()


def test_a_row_of_a_layer_that_cannot_be_read_keeps_every_folder(stores: Stores) -> None:
    stores.database.table("layer").put(digest_of(b"some"), b"no row")
    os.mkdir(os.path.join(stores.snapshots.root, "its-folder"))
    stores.close()
    again = Stores(stores.root)
    again.snapshots.sweep_folders()
    assert again.snapshots.layers() == []
    assert again.folders() == {"its-folder"}
    again.close()
