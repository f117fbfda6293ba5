"""What a create does and refuses, and what only the start finds wrong: each in its moment."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.support import images

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.engine import Engine

pytestmark = pytest.mark.stock

INIT = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: "
    "runc create failed: unable to start container process: error during container init: "
)
HINT = (
    ": Are you trying to mount a directory onto a file \\(or vice-versa\\)\\? "
    "Check if the specified host path exists and is the expected type"
)


def bind(source: str, **options: object) -> dict[str, object]:
    mount = {"Type": "bind", "Source": source, "Target": "/x", **options}
    return {"HostConfig": {"Mounts": [mount]}}


CONFLICT = "mount options conflict: "
LOGGING = "failed to create task for container: failed to initialize logging driver: "


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            bind("/", BindOptions={"ReadOnlyForceRecursive": True}),
            CONFLICT + "!ReadOnly && BindOptions.ReadOnlyForceRecursive",
        ),
        (
            bind("/", BindOptions={"ReadOnlyNonRecursive": True}),
            CONFLICT + "!ReadOnly && BindOptions.ReadOnlyNonRecursive",
        ),
        (
            bind(
                "/",
                ReadOnly=True,
                BindOptions={"ReadOnlyForceRecursive": True, "ReadOnlyNonRecursive": True},
            ),
            CONFLICT + "ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive",
        ),
        (
            {"Volumes": {"/": {}}},
            INIT + 'error mounting "[^"]*/_data" to rootfs at "/": create mountpoint for / mount: '
            'mountpoint "([^"]*)" is on the top of rootfs "\\1"',
        ),
        (
            {"HostConfig": {"LogConfig": {"Type": "json-file", "Config": {"labels-regex": "("}}}},
            LOGGING + "error parsing regexp: missing closing \\): `\\(`",
        ),
        ({"HostConfig": {"Tmpfs": {"/t": "bogus=1"}}}, 'invalid tmpfs option "bogus"'),
        (
            {"HostConfig": {"Tmpfs": {"/t": "size=foo"}}},
            INIT + 'error mounting "tmpfs" to rootfs at "/t": mount src=tmpfs, dst=/t, '
            "dstFd=/proc/thread-self/fd/[0-9]+, flags=MS_NOSUID\\|MS_NODEV\\|MS_NOEXEC, "
            "data=size=foo: invalid argument",
        ),
        (
            {"HostConfig": {"Tmpfs": {"/etc/passwd": ""}}},
            INIT + 'error mounting "tmpfs" to rootfs at "/etc/passwd": mount src=tmpfs, '
            "dst=/etc/passwd, dstFd=[^,]*, flags=[^,]*, data=mode=0644: not a directory" + HINT,
        ),
        (
            {"HostConfig": {"Binds": ["/proc:/etc/passwd"]}},
            INIT + 'error mounting "/proc" to rootfs at "/etc/passwd": mount src=/proc, '
            "dst=/etc/passwd, dstFd=[^,]*, flags=MS_BIND\\|MS_REC: not a directory" + HINT,
        ),
        (
            {"HostConfig": {"Binds": ["/etc/hosts:/etc"]}},
            INIT + 'error mounting "/etc/hosts" to rootfs at "/etc": mount src=/etc/hosts, '
            "dst=/etc, dstFd=[^,]*, flags=MS_BIND\\|MS_REC: not a directory" + HINT,
        ),
        (
            {"HostConfig": {"Binds": ["/dev/null/x:/a"]}},
            INIT + "failed to fulfil mount request: open /dev/null/x: not a directory" + HINT,
        ),
        (
            {"HostConfig": {"Binds": ["/proc:/etc/passwd/x"]}},
            INIT + 'error mounting "/proc" to rootfs at "/etc/passwd/x": create mountpoint for '
            "/etc/passwd/x mount: lookup mountpoint target: securejoin.OpenInRoot /etc/passwd/x: "
            "openat2 /etc/passwd/x: not a directory" + HINT,
        ),
        (
            {"HostConfig": {"SecurityOpt": ['seccomp={"defaultAction": nul}']}},
            "Decoding seccomp profile failed: invalid character '}' in literal null "
            "\\(expecting 'l'\\)",
        ),
    ],
)
def test_it_is_made_and_not_started(
    engine: Engine, name: str, config: dict[str, object], sentence: str
) -> None:
    body = {"Image": "busybox", "Cmd": ["true"], **config}
    assert engine.call("POST", f"/containers/create?name={name}", body).status == 201
    started = engine.call("POST", f"/containers/{name}/start")
    assert started.status >= 400
    assert re.fullmatch(sentence, started.message), started.message
    state = engine.inspect(name)["State"]
    assert (state["Status"], state["Error"]) == ("created", started.message)
    engine.docker("rm", "-fv", name)


def test_a_port_without_a_number_is_none(engine: Engine, name: str) -> None:
    bindings = {"": [{"HostPort": "18080"}], "/udp": []}
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"PortBindings": bindings}}
    assert engine.call("POST", f"/containers/create?name={name}", body).status == 201
    assert engine.call("POST", f"/containers/{name}/start").status == 204
    assert engine.out("port", name) == ""


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"foo": "bar"}, "Unknown option foo"),
        (
            {"size": "1G", "foo": "bar"},
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
        ),
    ],
)
def test_storage_options(engine: Engine, name: str, options: dict[str, str], sentence: str) -> None:
    body = {"Image": "busybox", "HostConfig": {"StorageOpt": options}}
    reply = engine.call("POST", f"/containers/create?name={name}", body)
    assert reply.status >= 400
    assert reply.message == sentence


# Volumes of a device


@pytest.fixture
def broken(engine: Engine, name: str) -> str:
    engine.docker("volume", "create", "-o", "type=ext4", "-o", "device=/nonexistent", name)
    return name


MOUNTING = "error while mounting volume '.*/_data': failed to mount local volume: mount .*"


def test_a_device_that_is_missing_is_missed_at_start(engine: Engine, broken: str) -> None:
    engine.docker("create", "--name", broken, "-v", f"{broken}:/new", "busybox", "true")
    reply = engine.call("POST", f"/containers/{broken}/start")
    assert reply.status == 500
    assert re.fullmatch(MOUNTING + ": no such file or directory", reply.message)
    assert engine.inspect(broken)["State"]["ExitCode"] == 128
    engine.docker("rm", broken)
    engine.docker("volume", "rm", broken)


def test_a_device_that_is_missing_cannot_be_filled(engine: Engine, broken: str) -> None:
    body = {"Image": "busybox", "HostConfig": {"Binds": [f"{broken}:/tmp"]}}
    reply = engine.call("POST", f"/containers/create?name={broken}", body)
    assert reply.status == 500
    assert re.fullmatch("failed to populate volume: " + MOUNTING, reply.message)
    engine.docker("volume", "rm", broken)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {"Volumes": {"/etc/passwd": {}}},
            "cannot mount volume over existing file, file exists .*/merged/etc/passwd",
        ),
        ({"Volumes": {"/etc/passwd/x": {}}}, "lstat .*/merged/etc/passwd/x: not a directory"),
        (
            {"HostConfig": {"Binds": ["NAME:/etc/passwd"]}},
            "source .*/merged/etc/passwd is not directory",
        ),
        (
            {"HostConfig": {"Mounts": [{"Type": "volume", "Target": "/etc/passwd"}]}},
            "source .*/merged/etc/passwd is not directory",
        ),
        (
            {"HostConfig": {"Binds": ["NAME:/etc/passwd/x"]}},
            "lstat .*/merged/etc/passwd/x: not a directory",
        ),
    ],
)
def test_a_volume_over_a_file(
    engine: Engine, name: str, config: dict[str, object], sentence: str
) -> None:
    body = json.loads(json.dumps({"Image": "busybox", **config}).replace("NAME", name))
    reply = engine.call("POST", f"/containers/create?name={name}", body)
    assert reply.status == 500
    assert re.fullmatch(sentence, reply.message), reply.message
    engine.docker("volume", "rm", "-f", name)


# The working directory


def changes(engine: Engine, name: str) -> list[str]:
    return sorted(engine.out("diff", name).splitlines())


def test_the_working_directory_is_made_with_the_container(
    engine: Engine, name: str, built: Callable[..., str]
) -> None:
    """Whoever the user is, it is root's; a link on the way is followed inside the image."""
    tag = built({"real": images.directory(), "link": images.symlink("/real")})
    engine.docker("create", "--name", name, "-u", "1000:1000", "-w", "/link/sub/x", tag, "true")
    assert changes(engine, name) == ["A /real/sub", "A /real/sub/x", "C /real"]
    engine.docker("start", "-a", name)
    assert changes(engine, name) == ["A /real/sub", "A /real/sub/x", "C /real"]


