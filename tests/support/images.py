"""Images for tests, made from nothing but the host's static busybox and a few bytes.

    tree = {"etc/motd": file(b"hello\\n"), "tmp": directory(mode=0o1777), "sh": symlink("busybox")}
    image = Image(layers=(Layer(tar(tree)),), config={"Cmd": ["cat", "/etc/motd"]})
    docker_archive({"motd:latest": image})      # what `docker load` takes
    oci_layout({"motd:latest": image})

Everything is deterministic: the same tree gives the same tar, digests and image id on each machine
with the same busybox. `busybox()` and `hello_world()` have the shape of the official images.

`python -m tests.support.images busybox hello-world | docker load` makes them by hand.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import zstandard

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Compression = Literal["none", "gzip", "zstd"]
Family = Literal["docker", "oci"]

CREATED = "2024-09-26T21:31:42Z"
_MTIME = 1_727_386_302
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
ARCHITECTURE = _ARCHITECTURES.get(platform.machine(), platform.machine())
"""This machine, as images name it."""

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


# Trees and tars


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One member of a tar; `type` is one of tarfile's type bytes."""

    type: bytes = tarfile.REGTYPE
    mode: int = 0o644
    data: bytes = b""
    target: str = ""
    uid: int = 0
    gid: int = 0
    device: tuple[int, int] = (0, 0)
    mtime: int = _MTIME
    pax: Mapping[str, str] = field(default_factory=dict[str, str])


Tree = dict[str, Entry]


def file(data: bytes = b"", *, mode: int = 0o644, uid: int = 0, gid: int = 0) -> Entry:
    return Entry(data=data, mode=mode, uid=uid, gid=gid)


def directory(*, mode: int = 0o755, uid: int = 0, gid: int = 0) -> Entry:
    return Entry(type=tarfile.DIRTYPE, mode=mode, uid=uid, gid=gid)


def symlink(target: str) -> Entry:
    return Entry(type=tarfile.SYMTYPE, mode=0o777, target=target)


def hardlink(target: str) -> Entry:
    """Another name of `target`, a path in the same tree or in a layer below."""
    return Entry(type=tarfile.LNKTYPE, mode=0o755, target=target)


def fifo(*, mode: int = 0o644) -> Entry:
    return Entry(type=tarfile.FIFOTYPE, mode=mode)


def character_device(major: int, minor: int, *, mode: int = 0o666) -> Entry:
    return Entry(type=tarfile.CHRTYPE, mode=mode, device=(major, minor))


def whiteout(path: str) -> Tree:
    """The member that deletes `path` of a lower layer."""
    parent, _, name = path.rpartition("/")
    return {f"{parent}/.wh.{name}" if parent else f".wh.{name}": file()}


def opaque(path: str) -> Tree:
    """The members that hide all that lower layers have in the directory `path`."""
    return {path: directory(), f"{path}/.wh..wh..opq": file()}


def _tar_info(path: str, entry: Entry) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type = entry.type
    info.mode = entry.mode
    info.uid, info.gid = entry.uid, entry.gid
    info.mtime = entry.mtime
    info.size = len(entry.data)
    info.linkname = entry.target
    info.devmajor, info.devminor = entry.device
    info.pax_headers = dict(entry.pax)
    return info


def tar(members: Tree | Sequence[tuple[str, Entry]]) -> bytes:
    """The members in the order given: nothing is sorted, and nothing is refused.

    Pairs instead of a tree allow what a tree cannot say, such as one name twice.
    """
    out = io.BytesIO()
    pairs = members.items() if isinstance(members, dict) else members
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, entry in pairs:
            archive.addfile(_tar_info(path, entry), io.BytesIO(entry.data))
    return out.getvalue()


# Layers, images, indexes


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def compress(data: bytes, compression: Compression) -> bytes:
    match compression:
        case "none":
            return data
        case "gzip":
            return gzip.compress(data, compresslevel=6, mtime=0)
        case "zstd":
            return zstandard.ZstdCompressor(level=3, write_content_size=False).compress(data)


