"""Volumes and mounts as the stock client asks for them, on either engine."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.support import images

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.engine import Engine


# Images as mounts


@pytest.fixture
def layered(built: Callable[..., str]) -> str:
    """Two layers over busybox; the upper one hides a file of the lower."""
    low, high = images.file(b"low\n"), images.file(b"high\n")
    return built({"tree/low": low, "tree/both": low}, {"tree/both": high})


def _of_image(image: str, *words: str) -> tuple[str, str]:
    return "--mount", ",".join((f"type=image,src={image},dst=/i", *words))


def test_an_image_of_several_layers_is_mounted(engine: Engine, layered: str) -> None:
    script = "cat /i/tree/low /i/tree/both; touch /i/x 2>&1; ls /i/bin/busybox"
    done = engine.docker("run", "--rm", *_of_image(layered), "busybox", "sh", "-c", script)
    assert done.stdout.decode().splitlines() == [
        "low",
        "high",
        "touch: /i/x: Read-only file system",
        "/i/bin/busybox",
    ]
    assert b"WARNING: Image mount is an experimental feature" in done.stderr


def test_an_image_of_many_layers_is_mounted(engine: Engine, built: Callable[..., str]) -> None:
    """More than the options of one mount have room for, were each layer's path in them."""
    image = built(*({f"tree/{number}": images.file()} for number in range(100)))
    mounted = _of_image(image, "image-subpath=tree")
    assert len(engine.out("run", "--rm", *mounted, "busybox", "ls", "/i").split()) == 100


@pytest.mark.parametrize(
    ("mounted", "place"), [("/etc", "/etc/resolv.conf"), ("/i", "/i/none")], ids=["file", "folder"]
)
def test_nothing_is_made_in_a_mounted_image(
    engine: Engine, folder: Path, mounted: str, place: str
) -> None:
    image, folders = f"type=image,src=busybox,dst={mounted}", f"{folder}:/i/none"
    flags = ["--mount", image, *(["-v", folders] if mounted == "/i" else [])]
    done = engine.docker("run", "--rm", *flags, "busybox", "true", check=False)
    said = f'create mountpoint for {place} mount: make mountpoint "{place}": '
    assert re.search(re.escape(said) + "(mkdirat .*: )?read-only file system", done.stderr.decode())


def test_a_part_of_an_image_is_mounted(engine: Engine, layered: str) -> None:
    mounted = _of_image(layered, "image-subpath=tree")
    assert engine.out("run", "--rm", *mounted, "busybox", "ls", "/i").split() == ["both", "low"]
    file = _of_image(layered, "image-subpath=tree/both")
    assert engine.out("run", "--rm", *file, "busybox", "cat", "/i") == "high"


def test_two_images_at_once_and_again(engine: Engine, layered: str, name: str) -> None:
    second = "--mount", "type=image,src=busybox,dst=/j,image-subpath=bin"
    script = "cat /i/tree/low; ls /j/busybox"
    mounted = (*_of_image(layered), *second)
    engine.docker("create", "--name", name, *mounted, "busybox", "sh", "-c", script)
    for _ in range(2):
        assert engine.out("start", "-a", name).split() == ["low", "/j/busybox"]


def test_a_part_that_an_image_does_not_have(engine: Engine, layered: str) -> None:
    mounted = _of_image(layered, "image-subpath=none")
    done = engine.docker("run", "--rm", *mounted, "busybox", "true", check=False)
    said = r"cannot access path (\S+)/none: lstat \1/none: no such file or directory"
    assert re.search(said, done.stderr.decode())


def test_an_image_that_is_mounted_is_in_use(engine: Engine, layered: str, name: str) -> None:
    engine.docker("create", "--name", name, *_of_image(layered), "busybox", "cat", "/i/tree/low")
    done = engine.docker("rmi", layered, check=False)
    assert done.returncode == 1
    assert f'unable to remove repository reference "{layered}" (must force)' in (
        done.stderr.decode()
    )
    assert engine.out("start", "-a", name) == "low"


def test_an_image_and_a_volume_of_one_name(engine: Engine, name: str) -> None:
    engine.docker("volume", "create", "busybox")
    engine.docker("create", "--name", name, *_of_image("busybox"), "busybox")
    engine.docker("volume", "rm", "busybox")


# Anonymous volumes