def test_a_working_directory_behind_a_link_to_nothing(
    engine: Engine, name: str, built: Callable[..., str]
) -> None:
    tag = built({"gone": images.symlink("there/../nowhere")})
    engine.docker("create", "--name", name, "-w", "/gone/x", tag, "true")
    assert [line for line in changes(engine, name) if "there" not in line.split("/")] == [
        "A /nowhere",
        "A /nowhere/x",
    ]


def test_a_working_directory_that_is_there_changes_nothing(engine: Engine, name: str) -> None:
    engine.docker("create", "--name", name, "-w", "/tmp", "busybox", "true")
    assert changes(engine, name) == []


def test_places_of_mounts_are_made_at_the_start(engine: Engine, name: str) -> None:
    engine.docker("create", "--name", name, "-v", "/a/b", "--tmpfs", "/t", "busybox", "true")
    assert changes(engine, name) == []
    engine.docker("start", "-a", name)
    assert {"A /a", "A /a/b", "A /t"} <= set(changes(engine, name))
    engine.docker("rm", "-v", name)


def test_a_volume_begins_with_the_working_directory(engine: Engine, name: str) -> None:
    options = ("-w", "/vol/work", "-v", f"{name}:/vol")
    engine.docker("create", "--name", name, *options, "busybox", "true")
    assert engine.out("run", "--rm", "-v", f"{name}:/z", "busybox", "ls", "/z") == "work"
    engine.docker("rm", name)
    engine.docker("volume", "rm", name)