_LAYER_TYPES: dict[tuple[Family, Compression], str] = {
    ("docker", "none"): "application/vnd.docker.image.rootfs.diff.tar",
    ("docker", "gzip"): "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ("docker", "zstd"): "application/vnd.docker.image.rootfs.diff.tar.zstd",
    ("oci", "none"): "application/vnd.oci.image.layer.v1.tar",
    ("oci", "gzip"): "application/vnd.oci.image.layer.v1.tar+gzip",
    ("oci", "zstd"): "application/vnd.oci.image.layer.v1.tar+zstd",
}
_MANIFEST_TYPES: dict[Family, str] = {
    "docker": "application/vnd.docker.distribution.manifest.v2+json",
    "oci": "application/vnd.oci.image.manifest.v1+json",
}
_CONFIG_TYPES: dict[Family, str] = {
    "docker": "application/vnd.docker.container.image.v1+json",
    "oci": "application/vnd.oci.image.config.v1+json",
}
_INDEX_TYPES: dict[Family, str] = {
    "docker": "application/vnd.docker.distribution.manifest.list.v2+json",
    "oci": "application/vnd.oci.image.index.v1+json",
}


def _json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}


@dataclass(frozen=True)
class Layer:
    tar: bytes
    compression: Compression = "gzip"

    @functools.cached_property
    def blob(self) -> bytes:
        """What a registry stores."""
        return compress(self.tar, self.compression)

    @functools.cached_property
    def digest(self) -> str:
        return sha256(self.blob)

    @functools.cached_property
    def diff_id(self) -> str:
        return sha256(self.tar)


@dataclass(frozen=True)
class Image:
    """`config` is the inner document ("Cmd", "Env" …); `extra` is merged into the outer one."""

    layers: tuple[Layer, ...]
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    architecture: str = ARCHITECTURE
    os: str = "linux"
    variant: str = ""
    family: Family = "docker"
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @functools.cached_property
    def config_bytes(self) -> bytes:
        variant = {"variant": self.variant} if self.variant else {}
        document = {
            "architecture": self.architecture,
            "config": dict(self.config),
            "created": CREATED,
            "history": [
                {"created": CREATED, "created_by": f"tests: layer {n}"}
                for n in range(len(self.layers))
            ],
            "os": self.os,
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in self.layers]},
        }
        return _json(document | variant | dict(self.extra))

    @functools.cached_property
    def id(self) -> str:
        return sha256(self.config_bytes)

    @functools.cached_property
    def manifest(self) -> bytes:
        return _json(
            {
                "schemaVersion": 2,
                "mediaType": self.media_type,
                "config": _descriptor(_CONFIG_TYPES[self.family], self.config_bytes),
                "layers": [
                    _descriptor(_LAYER_TYPES[self.family, layer.compression], layer.blob)
                    for layer in self.layers
                ],
            }
        )

    @property
    def media_type(self) -> str:
        return _MANIFEST_TYPES[self.family]

    @functools.cached_property
    def digest(self) -> str:
        return sha256(self.manifest)

    @property
    def platform(self) -> dict[str, str]:
        variant = {"variant": self.variant} if self.variant else {}
        return {"architecture": self.architecture, "os": self.os} | variant

    def blobs(self) -> dict[str, bytes]:
        """Config and layers by digest: all that the manifest speaks of."""
        return {self.id: self.config_bytes} | {layer.digest: layer.blob for layer in self.layers}


@dataclass(frozen=True)
class Index:
    """A manifest list (family "docker") or an image index ("oci") over images, in order."""

    images: tuple[Image, ...]
    family: Family = "oci"

    @property
    def media_type(self) -> str:
        return _INDEX_TYPES[self.family]

    @functools.cached_property
    def manifest(self) -> bytes:
        return _json(
            {
                "schemaVersion": 2,
                "mediaType": self.media_type,
                "manifests": [
                    _descriptor(image.media_type, image.manifest) | {"platform": image.platform}
                    for image in self.images
                ],
            }
        )

    @functools.cached_property
    def digest(self) -> str:
        return sha256(self.manifest)


# Archives


