"""Images of containers, their roots as archives, and what they have changed."""

from __future__ import annotations

import io
import json
import re
import socket
import tarfile
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from tests.e2e.conftest import eventually
from tests.support import images, tars

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine, Reply, Wharf

pytestmark = pytest.mark.stock

FILL = r"""
set -e
mkdir -p /t/dir/sub /t/sticky
cd /t
echo hello > file; ln file hard; ln -s file sym; ln sym symhard
mkfifo fifo; mknod chr c 1 3; mknod blk b 7 1; ln chr chrhard
chmod 4755 file; chmod 1777 sticky; chmod 2750 dir
chown 1000:2000 dir/sub; chown -h 3000000:4000000 sym
echo x > "$(printf 'n\377\376')"; echo y > "$(printf 'uni\303\251')"
L=$(printf 'l%.0s' $(seq 1 120)); mkdir $L; echo z > $L/$L; ln -s $L/$L longsym; ln $L/$L longhard
P=$(printf 'p%.0s' $(seq 1 60)); mkdir -p $P/$P; echo q > $P/$P/file
dd if=/dev/zero of=sparse bs=1 count=1 seek=100000 2>/dev/null
rm /bin/wget /bin/vi
rm -rf /var; mkdir -p /var/new
chmod 700 /root
touch -h -d '1960-01-01 00:00:00' fifo
touch -d '2300-01-01 00:00:00' chr
touch -d '2001-02-03 04:05:06' file
"""
LONG = "l" * 120
HALF = "p" * 60


@pytest.fixture
def tag(engine: Engine, name: str) -> Iterator[str]:
    """A repository name; every tag of it is removed afterwards."""
    yield name
    for ref in engine.out("images", "--format", "{{.Repository}}:{{.Tag}}", name).split():
        engine.docker("rmi", "-f", ref, check=False)


@pytest.fixture
def filled(engine: Engine, name: str) -> str:
    """A container that runs and has changed much."""
    engine.docker("run", "-d", "--name", name, "-v", "/vol", "busybox", "sleep", "1000")
    engine.docker("exec", "-i", name, "busybox", "sh", input=FILL)
    return name


def commit(engine: Engine, container: str, body: Any = None, **query: str | list[str]) -> Reply:
    words = urlencode({"container": container, **query}, doseq=True)
    headers = {} if body is None else {"Content-Type": "application/json"}
    return engine.call("POST", f"/commit?{words}", body, headers=headers)


def saved(engine: Engine, ref: str) -> tuple[dict[str, Any], list[bytes]]:
    """The config and the tars of the layers."""
    with tarfile.open(fileobj=io.BytesIO(engine.docker("save", ref).stdout)) as archive:

        def read(member: str) -> bytes:
            file = archive.extractfile(member)
            assert file is not None
            return file.read()

        (entry,) = json.loads(read("manifest.json"))
        config: dict[str, Any] = json.loads(read(entry["Config"]))
        return config, [read(layer) for layer in entry["Layers"]]


def remove(engine: Engine, image_id: str) -> None:
    engine.docker("rmi", "-f", image_id)


# The layer