def _volumes(engine: Engine, name: str) -> set[str]:
    return {mount["Name"] for mount in engine.inspect(name)["Mounts"] if mount["Type"] == "volume"}


def _kept(engine: Engine) -> set[str]:
    return set(engine.out("volume", "ls", "-q").split())


def test_an_anonymous_volume_goes_with_the_last_who_has_it(engine: Engine, name: str) -> None:
    donor, heir = f"{name}-donor", f"{name}-heir"
    engine.docker("create", "--name", donor, "-v", "/a", "-v", f"{name}:/b", "busybox")
    engine.docker("create", "--name", heir, "--volumes-from", donor, "busybox")
    anonymous = _volumes(engine, heir) - {name}
    engine.docker("rm", "-v", donor)
    assert anonymous <= _kept(engine)
    engine.docker("rm", "-v", heir)
    assert not anonymous & _kept(engine)
    assert name in _kept(engine)


def test_who_only_borrows_an_anonymous_volume_leaves_it(engine: Engine, name: str) -> None:
    donor = f"{name}-donor"
    engine.docker("create", "--name", donor, "-v", "/a", "busybox")
    engine.docker("run", "--rm", "--volumes-from", donor, "busybox", "touch", "/a/x")
    assert _volumes(engine, donor) <= _kept(engine)


def test_a_borrowed_volume_over_a_file(
    engine: Engine, built: Callable[..., str], name: str
) -> None:
    """It is the runtime that finds out, as with any mount of the wrong kind."""
    image = built({"a": images.file(b"x")})
    engine.docker("create", "--name", name, "-v", "/a", "busybox")
    done = engine.docker("run", "--rm", "--volumes-from", name, image, "true", check=False)
    assert b"Are you trying to mount a directory onto a file" in done.stderr


# Options


@pytest.mark.beyond
def test_a_volume_s_own_owner_and_mode(
    engine: Engine, built: Callable[..., str], name: str
) -> None:
    image = built({"full": images.directory(mode=0o755), "full/x": images.file(b"x", uid=5)})
    engine.docker(
        "volume", "create", "-o", "uid=1000", "-o", "gid=2000", "-o", "mode=2770", name
    )  # fmt: skip
    mounted = "-v", f"{name}:/full"
    for _ in range(2):
        found = engine.out("run", "--rm", *mounted, image, "stat", "-c", "%u %g %a", "/full")
        assert found == "1000 2000 2770"
    assert engine.out("run", "--rm", *mounted, image, "stat", "-c", "%u", "/full/x") == "5"


@pytest.mark.beyond
def test_an_empty_volume_s_own_mode_is_not_the_image_s(engine: Engine, name: str) -> None:
    engine.docker("volume", "create", "-o", "mode=0700", name)
    found = engine.out("run", "--rm", "-v", f"{name}:/tmp", "busybox", "stat", "-c", "%a", "/tmp")
    assert found == "700"


def test_the_disk_is_used_by_directories(engine: Engine, name: str) -> None:
    """What lies on a file system of its own is not measured."""
    engine.docker("volume", "create", f"{name}-plain")
    engine.docker(
        "volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", f"{name}-mounted"
    )  # fmt: skip
    engine.docker("create", "--name", name, "-v", f"{name}-plain:/a", "busybox")
    used = engine.call("GET", "/system/df?type=volume").json()["Volumes"]
    found = {volume["Name"]: volume["UsageData"] for volume in used if name in volume["Name"]}
    assert found == {f"{name}-plain": {"RefCount": 1, "Size": 0}}


def _create(engine: Engine, body: object, version: str = "1.51") -> tuple[int, str]:
    reply = engine.call("POST", f"/v{version}/volumes/create", body)
    found = reply.json()
    return reply.status, found.get("message") or json.dumps([found["Labels"], found["Options"]])


def test_nothing_and_no_labels_are_told_apart(engine: Engine, name: str) -> None:
    assert _create(engine, {"Name": f"{name}-1"}) == (201, "[null, null]")
    body = {"Name": f"{name}-2", "Labels": {}, "DriverOpts": {}}
    assert _create(engine, body) == (201, "[{}, {}]")
    engine.docker("create", "--name", name, "-v", f"{name}-3:/a", "busybox")
    assert _create(engine, {"Name": f"{name}-3"}) == (201, "[null, null]")


