"""Archives and manifests made to deceive; ids as in tests/ATTACKS.md."""

from __future__ import annotations

import copy
import json
import os
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import images
from tests.support.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.engine import Engine, Wharf

    Completed = Any
    Give = Callable[[bytes], Completed]

pytestmark = pytest.mark.stock


@pytest.fixture(params=["load", "import"])
def give(request: pytest.FixtureRequest, engine: Engine, name: str) -> Iterator[Give]:
    """Hands a layer's tar to the engine as `name`:1, by either door; busybox is below or in it."""

    def load(layer: bytes) -> Completed:
        base = images.busybox()
        image = images.Image((*base.layers, images.Layer(layer, "none")), base.config)
        data = images.docker_archive({f"{name}:1": image})
        return engine.docker("load", input=data, check=False)

    def bring_in(layer: bytes) -> Completed:
        whole = images.tar(images.busybox_tree())
        whole = whole[: _end_of(whole)] + layer
        return engine.docker("import", "-", f"{name}:1", input=whole, check=False)

    yield {"load": load, "import": bring_in}[request.param]
    engine.docker("rmi", "-f", f"{name}:1", check=False)


def _end_of(data: bytes) -> int:
    """Where the zeros that end a tar begin."""
    return (len(data.rstrip(b"\0")) + 511) // 512 * 512


END = b"\0" * 1024


def padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 512)


def header(name: bytes, size: int = 0, kind: bytes = b"0", field: bytes = b"") -> bytes:
    """A header with a right checksum, whatever `name` and the size `field` hold."""
    info = tarfile.TarInfo("x")
    info.size, info.type, info.mode = size, kind, 0o755
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[0:100] = name.ljust(100, b"\0")
    if field:
        block[124:136] = field
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(**records: bytes) -> bytes:
    data = b""
    for key, value in records.items():
        body = b" " + key.replace("__", ".").encode() + b"=" + value + b"\n"
        length = len(body)
        while len(body) + len(str(length)) != length:
            length = len(body) + len(str(length))
        data += str(length).encode() + body
    return header(b"pax", len(data), b"x") + padded(data)


# C5


@pytest.mark.parametrize("trick", ["dotdot", "absolute", "pax", "symlink", "hardlink"])
def test_c5_a_layer_writes_nothing_outside(
    engine: Engine, name: str, give: Give, folder: Path, trick: str
) -> None:
    outside, victim = folder / "owned", folder / "victim"
    victim.write_text("secret")
    up = "../" * 40
    content = images.file(b"x")
    tricks: dict[str, bytes] = {
        "dotdot": images.tar([(up + str(outside)[1:], content)]),
        "absolute": images.tar([(str(outside), content)]),
        "pax": pax(path=(up + str(outside)[1:]).encode()) + header(b"n", 1) + padded(b"x") + END,
        "symlink": images.tar([("out", images.symlink(str(folder))), ("out/owned", content)]),
        "hardlink": images.tar([("leak", images.hardlink(up + str(victim)[1:]))]),
    }
    done = give(tricks[trick])
    assert not outside.exists()
    assert victim.read_text() == "secret"
    assert victim.stat().st_nlink == 1
    # dockerd refuses names that lead out; Wharf reads them as leading nowhere but to the root.
    refused = {"hardlink"} if engine.is_wharf else {"hardlink", "dotdot", "pax"}
    assert done.returncode == int(trick in refused), done.stderr
    if trick not in refused:
        out = engine.docker("run", "--rm", f"{name}:1", "cat", "/leak", check=False)
        assert b"No such file" in out.stderr
        return
    sentence = {"hardlink": b"no such file or directory"} if engine.is_wharf else {}
    assert sentence.get(trick, b"invalid ") in done.stderr
    assert engine.docker("image", "inspect", f"{name}:1", check=False).returncode == 1


def test_c5_a_device_node_cannot_be_opened(engine: Engine, name: str, give: Give) -> None:
    """It is unpacked, as Docker does; the device rules keep it shut (/dev/mem, /dev/loop0)."""
    nodes = {"mem": images.character_device(1, 1), "loop": images.character_device(10, 237)}
    assert give(images.tar(nodes)).returncode == 0
    script = (
        "for n in mem loop; do [ -c /$n ] && echo node; head -c1 /$n >/dev/null && echo open; done"
    )
    done = engine.docker("run", "--rm", f"{name}:1", "/bin/sh", "-c", script, check=False)
    assert done.stdout.split() == [b"node", b"node"]
    assert done.stderr.count(b"Operation not permitted") == 2