def test_a_layer_has_all_that_was_changed(engine: Engine, tag: str, filled: str) -> None:
    engine.docker("commit", filled, f"{tag}:1")
    _, layers = saved(engine, f"{tag}:1")
    assert len(layers) == 2
    found = tars.by_name(layers[1])
    shape = {name: (e.kind, oct(e.mode), e.uid, e.gid, e.target) for name, e in found.items()}
    assert shape == {
        "bin": ("directory", "0o755", 0, 0, ""),
        "bin/.wh.vi": ("file", "0o600", 0, 0, ""),
        "bin/.wh.wget": ("file", "0o600", 0, 0, ""),
        "root": ("directory", "0o700", 0, 0, ""),
        "t": ("directory", "0o755", 0, 0, ""),
        "t/blk": ("block", "0o644", 0, 0, ""),
        "t/chr": ("char", "0o644", 0, 0, ""),
        "t/chrhard": ("link", "0o644", 0, 0, "t/chr"),
        "t/dir": ("directory", "0o2750", 0, 0, ""),
        "t/dir/sub": ("directory", "0o755", 1000, 2000, ""),
        "t/fifo": ("fifo", "0o644", 0, 0, ""),
        "t/file": ("file", "0o4755", 0, 0, ""),
        "t/hard": ("link", "0o4755", 0, 0, "t/file"),
        f"t/{LONG}": ("directory", "0o755", 0, 0, ""),
        f"t/{LONG}/{LONG}": ("file", "0o644", 0, 0, ""),
        "t/longhard": ("link", "0o644", 0, 0, f"t/{LONG}/{LONG}"),
        "t/longsym": ("symlink", "0o777", 0, 0, f"{LONG}/{LONG}"),
        "t/n\udcff\udcfe": ("file", "0o644", 0, 0, ""),
        f"t/{HALF}": ("directory", "0o755", 0, 0, ""),
        f"t/{HALF}/{HALF}": ("directory", "0o755", 0, 0, ""),
        f"t/{HALF}/{HALF}/file": ("file", "0o644", 0, 0, ""),
        "t/sparse": ("file", "0o644", 0, 0, ""),
        "t/sticky": ("directory", "0o1777", 0, 0, ""),
        "t/sym": ("symlink", "0o777", 3000000, 4000000, "file"),
        "t/symhard": ("link", "0o777", 3000000, 4000000, "t/sym"),
        "t/uni\xe9": ("file", "0o644", 0, 0, ""),
        "var": ("directory", "0o755", 0, 0, ""),
        "var/.wh..wh..opq": ("file", "0o755", 0, 0, ""),
        "var/new": ("directory", "0o755", 0, 0, ""),
        "vol": ("directory", "0o755", 0, 0, ""),
    }
    assert list(found) == sorted(found, key=lambda name: name.encode("utf-8", "surrogateescape"))
    times = {name: found[f"t/{name}"].mtime_ns // 10**9 for name in ("file", "chr", "fifo")}
    assert times == {"file": 981173106, "chr": 10413792000, "fifo": -315619200}
    assert all(entry.mtime_ns % 10**9 == 0 for entry in found.values())
    assert found["t/chr"].device == (1, 3)
    assert found["t/sparse"].size == 100001


def test_a_committed_container_runs_as_it_was(engine: Engine, tag: str, filled: str) -> None:
    engine.docker("commit", filled, f"{tag}:1")
    check = (
        "cat /t/hard; ls /var; ls /bin/wget 2>&1; stat -c %a /t/file; "
        "test /t/file -ef /t/hard && echo one; readlink /t/sym"
    )
    out = engine.out("run", "--rm", f"{tag}:1", "sh", "-c", check).split("\n")
    assert out == [
        "hello",
        "new",
        "ls: /bin/wget: No such file or directory",
        "4755",
        "one",
        "file",
    ]


def test_nothing_changed_is_no_layer(engine: Engine, tag: str, name: str) -> None:
    engine.docker("create", "--name", name, "busybox", "true")
    engine.docker("commit", name, f"{tag}:1")
    config, layers = saved(engine, f"{tag}:1")
    assert len(layers) == 1
    assert config["history"][-1]["empty_layer"] is True
    assert engine.out("run", "--rm", f"{tag}:1", "echo", "ran") == "ran"


def test_capabilities_come_along(engine: Engine, tag: str, name: str) -> None:
    """As a file's extended attribute, the only one that does."""
    value = bytes.fromhex("0100000200040000000000000000000000000000")
    pax = {"SCHILY.xattr.security.capability": value.decode("latin-1")}
    entry = images.Entry(data=b"x", pax=pax)
    base = images.docker_archive({f"{tag}:base": images.on_busybox({"able": entry})})
    engine.docker("load", input=base)
    engine.docker("run", "--name", name, f"{tag}:base", "sh", "-c", "chmod 711 /able")
    engine.docker("commit", name, f"{tag}:1")
    _, layers = saved(engine, f"{tag}:1")
    assert tars.by_name(layers[-1])["able"].xattrs == (("security.capability", value),)


# The config


def config_of(engine: Engine, container: str, *options: str) -> dict[str, Any]:
    image_id = engine.out("commit", *options, container)
    config, _ = saved(engine, image_id)
    remove(engine, image_id)
    return config


@pytest.fixture
def rich(engine: Engine, name: str) -> str:
    engine.docker(
        *("create", "--name", name, "-e", "A=1", "-w", "/w", "-u", "5", "-l", "k=v", "-it"),
        *("--expose", "99", "--entrypoint", "/bin/e", "--stop-signal", "SIGINT"),
        *("--stop-timeout", "7", "-h", "host", "--domainname", "dom", "-v", "/v1"),
        *("--health-cmd", "x y", "--health-retries", "3", "busybox", "cmd1", "cmd2"),
    )
    return name


RICH = {
    "Hostname": "host",
    "Domainname": "dom",
    "User": "5",
    "AttachStdin": True,
    "AttachStdout": True,
    "AttachStderr": True,
    "ExposedPorts": {"99/tcp": {}},
    "Tty": True,
    "OpenStdin": True,
    "StdinOnce": True,
    "Env": ["A=1", images.PATH],
    "Cmd": ["cmd1", "cmd2"],
    "Healthcheck": {"Test": ["CMD-SHELL", "x y"], "Retries": 3},
    "Image": "busybox",
    "Volumes": {"/v1": {}},
    "WorkingDir": "/w",
    "Entrypoint": ["/bin/e"],
    "OnBuild": None,
    "Labels": {"k": "v"},
    "StopSignal": "SIGINT",
    "StopTimeout": 7,
}


def test_the_config_is_the_containers(engine: Engine, rich: str) -> None:
    config = config_of(engine, rich, "-a", "me <a@b>", "-m", "said & done")
    assert config["config"] == config["container_config"] == RICH
    assert list(config["config"]) == list(RICH)
    assert config["container"] == engine.inspect(rich)["Id"]
    assert (config["author"], config["os"]) == ("me <a@b>", "linux")
    assert "comment" not in config
    step = config["history"][-1]
    assert step.pop("created") == config["created"]
    step.pop("empty_layer", None)  # a container that never ran may have no files of its own yet
    assert step == {"created_by": "cmd1 cmd2", "author": "me <a@b>", "comment": "said & done"}


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        (['ENTRYPOINT ["n"]'], {"Entrypoint": ["n"], "Cmd": None}),
        (["ENTRYPOINT []"], {}),
        (["ENTRYPOINT n m"], {"Entrypoint": ["/bin/sh", "-c", "n m"], "Cmd": None}),
        (["CMD x", 'ENTRYPOINT ["n"]'], {"Entrypoint": ["n"], "Cmd": ["/bin/sh", "-c", "x"]}),
        (['ENTRYPOINT ["n"]', 'CMD ["x"]'], {"Entrypoint": ["n"], "Cmd": ["x"]}),
        (["CMD []"], {"Cmd": []}),
        (["CMD"], {"Cmd": ["/bin/sh", "-c"]}),
        (
            ["WORKDIR rel", "VOLUME /v2"],
            {"WorkingDir": "/w/rel", "Volumes": {"/v1": {}, "/v2": {}}},
        ),
        (["EXPOSE 80"], {"ExposedPorts": {"80/tcp": {}, "99/tcp": {}}}),
        (["LABEL a=b k=w"], {"Labels": {"a": "b", "k": "w"}}),
        (["ENV A=2 B=$A"], {"Env": ["A=2", images.PATH, "B=1"]}),
        (["USER 7", "STOPSIGNAL 9"], {"User": "7", "StopSignal": "9"}),
        (["HEALTHCHECK NONE"], {"Healthcheck": {"Test": ["NONE"], "Retries": 3}}),
        (
            ["HEALTHCHECK --interval=3s CMD foo"],
            {"Healthcheck": {"Test": ["CMD-SHELL", "foo"], "Interval": 3 * 10**9, "Retries": 3}},
        ),
        (["ONBUILD RUN x"], {"OnBuild": ["RUN x"]}),
    ],
)
def test_changes_to_the_config(
    engine: Engine, rich: str, changes: list[str], fields: dict[str, Any]
) -> None:
    options = [word for change in changes for word in ("-c", change)]
    config = config_of(engine, rich, *options)
    assert config["config"] == {**RICH, **fields}
    assert config["container_config"] == RICH