def test_a_name_that_is_too_long(engine: Engine) -> None:
    name = "x" * 300
    status, message = _create(engine, {"Name": name})
    said = (
        f"create {name}: error while creating volume root path '(.*/volumes/{name})': "
        r"mkdir \1: file name too long"
    )
    assert (status, bool(re.fullmatch(said, message))) == (500, True)


def test_a_cluster_s_volume_needs_a_manager(engine: Engine, name: str) -> None:
    body = {"Name": name, "ClusterVolumeSpec": {}}
    status, message = _create(engine, body, "1.42")
    assert (status, message.partition(".")[0]) == (503, "This node is not a swarm manager")
    assert _create(engine, body, "1.41") == (201, "[null, null]")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("type=tmpfs", "device=x", "o=bogus=1"), "mount x:.*/_data, data: bogus=1: invalid arg"),
        (
            ("type=none", "device=/no/where", "o=bind"),
            "mount /no/where:.*/_data, flags: 0x1000: no",
        ),
        (
            ("type=nope", "device=x", "o=ro,a=b,password=secret,c"),
            r"mount x:.*/_data, flags: 0x1, data: a=b,password=\*{8},c: no such device",
        ),
    ],
)
def test_a_file_system_that_cannot_be_mounted(
    engine: Engine, name: str, options: tuple[str, ...], said: str
) -> None:
    flags = [word for option in options for word in ("-o", option)]
    engine.docker("volume", "create", *flags, name)
    done = engine.docker("run", "--rm", "-v", f"{name}:/a", "busybox", "true", check=False)
    assert re.search("failed to mount local volume: " + said, done.stderr.decode())


def test_an_address_that_cannot_be_found(engine: Engine, name: str) -> None:
    options = "addr=nowhere.invalid,rw"
    engine.docker(
        "volume", "create", "-o", "type=nfs", "-o", "device=:/x", "-o", f"o={options}", name
    )  # fmt: skip
    done = engine.docker("run", "--rm", "-v", f"{name}:/a", "busybox", "true", check=False)
    said = "error resolving passed in network volume address: lookup nowhere.invalid"
    assert said in done.stderr.decode()


# Places that lead nowhere


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("loop", "stat {}: too many levels of symbolic links"),
        ("loop/x", "stat {}: too many levels of symbolic links"),
        ("file/x", "stat {}: not a directory"),
        ("x" * 300, "stat {}: file name too long"),
        ("dangling", "bind source path does not exist: {}"),
        ("missing", "bind source path does not exist: {}"),
    ],
)
def test_a_source_that_cannot_be(engine: Engine, folder: Path, source: str, cause: str) -> None:
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("missing")
    (folder / "file").touch()
    path = str(folder / source)
    body = {"HostConfig": {"Mounts": [{"Type": "bind", "Source": path, "Target": "/a"}]}}
    reply = engine.call("POST", "/containers/create", {"Image": "busybox", **body})
    said = f'invalid mount config for type "bind": {cause.format(path)}'
    assert (reply.status, reply.message) == (400, said)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        (("-v", "{}:/loop"), "evalSymlinksInScope: too many links in .*/merged/loop"),
        (("-v", "{}:/loop/x"), "evalSymlinksInScope: too many links in .*/merged/loop/x"),
        (("-v", "{}:/" + "x" * 300), "lstat .*/merged/x{300}: file name too long"),
        (
            ("--tmpfs", "/loop"),
            'error mounting "tmpfs" to rootfs at "/loop": create mountpoint for /loop mount: '
            "lookup mountpoint target: .*: too many levels of symbolic links",
        ),
    ],
)
def test_a_target_that_cannot_be(
    engine: Engine, built: Callable[..., str], name: str, flag: tuple[str, ...], said: str
) -> None:
    image = built({"loop": images.symlink("loop")})
    words = [word.replace("{}", name) for word in flag]
    done = engine.docker("run", "--rm", *words, image, "true", check=False)
    assert done.returncode == 125
    assert re.search(said, done.stderr.decode())


def test_a_target_without_an_absolute_path(engine: Engine) -> None:
    body = {"Image": "busybox", "HostConfig": {"Binds": ["."]}}
    reply = engine.call("POST", "/containers/create", body)
    assert reply.message == (
        "invalid volume specification: '.': invalid mount config for type \"volume\": "
        "invalid mount path: '.' mount path must be absolute"
    )