def test_c5_setuid_is_kept_and_can_be_switched_off(engine: Engine, name: str, give: Give) -> None:
    program = images.busybox_tree()["bin/["]
    assert give(images.tar({"up": images.file(program.data, mode=0o4755)})).returncode == 0
    run = ["run", "--rm", "-u", "5:6", "--entrypoint", "/bin/sh"]
    script = "ln -s /up /tmp/id && /tmp/id -u"
    assert engine.out(*run, f"{name}:1", "-c", "stat -c %a /up") == "4755"
    shut = ["--security-opt", "no-new-privileges"]
    assert engine.out(*run, *shut, f"{name}:1", "-c", script) == "5"


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (header(b"n", field=b"\xff" * 12) + END, "invalid tar header"),
        (header(b"n", field=b"-0000000001\0") + END, "invalid tar header"),
        (header(b"n", field=b"\x80" + b"\xff" * 11) + END, "invalid tar header"),
        (header(b"n", field=b"\x80\0\0\0\x7f" + b"\xff" * 7) + END, "unexpected EOF"),
        (pax(size=b"-1") + header(b"n", 3) + padded(b"abc") + END, "invalid tar header"),
        (pax(size=b"9" * 30) + header(b"n", 3) + padded(b"abc") + END, "invalid tar header"),
        (pax(size=b"abc") + header(b"n", 3) + padded(b"abc") + END, "invalid tar header"),
        (pax(path=b"a\0b") + header(b"n", 3) + padded(b"abc") + END, "invalid tar header"),
        (header(b"long", 2 << 20, b"L") + b"a" * (2 << 20) + END, "header field too long"),
        (header(b"long", 5000, b"L") + padded(b"a" * 5000) + header(b"n") + END, "too long"),
        (pax(path=b"a" * 5000) + header(b"n") + END, "too long"),
        (header(b"n", kind=b"Z") + END, "unhandled tar header type 90"),
        (
            pax(
                GNU__sparse__major=b"1",
                GNU__sparse__minor=b"0",
                GNU__sparse__name=b"s",
                GNU__sparse__realsize=b"-5",
            )
            + header(b"n", 512)
            + padded(b"1\n-1\n10\n")
            + END,
            "invalid tar header",
        ),
    ],
    ids=[
        *("negative", "octal", "overflow", "exabytes", "pax-negative", "pax-overflow", "pax-word"),
        *("nul", "longname", "longname-5k", "path-5k", "type", "sparse-negative"),
    ],
)
def test_c5_headers_that_lie_are_refused(
    engine: Engine, name: str, give: Give, layer: bytes, said: str
) -> None:
    done = give(layer)
    assert done.returncode == 1
    assert said in done.stderr.decode()
    assert engine.docker("image", "inspect", f"{name}:1", check=False).returncode == 1


@pytest.mark.beyond  # dockerd reads on until it has the gigabyte
def test_c5_a_name_of_a_gigabyte_is_not_read(wharf: Wharf, give: Give) -> None:
    before = resident(wharf)
    started = time.monotonic()
    done = give(header(b"long", 1 << 30, b"L") + b"a" * (8 << 20))
    assert done.returncode == 1
    assert "header field too long" in done.stderr.decode()
    assert time.monotonic() - started < 10
    assert resident(wharf) - before < 64 << 20


