"""Status and sentence of what cannot be: some of it dockerd calls the client's fault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

if TYPE_CHECKING:
    from tests.support.engine import Engine

pytestmark = pytest.mark.stock

CREATE = "failed to create task for container: failed to create shim task: "
RUNTIME = f"{CREATE}OCI runtime create failed: runc create failed: "
INIT = f"{RUNTIME}unable to start container process: error during container init: "
EXEC = "OCI runtime exec failed: exec failed: "
NULL = {"PathOnHost": "/dev/null", "PathInContainer": "/x"}
NO_DEVICE = "error gathering device information while adding custom device"


def host(**fields: Any) -> dict[str, Any]:
    return {"HostConfig": fields}


@pytest.mark.parametrize(
    ("fields", "status", "sentence"),
    [
        (host(Binds=[""]), 500, "invalid volume specification: ''"),
        (host(Binds=["/a:/b:zz"]), 500, "invalid mode: zz"),
        (
            host(Binds=["/a:c"]),
            500,
            "invalid volume specification: '/a:c': invalid mount config for type \"bind\": "
            "invalid mount path: 'c' mount path must be absolute",
        ),
        (
            host(Mounts=[{"Type": "bind", "Source": "/a", "Target": "c"}]),
            400,
            'invalid mount config for type "bind": '
            "invalid mount path: 'c' mount path must be absolute",
        ),
        (host(Links=[""]), 500, "empty string specified for links"),
        (host(Links=["a:b:c"]), 500, "bad format for links: a:b:c"),
        (host(SecurityOpt=[""]), 500, 'invalid --security-opt 1: ""'),
        (host(SecurityOpt=["foo=bar"]), 500, 'invalid --security-opt 2: "foo=bar"'),
        (host(StorageOpt={"a": "b"}), 500, "Unknown option a"),
        (host(CapAdd=["nope"]), 400, 'invalid CapAdd: unknown capability: "CAP_NOPE"'),
        (host(ShmSize=-1), 400, "SHM size can not be less than 0"),
        ({"WorkingDir": "x"}, 400, "the working directory 'x' is invalid, it needs to be an "),
    ],
)
def test_a_create(
    engine: Engine, name: str, fields: dict[str, Any], status: int, sentence: str
) -> None:
    reply = engine.call("POST", f"/containers/create?name={name}", {"Image": "busybox", **fields})
    assert reply.status == status
    assert reply.message.startswith(sentence)


@pytest.mark.parametrize(
    ("fields", "status", "sentence"),
    [
        ({"User": "nope"}, 500, "unable to find user nope: no matching entries in passwd file"),
        ({"User": "-1"}, 500, "uids and gids must be in range 0-2147483647"),
        (host(GroupAdd=["x"]), 500, "unable to find group x: no matching entries in group file"),
        (
            host(Sysctls={"kernel.foo": "1"}),
            500,
            f'{RUNTIME}sysctl "kernel.foo" is not in a separate kernel namespace',
        ),
        (
            host(Ulimits=[{"Name": "foo", "Soft": 1, "Hard": 1}]),
            500,
            f"{RUNTIME}wrong rlimit value: RLIMIT_FOO",
        ),
        (
            host(Devices=[NULL | {"PathOnHost": "/dev/no"}]),
            500,
            f'{NO_DEVICE} "/dev/no": no such file or directory',
        ),
        (
            host(Devices=[NULL | {"PathOnHost": ""}]),
            500,
            f'{NO_DEVICE} "": no such file or directory',
        ),
        (host(Devices=[NULL]), 500, f"{RUNTIME}device access at 16 field cannot be empty"),
        (host(DeviceCgroupRules=["x"]), 500, "invalid device cgroup rule format: 'x'"),
        (
            host(DeviceRequests=[{"Count": 1}]),
            500,
            'could not select device driver "" with capabilities: []',
        ),
        (
            host(BlkioDeviceReadBps=[{"Path": "/dev/no", "Rate": 1}]),
            500,
            "stat /dev/no: no such file or directory",
        ),
        (
            host(SecurityOpt=["seccomp=[]"]),
            500,
            "Decoding seccomp profile failed: json: cannot unmarshal array into Go value of "
            "type seccomp.Seccomp",
        ),
        (host(Tmpfs={"/x": "foo"}), 500, 'invalid tmpfs option "foo"'),
        (
            host(Dns=["x"]),
            500,
            'bad nameserver address x: ParseAddr("x"): unable to parse IP',
        ),
        (
            host(NetworkMode="container:nope"),
            500,
            "joining network namespace of container: No such container: nope",
        ),
        (
            host(CpuShares=1),
            500,
            f"{INIT}error setting cgroup config for procHooks process: "
            "the minimum allowed cpu-shares is 2",
        ),
        (
            host(Tmpfs={"/proc": ""}),
            500,
            f'{INIT}error mounting "tmpfs" to rootfs at "/proc": create mountpoint for /proc '
            'mount: check proc-safety of /proc mount: "/',
        ),
        (
            host(Binds=["/tmp:/proc/sys"]),
            500,
            f'{INIT}error mounting "/tmp" to rootfs at "/proc/sys": create mountpoint for '
            '/proc/sys mount: check proc-safety of /proc/sys mount: "/',
        ),
        ({"Cmd": ["nope"]}, 400, f'{INIT}exec: "nope": executable file not found in $PATH'),
    ],
)
def test_a_start(
    engine: Engine, name: str, fields: dict[str, Any], status: int, sentence: str
) -> None:
    body = {"Image": "busybox", "Cmd": ["true"], **fields}
    made = engine.call("POST", f"/containers/create?name={name}", body)
    assert made.status == 201, made.body
    reply = engine.call("POST", f"/containers/{name}/start")
    assert reply.status == status
    assert reply.message.startswith(sentence)


@pytest.mark.parametrize(
    "fields",
    [
        {"ExposedPorts": {"x": {}}},
        {"ExposedPorts": {"81/foo": {}, "70000/tcp": {}, "80-70/udp": {}}},
        {"Domainname": "d" * 300},
        host(Devices=[NULL | {"CgroupPermissions": "zz"}]),
    ],
    ids=str,
)
def test_what_no_start_looks_at(engine: Engine, name: str, fields: dict[str, Any]) -> None:
    body = {"Image": "busybox", "Cmd": ["true"], **fields}
    assert engine.call("POST", f"/containers/create?name={name}", body).status == 201
    assert engine.call("POST", f"/containers/{name}/start").status == 204


@pytest.mark.parametrize(
    ("fields", "status", "sentence"),
    [
        ({"User": "nope"}, 400, "unable to find user nope: no matching entries in passwd file"),
        ({"User": "-1"}, 400, "uids and gids must be in range 0-2147483647"),
        ({"DetachKeys": "zz"}, 500, "Invalid escape keys (zz) provided"),
        ({"Cmd": []}, 400, "No exec command specified"),
    ],
)
def test_an_exec(
    engine: Engine, name: str, fields: dict[str, Any], status: int, sentence: str
) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", "sleep", "1000")
    reply = engine.call("POST", f"/containers/{name}/exec", {"Cmd": ["true"], **fields})
    assert (reply.status, reply.message) == (status, sentence)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"WorkingDir": "x"}, f"{EXEC}Cwd must be an absolute path"),
        (
            {"Env": ["=a"]},
            f"{EXEC}unable to start container process: "
            "invalid environment variable: name cannot be empty",
        ),
    ],
)
def test_a_start_of_an_exec(
    engine: Engine, name: str, fields: dict[str, Any], sentence: str
) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", "sleep", "1000")
    made = engine.call("POST", f"/containers/{name}/exec", {"Cmd": ["true"], **fields})
    assert made.status == 201
    reply = engine.call("POST", f"/exec/{made.json()['Id']}/start", {"Detach": True})
    assert (reply.status, reply.message) == (500, sentence)


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("GET", "/events?since=x", 500, 'strconv.ParseInt: parsing "x": invalid syntax'),
        ("GET", "/containers/json?limit=x", 500, 'strconv.Atoi: parsing "x": invalid syntax'),
        ("POST", "/containers/nope/stop?t=x", 500, 'strconv.Atoi: parsing "x": invalid syntax'),
        ("POST", "/containers/nope/restart?t=x", 500, 'strconv.Atoi: parsing "x": invalid syntax'),
        (
            "POST",
            "/containers/nope/kill?signal=zz",
            400,
            "cannot kill container: nope: invalid signal: zz",
        ),
        ("GET", "/containers/nope/logs?stdout=1&since=x", 404, "No such container: nope"),
        ("GET", "/containers/nope/top?ps_args=%22", 404, "No such container: nope"),
        ("GET", "/images/get?names=", 500, "invalid reference format"),
        ("POST", "/images/a%20b/tag?repo=x", 404, "invalid reference format"),
        ("POST", "/auth", 500, "EOF"),
    ],
)
def test_a_request(engine: Engine, method: str, path: str, status: int, sentence: str) -> None:
    reply = engine.call(method, path)
    assert (reply.status, reply.message) == (status, sentence)


def test_events_until_the_epoch_are_those_until_now(engine: Engine, name: str) -> None:
    engine.docker("create", "--name", name, "busybox")
    seen = engine.call("GET", "/events?until=0").body.decode().splitlines()
    assert any(f'"name":"{name}"' in line and '"Action":"create"' in line for line in seen)


def test_a_network_of_ones_own(engine: Engine, name: str) -> None:
    engine.docker("create", "--name", name, "--network", f"container:{name}", "busybox")
    reply = engine.call("POST", f"/containers/{name}/start")
    assert (reply.status, reply.message) == (500, "cannot join own network namespace")


def test_two_values_come_in_any_order(engine: Engine) -> None:
    """dockerd keeps them in a map, and so tells them in another order each time."""
    filters = quote('{"all":["false"],"label":["nosuch"]}')
    reply = engine.call("POST", f"/v1.41/volumes/prune?filters={filters}")
    assert reply.status == 400
    assert reply.message in {
        f"invalid filter 'all=[{values}]': only one value is expected"
        for values in ("false true", "true false")
    }