@pytest.mark.parametrize("body", [b"null", b"{}", b""])
def test_no_config_is_the_containers(engine: Engine, rich: str, body: bytes) -> None:
    reply = commit(engine, rich, body)
    assert reply.status == 201
    config, _ = saved(engine, reply.json()["Id"])
    remove(engine, reply.json()["Id"])
    assert config["config"] == RICH


def test_a_config_inherits_what_it_leaves_out(engine: Engine, rich: str) -> None:
    body = {"Env": ["Z=1"], "User": "u", "Labels": {"l": "1"}, "ExposedPorts": {"1/tcp": {}}}
    reply = commit(engine, rich, body, changes="ENV Q=1", comment="c")
    assert reply.status == 201
    config, _ = saved(engine, reply.json()["Id"])
    remove(engine, reply.json()["Id"])
    inherited = {key: value for key, value in RICH.items() if key != "StopTimeout"}
    assert config["config"] == {
        **inherited,
        "Hostname": "",
        "Domainname": "",
        "User": "u",
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Tty": False,
        "OpenStdin": False,
        "StdinOnce": False,
        "Image": "",
        "ExposedPorts": {"1/tcp": {}, "99/tcp": {}},
        "Env": ["Z=1", "Q=1", "A=1", images.PATH],
        "Labels": {"k": "v", "l": "1"},
    }