def resident(wharf: Wharf) -> int:
    """Bytes of memory of the daemon's process."""
    assert wharf.process is not None
    pages = Path(f"/proc/{wharf.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def test_c5_a_pax_size_overrides_the_header(engine: Engine, name: str, give: Give) -> None:
    """A reader that took the header's would see the rest as another member."""
    hidden = header(b"smuggled", 0)
    body = padded(b"a" * 512) + hidden
    assert give(pax(size=b"1024") + header(b"n", 3) + body + END).returncode == 0
    script = "stat -c %s /n; ls /smuggled"
    done = engine.docker("run", "--rm", f"{name}:1", "/bin/sh", "-c", script, check=False)
    assert done.stdout.split() == [b"1024"]
    assert b"No such file" in done.stderr


@pytest.mark.beyond  # dockerd writes the terabyte out
def test_c5_a_terabyte_of_hole_stays_a_hole(wharf: Wharf, name: str, give: Give) -> None:
    free = free_bytes(wharf.data_root)
    size = str(1 << 40).encode()
    sparse = pax(
        GNU__sparse__major=b"1",
        GNU__sparse__minor=b"0",
        GNU__sparse__name=b"hole",
        GNU__sparse__realsize=size,
    )
    started = time.monotonic()
    done = give(sparse + header(b"n", 512) + padded(b"1\n" + size + b"\n0\n") + END)
    assert time.monotonic() - started < 20
    assert free - free_bytes(wharf.data_root) < 1 << 30
    if done.returncode == 0:
        out = wharf.out("run", "--rm", f"{name}:1", "/bin/stat", "-c", "%s %b", "/hole")
        apparent, blocks = map(int, out.split())
        assert apparent == 1 << 40
        assert blocks < 1000


def free_bytes(path: Path) -> int:
    facts = os.statvfs(path)
    return facts.f_bavail * facts.f_frsize


@pytest.mark.beyond  # dockerd refuses all duplicates
def test_c5_of_duplicates_the_last_one_stands(engine: Engine, name: str, give: Give) -> None:
    members = [
        ("a", images.file(b"first")),
        ("a", images.directory()),
        ("a/b", images.file(b"x")),
        ("a", images.symlink("/inner")),
        ("inner", images.directory()),
        ("a/through", images.file(b"inside")),
        ("twice", images.file(b"1")),
        ("twice", images.file(b"2")),
    ]
    before = sorted(os.listdir("/"))
    done = give(images.tar(members))
    assert sorted(os.listdir("/")) == before
    assert done.returncode == 0
    script = "cat /twice; readlink /a; cat /inner/through"
    assert engine.out("run", "--rm", f"{name}:1", "/bin/sh", "-c", script) == "2/inner\ninside"


def test_c5_names_that_are_no_utf8_keep_their_bytes(engine: Engine, name: str, give: Give) -> None:
    assert give(header(b"\xff\xfe-name") + END).returncode == 0
    run = ["run", "--rm", f"{name}:1", "/bin/sh", "-c", "cd /; printf '%s' *-name | od -An -tx1"]
    assert engine.out(*run).split() == ["ff", "fe", "2d", "6e", "61", "6d", "65"]


@pytest.mark.beyond
def test_c5_overlay_attributes_do_not_come_from_a_layer(
    engine: Engine, name: str, give: Give
) -> None:
    """`opaque` would hide what is below, `redirect` show another folder: neither has an effect.

    dockerd unpacks both from a loaded layer.
    """
    own = images.Entry(
        type=tarfile.DIRTYPE,
        mode=0o755,
        pax={
            "SCHILY.xattr.trusted.overlay.opaque": "y",
            "SCHILY.xattr.trusted.overlay.redirect": "/root",
            "SCHILY.xattr.trusted.overlay.metacopy": "",
        },
    )
    assert give(images.tar([("etc", own)])).returncode == 0
    script = "ls /etc/passwd; stat -c %a /etc"
    out = engine.out("run", "--rm", f"{name}:1", "/bin/sh", "-c", script)
    assert out.split() == ["/etc/passwd", "755"]


# I1


def test_i1_a_digest_that_lies_is_refused_on_load(engine: Engine, name: str) -> None:
    image = images.on_busybox({"a": images.file(b"1")})
    data = images.docker_archive({f"{name}:1": image})
    assert b"rootfs" in data
    wrong = data.replace(image.layers[-1].diff_id.encode(), b"sha256:" + b"0" * 64)
    done = engine.docker("load", input=wrong, check=False)
    assert done.returncode == 1
    assert engine.docker("image", "inspect", f"{name}:1", check=False).returncode == 1


DOCKER, OCI = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
)
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


def edited(name: str, image: images.Image) -> tuple[dict[str, Any], str]:
    """The manifest of `image` with the lie called `name`, and the type it is served as."""
    document: dict[str, Any] = copy.deepcopy(json.loads(image.manifest))
    index = json.loads(images.Index((image,)).manifest)
    layer = document["layers"][-1]
    match name:
        case "layer type":
            layer["mediaType"] = "application/x-unheard-of"
        case "config type":
            document["config"]["mediaType"] = "application/x-unheard-of"
        case "manifest called index":
            return document, OCI_INDEX
        case "index called manifest":
            return index, DOCKER
        case "manifest and index, untold":
            del document["mediaType"]
            return document | {"manifests": index["manifests"]}, OCI
        case "index and manifest":
            return index | {"config": document["config"], "layers": document["layers"]}, OCI_INDEX
        case "type inside differs":
            document["mediaType"] = OCI_INDEX
        case "a layer too few":
            document["layers"].pop()
        case "a layer too many":
            document["layers"].append(document["layers"][0])
        case "layer size short":
            layer["size"] -= 1
        case "layer size long":
            layer["size"] += 1
        case "layer size negative":
            layer["size"] = -1
        case "manifest and index":
            document["manifests"] = index["manifests"]
        case _:
            document["schemaVersion"] = 1
    return document, DOCKER