def docker_archive(images: Mapping[str, Image]) -> bytes:
    """The older archive: `manifest.json`, `<id>.json` and `<digest>/layer.tar`, tags by image.

    Layers lie in it as they are compressed; a tag like "<none>:1" leaves its image nameless.
    """
    tree: Tree = {}
    entries: dict[str, dict[str, Any]] = {}
    for tag, image in images.items():
        entry = entries.setdefault(image.id, _archive_entry(tree, image))
        if not tag.startswith("<none>"):
            entry["RepoTags"].append(tag)
    tree["manifest.json"] = file(_json(list(entries.values())))
    return tar(tree)


def _archive_entry(tree: Tree, image: Image) -> dict[str, Any]:
    config = image.id.removeprefix("sha256:") + ".json"
    tree[config] = file(image.config_bytes)
    names: list[str] = []
    for layer in image.layers:
        folder = layer.digest.removeprefix("sha256:")
        names.append(f"{folder}/layer.tar")
        tree.setdefault(folder, directory())
        tree.setdefault(names[-1], file(layer.blob))
    return {"Config": config, "RepoTags": list[str](), "Layers": names}


def oci_layout(images: Mapping[str, Image | Index], *, with_manifest_json: bool = False) -> bytes:
    """An OCI image layout as a tar; with `manifest.json` too it is what Docker 25 on saves."""
    blobs: dict[str, bytes] = {}
    entries: list[dict[str, Any]] = []
    for tag, image in images.items():
        blobs |= _all_blobs(image)
        entries.append(
            _descriptor(image.media_type, image.manifest) | {"annotations": _annotations(tag)}
        )
    tree: Tree = {"blobs": directory(), "blobs/sha256": directory()}
    tree |= {"blobs/" + digest.replace(":", "/"): file(blob) for digest, blob in blobs.items()}
    tree["index.json"] = file(
        _json({"schemaVersion": 2, "mediaType": _INDEX_TYPES["oci"], "manifests": entries})
    )
    if with_manifest_json:
        tree["manifest.json"] = file(_json(_manifest_json(images)))
    tree["oci-layout"] = file(_json({"imageLayoutVersion": "1.0.0"}))
    return tar(tree)


def _all_blobs(image: Image | Index) -> dict[str, bytes]:
    parts = image.images if isinstance(image, Index) else (image,)
    blobs = {image.digest: image.manifest}
    for part in parts:
        blobs |= part.blobs() | {part.digest: part.manifest}
    return blobs


def _annotations(tag: str) -> dict[str, str]:
    """containerd wants the whole name, everyone else the tag."""
    repository, _, version = tag.rpartition(":")
    if "/" not in repository:
        repository = f"library/{repository}"
    return {
        "io.containerd.image.name": f"docker.io/{repository}:{version}",
        "org.opencontainers.image.ref.name": version,
    }


def _manifest_json(images: Mapping[str, Image | Index]) -> list[dict[str, Any]]:
    return [
        {
            "Config": "blobs/" + image.id.replace(":", "/"),
            "RepoTags": [tag],
            "Layers": ["blobs/" + layer.digest.replace(":", "/") for layer in image.layers],
        }
        for tag, image in images.items()
        if isinstance(image, Image)
    ]


# Programs


def program(text: bytes, *, status: int = 0) -> bytes:
    """A static ELF executable that writes `text` to stdout and exits with `status`.

    It is assembled here (x86-64 and arm64), so an image with a program needs no compiler.
    """
    machine, assemble = _MACHINES[ARCHITECTURE]
    base, headers = 0x400000, 64 + 56
    code = assemble(text, status)
    size = headers + len(code) + len(text)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    entry = base + headers
    elf = struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x10000)
    return ident + elf + load + code + text


def _x86_64(text: bytes, status: int) -> bytes:
    tail = b"\xba" + struct.pack("<I", len(text)) + b"\x0f\x05"  # mov edx, length; syscall (write)
    tail += b"\xb8\x3c\0\0\0\xbf" + struct.pack("<I", status) + b"\x0f\x05"  # exit(status)
    head = b"\xb8\x01\0\0\0\xbf\x01\0\0\0"  # mov eax, 1 (write); mov edi, 1
    return head + b"\x48\x8d\x35" + struct.pack("<i", len(tail)) + tail  # lea rsi, [rip + text]