# The image


def test_the_image_is_the_child_of_the_containers(engine: Engine, tag: str, name: str) -> None:
    engine.docker("run", "--name", name, "busybox", "sh", "-c", "echo x > /x")
    printed = engine.out("commit", "-m", "said", name, f"{tag}:1")
    assert re.fullmatch("sha256:[0-9a-f]{64}", printed)
    (found,) = json.loads(engine.out("image", "inspect", f"{tag}:1"))
    (base,) = json.loads(engine.out("image", "inspect", "busybox"))
    assert (found["Id"], found["Parent"], found["Comment"]) == (printed, base["Id"], "said")
    assert found["RootFS"]["Layers"][:-1] == base["RootFS"]["Layers"]
    assert found["Size"] == base["Size"] + 2
    history = engine.call("GET", f"/images/{tag}:1/history").json()
    assert [step["Id"] for step in history] == [printed, base["Id"]]
    assert history[0]["CreatedBy"] == "sh -c echo x > /x"
    assert (history[0]["Size"], history[0]["Tags"]) == (2, [f"{tag}:1"])


def test_a_parent_stays_while_it_has_children(engine: Engine, tag: str, name: str) -> None:
    engine.docker("run", "--name", name, "busybox", "sh", "-c", "echo x > /x")
    parent = engine.out("commit", name, f"{tag}:parent")
    engine.docker("run", "--name", f"{name}-2", f"{tag}:parent", "sh", "-c", "echo y > /y")
    child = engine.out("commit", f"{name}-2", f"{tag}:child")
    engine.docker("rm", name, f"{name}-2")
    reply = engine.call("DELETE", f"/images/{parent}")
    assert reply.status == 409
    assert reply.message == (
        f"conflict: unable to delete {parent.removeprefix('sha256:')[:12]} (cannot be forced) - "
        "image has dependent child images"
    )
    assert engine.out("rmi", f"{tag}:parent") == f"Untagged: {tag}:parent"
    lines = engine.out("rmi", f"{tag}:child").splitlines()
    deleted = [line.removeprefix("Deleted: ") for line in lines if line.startswith("Deleted: ")]
    assert {parent, child} < {*deleted}


def test_a_name_moves_to_the_new_image(engine: Engine, tag: str, name: str) -> None:
    engine.docker("run", "--name", name, "busybox", "sh", "-c", "echo x > /x")
    first = engine.out("commit", name, tag)
    second = engine.out("commit", "-m", "again", name, tag)
    assert first != second
    assert engine.out("images", "-q", "--no-trunc", tag) == second
    remove(engine, first)


def test_without_the_containers_image_there_is_none(engine: Engine, tag: str, name: str) -> None:
    engine.docker("create", "--name", name, "busybox", "true")
    parent = engine.out("commit", "-m", name, name, f"{tag}:1")
    engine.docker("create", "--name", f"{name}-2", f"{tag}:1")
    engine.docker("rmi", "-f", f"{tag}:1")
    reply = commit(engine, f"{name}-2")
    assert reply.status == 404
    assert reply.message.startswith(f"failed to get digest {parent}: ")
    assert reply.message.endswith("no such file or directory")


# The container meanwhile


def events_of(engine: Engine, container: str, *arguments: str) -> list[tuple[str, dict[str, str]]]:
    """Actions and attributes of what the command made happen to the container and to images."""
    (info,) = json.loads(engine.out("inspect", container))
    query = urlencode({"filters": json.dumps({"type": ["container", "image"]})})
    told: list[dict[str, Any]] = []
    lines = threading.Thread(target=_listen, args=(engine, query, told))
    lines.start()
    eventually(lambda: told, bool)
    engine.docker(*arguments)
    engine.docker("rename", container, f"{container}-end")
    lines.join(10)
    engine.docker("rename", f"{container}-end", container)
    return [
        (event["Action"], event["Actor"]["Attributes"])
        for event in told[1:]
        if event["Type"] == "image" or event["Actor"]["ID"] == info["Id"]
    ]