def lie(name: str, *, beyond: bool = False) -> Any:
    return pytest.param(name, marks=[pytest.mark.beyond] if beyond else [])


@pytest.mark.parametrize(
    "name_of_lie",
    [
        lie("layer type"),
        lie("config type"),
        lie("manifest called index"),
        lie("index called manifest"),
        lie("manifest and index, untold"),
        lie("index and manifest"),
        lie("type inside differs"),
        lie("a layer too few"),
        lie("a layer too many"),
        lie("layer size short", beyond=True),
        lie("layer size long", beyond=True),
        lie("layer size negative", beyond=True),
        lie("manifest and index", beyond=True),
        lie("schema version", beyond=True),
    ],
)
def test_i1_a_manifest_that_lies_is_refused(engine: Engine, name: str, name_of_lie: str) -> None:
    image = images.on_busybox({"lie": images.file(name.encode())})
    document, media_type = edited(name_of_lie, image)
    with Registry() as registry:
        registry.add(f"{name}:good", image)
        registry.offer(f"{name}:1", json.dumps(document).encode(), media_type)
        ref = f"{registry.host}/{name}:1"
        done = engine.docker("pull", ref, check=False)
        assert done.returncode == 1, done.stdout
        assert done.stderr
        assert engine.docker("image", "inspect", ref, check=False).returncode == 1
        good = f"{registry.host}/{name}:good"
        engine.docker("pull", good)
        engine.docker("rmi", "-f", good)


# I5

OUT = "../" * 12 + "etc/shadow"


def led_out(trick: str, image: images.Image, ref: str) -> bytes:
    """An archive of the image, of which one name leads to a file of the host."""
    tree: images.Tree = {
        "config.json": images.file(image.config_bytes),
        "l/layer.tar": images.file(image.layers[0].tar),
    }
    entry: dict[str, Any] = {"Config": "config.json", "RepoTags": [ref], "Layers": ["l/layer.tar"]}
    match trick:
        case "layer above":
            entry["Layers"] = [OUT]
        case "layer absolute":
            entry["Layers"] = ["/etc/shadow"]
        case "config above":
            entry["Config"] = OUT
        case "layer is a link above":
            tree["l/layer.tar"] = images.symlink("../" + OUT)
        case "layer is an absolute link":
            tree["l/layer.tar"] = images.symlink("/etc/shadow")
        case "layer is a hard link":
            tree["l/layer.tar"] = images.hardlink("/etc/shadow")
        case "folder is a link":
            tree = {"config.json": tree["config.json"], "l": images.symlink("/etc")}
            entry["Layers"] = ["l/shadow"]
        case "config is a link":
            tree["config.json"] = images.symlink("/etc/shadow")
        case "manifest is a link":
            return images.tar(tree | {"manifest.json": images.symlink("/etc/shadow")})
        case _:
            raise AssertionError(trick)
    return images.tar(tree | {"manifest.json": images.file(json.dumps([entry]).encode())})


@pytest.mark.parametrize(
    "trick",
    [
        "layer above",
        "layer absolute",
        "config above",
        "layer is a link above",
        "layer is an absolute link",
        "layer is a hard link",
        "folder is a link",
        "config is a link",
        "manifest is a link",
    ],
)
def test_i5_an_archive_leads_to_no_file_of_the_host(engine: Engine, name: str, trick: str) -> None:
    layer = images.Layer(images.tar({"a": images.file(name.encode())}))
    data = led_out(trick, images.Image((layer,)), f"{name}:1")
    done = engine.docker("load", input=data, check=False)
    assert done.returncode == 1, done.stdout
    assert b"root:" not in done.stdout + done.stderr
    assert engine.docker("image", "inspect", f"{name}:1", check=False).returncode == 1


def test_i5_an_id_is_what_the_content_says(engine: Engine, name: str) -> None:
    image = images.Image((images.Layer(images.tar({"a": images.file(name.encode())})),))
    claimed = "0" * 64
    data = images.tar(
        {
            f"{claimed}.json": images.file(image.config_bytes),
            "layer.tar": images.file(image.layers[0].tar),
            "manifest.json": images.file(
                json.dumps(
                    [
                        {
                            "Config": f"{claimed}.json",
                            "RepoTags": [f"{name}:1"],
                            "Layers": ["layer.tar"],
                        }
                    ]
                ).encode()
            ),
        }
    )
    engine.docker("load", input=data)
    try:
        assert engine.inspect(f"{name}:1")["Id"] == image.id
    finally:
        engine.docker("rmi", f"{name}:1")