def _arm64(text: bytes, status: int) -> bytes:
    def mov(register: int, value: int) -> int:
        return 0xD2800000 | value << 5 | register

    def adr(register: int, offset: int) -> int:
        return 0x10000000 | (offset & 3) << 29 | (offset >> 2) << 5 | register

    svc = 0xD4000001
    words = [mov(0, 1), adr(1, 4 * 7), mov(2, len(text)), mov(8, 64), svc]
    words += [mov(0, status), mov(8, 93), svc]
    return struct.pack("<8I", *words)


_MACHINES = {"amd64": (62, _x86_64), "arm64": (183, _arm64)}

HELLO = b"""
Hello from Docker!
This message shows that your installation appears to be working correctly.

"""


# The two images everybody knows


@functools.cache
def hello_world() -> Image:
    """One layer with one static program, `/hello`, as the official image has it."""
    tree: Tree = {"hello": file(program(HELLO), mode=0o755)}
    return Image((Layer(tar(tree)),), {"Cmd": ["/hello"], "Env": [PATH], "WorkingDir": "/"})


PASSWD = b"""root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
sync:x:4:100:sync:/bin:/bin/sync
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
operator:x:37:37:Operator:/var:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""
GROUP = b"""root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
wheel:x:10:root
mail:x:8:
audio:x:29:
www-data:x:33:
utmp:x:43:
plugdev:x:46:
staff:x:50:
lock:x:54:
users:x:100:
nobody:x:65534:
"""


def busybox_path() -> str:
    """The host's statically linked busybox (Debian: busybox-static)."""
    found = shutil.which("busybox", path="/bin:/usr/bin:/usr/local/bin")
    if found is None:
        raise FileNotFoundError("tests need a static busybox (Debian: busybox-static)")
    return os.path.realpath(found)


@functools.cache
def _busybox_program() -> tuple[bytes, tuple[str, ...]]:
    path = busybox_path()
    listed = subprocess.run([path, "--list"], check=True, capture_output=True, text=True)
    with open(path, "rb") as program_file:
        return program_file.read(), tuple(sorted({*listed.stdout.split(), "busybox"}))


@functools.cache
def busybox_tree() -> Tree:
    """A root filesystem like that of the official busybox: all applets one inode in /bin."""
    data, applets = _busybox_program()
    first, *others = applets
    tree: Tree = {"bin": directory(), f"bin/{first}": file(data, mode=0o755)}
    tree |= {f"bin/{name}": hardlink(f"bin/{first}") for name in others}
    return tree | {
        "dev": directory(),
        "etc": directory(),
        "etc/group": file(GROUP),
        "etc/passwd": file(PASSWD),
        "etc/shadow": file(b"root:*:10933:0:99999:7:::\n", mode=0o600),
        "home": directory(uid=65534, gid=65534),
        "lib": directory(),
        "lib64": symlink("lib"),
        "root": directory(mode=0o700),
        "tmp": directory(mode=0o1777),
        "usr": directory(),
        "usr/bin": directory(),
        "usr/bin/env": hardlink(f"bin/{first}"),
        "usr/sbin": directory(uid=1, gid=1),
        "var": directory(),
        "var/spool": directory(),
        "var/spool/mail": directory(uid=8, gid=8),
        "var/www": directory(uid=33, gid=33),
    }


@functools.cache
def busybox() -> Image:
    return Image((Layer(tar(busybox_tree())),), {"Cmd": ["sh"], "Env": [PATH]})


def on_busybox(*trees: Tree, config: Mapping[str, Any] | None = None) -> Image:
    """busybox with one more layer for each tree and these keys of its config changed."""
    base = busybox()
    layers = base.layers + tuple(Layer(tar(tree)) for tree in trees)
    return Image(layers, {**base.config, **(config or {})})


BY_NAME = {"busybox": busybox, "hello-world": hello_world}


def main(names: Sequence[str]) -> None:
    """Write a docker-archive of the images named to stdout."""
    images = {f"{name}:latest": BY_NAME[name]() for name in names or tuple(BY_NAME)}
    sys.stdout.buffer.write(docker_archive(images))


if __name__ == "__main__":
    main(sys.argv[1:])