def _listen(engine: Engine, query: str, told: list[dict[str, Any]]) -> None:
    """Everything up to a rename; the first entry says that it listens."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(engine.socket_path)
        sock.sendall(f"GET /events?{query} HTTP/1.0\r\nHost: d\r\n\r\n".encode())
        file = sock.makefile("rb")
        while file.readline() not in (b"\r\n", b""):
            pass
        told.append({})
        for line in file:
            if not line.startswith(b"{"):
                continue
            event = json.loads(line)
            if event["Action"] == "rename":
                return
            told.append(event)


def test_events_of_a_commit(engine: Engine, tag: str, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "-l", "a=b", "busybox", "sleep", "1000")
    found = events_of(engine, name, "commit", "-m", "said", name, f"{tag}:1")
    image_id = engine.out("images", "-q", "--no-trunc", tag)
    own = {"image": "busybox", "name": name, "a": "b"}
    labels = {"a": "b"}
    assert found == [
        ("pause", own),
        ("create", {**labels, "name": image_id}),
        ("tag", {**labels, "name": f"{tag}:1"}),
        ("commit", {**own, "comment": "said", "imageID": image_id, "imageRef": f"{tag}:1"}),
        ("unpause", own),
    ]


def test_no_pause(engine: Engine, tag: str, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", "sleep", "1000")
    found = events_of(engine, name, "commit", "--pause=false", name, f"{tag}:1")
    assert [action for action, _ in found] == ["create", "tag", "commit"]


def test_a_paused_container_stays_paused(engine: Engine, tag: str, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", "sleep", "1000")
    engine.docker("pause", name)
    found = events_of(engine, name, "commit", name, f"{tag}:1")
    assert [action for action, _ in found] == ["create", "tag", "commit"]
    assert engine.inspect(name)["State"]["Status"] == "paused"
    engine.docker("unpause", name)


def test_a_container_goes_on_afterwards(engine: Engine, tag: str, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", "sh", "-c", "while :; do date; done")
    engine.docker("commit", name, f"{tag}:1")
    assert engine.inspect(name)["State"]["Status"] == "running"
    assert engine.out("exec", name, "echo", "alive") == "alive"


@pytest.mark.parametrize(
    ("query", "body", "status", "message"),
    [
        ({"container": "nosuch"}, None, 404, "No such container: nosuch"),
        ({}, None, 400, 'invalid name or ID supplied: ""'),
        (
            {"repo": "Bad"},
            None,
            400,
            "invalid reference format: repository name (library/Bad) must be lowercase",
        ),
        ({"repo": "a", "tag": "b c"}, None, 400, "invalid tag format"),
        ({"repo": "x@sha256:" + "0" * 64}, None, 400, "cannot import digest reference"),
        (
            {"repo": "sha256"},
            None,
            400,
            "refusing to create an ambiguous tag using digest algorithm as name",
        ),
        ({"changes": "FOO bar"}, None, 400, "FOO is not a valid change command"),
        ({"changes": "RUN bar"}, None, 400, "RUN is not a valid change command"),
        ({"changes": ""}, None, 400, "file with no instructions"),
        (
            {},
            b"{bad",
            400,
            "invalid JSON: invalid character 'b' looking for beginning of object key string",
        ),
        (
            {},
            b'{"Env":5}',
            400,
            "invalid JSON: json: cannot unmarshal number into Go struct field .Env of type "
            "[]string",
        ),
    ],
)
def test_refused_commits(
    engine: Engine,
    name: str,
    query: dict[str, str],
    body: bytes | None,
    status: int,
    message: str,
) -> None:
    engine.docker("create", "--name", name, "busybox", "true")
    asked = {"container": name, **query} if query or body else {}
    headers = {"Content-Type": "application/json"}
    reply = engine.call("POST", f"/commit?{urlencode(asked)}", body, headers=headers)
    assert (reply.status, reply.message) == (status, message)
    # dockerd makes the image before it sees that the name cannot be used.
    for left in engine.out("images", "-q", "-f", "dangling=true", "-f", "since=busybox").split():
        engine.docker("rmi", left, check=False)


# diff


def test_diff(engine: Engine, filled: str) -> None:
    reply = engine.call("GET", f"/containers/{filled}/changes")
    assert reply.status == 200
    found = {change["Path"]: change["Kind"] for change in reply.json()}
    below = [path for path in found if path.startswith("/t/")]
    assert len(below) == 21
    assert {found.pop(path) for path in below} == {1}
    assert "/t/n\ufffd\ufffd" in below
    assert found == {
        "/bin": 0,
        "/bin/vi": 2,
        "/bin/wget": 2,
        "/t": 1,
        "/var": 0,
        "/var/new": 1,
        "/var/spool": 2,
        "/var/www": 2,
        "/vol": 1,
    }
    order = [change["Path"] for change in reply.json()]
    assert order.index("/t/dir") < order.index("/t/dir/sub")
    assert order.index("/bin") < order.index("/bin/vi")
    assert "A /vol" in engine.out("diff", filled).splitlines()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("true", []),
        ("touch /etc/passwd", ["C /etc", "C /etc/passwd"]),
        ("chmod 600 /etc/passwd; chmod 644 /etc/passwd", []),
        ("echo >> /etc/passwd", ["C /etc", "C /etc/passwd"]),
        ("chmod 700 /tmp", ["C /tmp"]),
        ("rm -r /home; echo > /home", ["C /home"]),
        ("rm /etc/passwd; mkdir -p /etc/passwd/a", ["A /etc/passwd/a", "C /etc", "C /etc/passwd"]),
        ("mkdir -p /tmp/a/b", ["A /tmp/a", "A /tmp/a/b", "C /tmp"]),
        ("rm -r /var/www", ["C /var", "D /var/www"]),
        ("echo > /x; rm /x", []),
        ("mv /etc/group /etc/grp", ["A /etc/grp", "C /etc", "D /etc/group"]),
        ("chown 5 /root", ["C /root"]),
    ],
)
def test_what_counts_as_changed(
    engine: Engine, name: str, script: str, expected: list[str]
) -> None:
    engine.docker("run", "--name", name, "busybox", "sh", "-c", script)
    assert sorted(engine.out("diff", name).split("\n")) == (expected or [""])
    if not expected:
        assert engine.call("GET", f"/containers/{name}/changes").body.strip() == b"null"


# export


@pytest.mark.parametrize("is_running", [True, False])
def test_export_is_the_whole_root(engine: Engine, filled: str, is_running: bool) -> None:
    if not is_running:
        engine.docker("kill", filled)
    found = tars.by_name(engine.docker("export", filled).stdout)
    assert found["t/file"].mode == 0o4755
    assert (found["t/hard"].kind, found["t/hard"].target) == ("link", "t/file")
    assert found["bin/busybox"].target == "bin/["
    assert "bin/wget" not in found
    assert not any(".wh." in name for name in found)
    assert [name for name in found if name.startswith("var/")] == ["var/new"]
    mounted = ("dev", "etc/hosts", "etc/resolv.conf", "etc/hostname", "proc", "sys", "vol")
    empty = {e.name: (e.kind, e.size) for e in found.values() if e.name.startswith(mounted)}
    assert empty == {
        "dev": ("directory", 0),
        "dev/console": ("file", 0),
        "dev/pts": ("directory", 0),
        "dev/shm": ("directory", 0),
        "etc/hostname": ("file", 0),
        "etc/hosts": ("file", 0),
        "etc/resolv.conf": ("file", 0),
        "proc": ("directory", 0),
        "sys": ("directory", 0),
        "vol": ("directory", 0),
    }
    assert (found["etc/mtab"].kind, found["etc/mtab"].target) == ("symlink", "/proc/mounts")
    assert found[".dockerenv"].size == 0


def test_export_and_import_again(engine: Engine, tag: str, filled: str) -> None:
    exported = engine.docker("export", filled).stdout
    engine.docker("import", "-", f"{tag}:1", input=exported)
    _, (layer,) = saved(engine, f"{tag}:1")
    assert layer == exported
    assert engine.out("run", "--rm", f"{tag}:1", "cat", "/t/hard") == "hello"


def test_event_and_head_of_an_export(engine: Engine, name: str) -> None:
    engine.docker("create", "--name", name, "busybox", "true")
    reply = engine.call("GET", f"/containers/{name}/export")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/octet-stream")
    found = events_of(engine, name, "export", name)
    assert found == [("export", {"image": "busybox", "name": name})]


# Whoever leaves, and whatever ends


BIG = "dd if=/dev/zero of=/big bs=1M count=1 seek={} 2>/dev/null; exec sleep 1000"


def big(engine: Engine, name: str, megabytes: int) -> None:
    """A container whose files take a while to read."""
    engine.docker("run", "-d", "--name", name, "busybox", "sh", "-c", BIG.format(megabytes))
    eventually(
        lambda: engine.out("exec", name, "stat", "-c", "%s", "/big"), lambda size: size > "1"
    )


def begin(engine: Engine, path: str, method: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(30)
    sock.connect(engine.socket_path)
    sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n".encode())
    return sock


def status(engine: Engine, name: str) -> str:
    return str(engine.inspect(name)["State"]["Status"])


@pytest.mark.beyond
def test_a_client_that_leaves_does_not_end_a_commit(engine: Engine, tag: str, name: str) -> None:
    big(engine, name, 300)
    begin(engine, f"/commit?container={name}&repo={tag}", "POST").close()
    listed = eventually(lambda: engine.out("images", "-q", tag), bool, 60)
    assert listed
    assert eventually(lambda: status(engine, name), lambda s: s == "running") == "running"


def test_a_client_that_leaves_ends_an_export(engine: Engine, name: str) -> None:
    big(engine, name, 300)
    with begin(engine, f"/containers/{name}/export", "GET") as sock:
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 200 OK\r\n")
    engine.docker("rm", "-f", name)


@pytest.mark.beyond
def test_a_container_that_is_removed_meanwhile_makes_no_image(
    wharf: Wharf, tag: str, name: str
) -> None:
    big(wharf, name, 600)
    with begin(wharf, f"/commit?container={name}&repo={tag}", "POST") as sock:
        eventually(lambda: status(wharf, name), lambda s: s == "paused")
        wharf.docker("rm", "-f", name)
        answer = sock.recv(1 << 16).decode()
    assert answer.startswith("HTTP/1.1 409 ")
    assert "which is being removed" in answer
    assert not wharf.out("images", "-q", tag)


@pytest.mark.beyond
@pytest.mark.parametrize("delay_s", [0, 0.02, 0.06, 0.2])
def test_a_killed_engine_leaves_no_half_image_and_no_frozen_container(
    wharf: Wharf, tag: str, name: str, delay_s: float
) -> None:
    big(wharf, name, 400)
    stage = wharf.data_root / "overlay2" / "stage"
    layers = {p.name for p in (wharf.data_root / "overlay2").iterdir()}
    with begin(wharf, f"/commit?container={name}&repo={tag}", "POST"):
        time.sleep(delay_s)
        wharf.kill()
    wharf.start()
    assert status(wharf, name) == "running"
    assert wharf.out("exec", name, "echo", "alive") == "alive"
    assert not wharf.out("images", "-q", tag)
    assert not [*stage.iterdir()]
    assert {p.name for p in (wharf.data_root / "overlay2").iterdir()} == layers
    wharf.docker("commit", name, f"{tag}:1", timeout=120)


@pytest.mark.beyond
def test_a_user_has_the_last_word(wharf: Wharf, tag: str, name: str) -> None:
    """Who unpauses a container during a commit, and pauses it again, finds it paused."""
    big(wharf, name, 600)
    with begin(wharf, f"/commit?container={name}&repo={tag}", "POST") as sock:
        eventually(lambda: status(wharf, name), lambda s: s == "paused")
        wharf.docker("unpause", name)
        wharf.docker("pause", name)
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 201 ")
    time.sleep(0.1)
    assert status(wharf, name) == "paused"
    wharf.docker("unpause", name)


@pytest.mark.beyond
def test_two_commits_hold_a_container_together(wharf: Wharf, tag: str, name: str) -> None:
    big(wharf, name, 200)
    with (
        begin(wharf, f"/commit?container={name}&repo={tag}&tag=1", "POST") as one,
        begin(wharf, f"/commit?container={name}&repo={tag}&tag=2", "POST") as two,
    ):
        assert one.recv(1 << 16).startswith(b"HTTP/1.1 201 ")
        assert two.recv(1 << 16).startswith(b"HTTP/1.1 201 ")
    assert eventually(lambda: status(wharf, name), lambda s: s == "running") == "running"
