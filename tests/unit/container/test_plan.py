"""Small pure rooms: defaults, environment, keys, security options, logs, failures, devices."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import EngineConfig
from engine.container import (
    capabilities,
    defaults,
    devices,
    environment,
    failure,
    keys,
    logconfig,
    security,
    update,
)
from engine.container.model import (
    Config,
    DeviceMapping,
    EndpointConfig,
    HostConfig,
    LogConfig,
    Resources,
    RestartPolicy,
    RestartPolicyName,
)
from engine.errors import EngineError, InvalidParameter, NotImplementedHere
from engine.ids import NetworkId
from engine.linux import tree
from engine.linux.capability import NAMES
from engine.network.model import Network

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
EVERYTHING = frozenset(NAMES)


# Defaults


def complete(host: HostConfig, cgroup_version: int = 2) -> HostConfig:
    return defaults.complete(
        host, EngineConfig(), cgroup_version=cgroup_version, find_id=lambda ref: f"id-of-{ref}"
    )


def test_dockers_defaults() -> None:
    made = complete(HostConfig())
    assert (made.shm_size_bytes, made.ipc_mode, made.network_mode) == (
        64 * MIB,
        "private",
        "bridge",
    )
    assert made.runtime == "wharf"
    assert made.masked_paths
    assert made.readonly_paths


def test_cgroup_namespaces_by_version() -> None:
    assert complete(HostConfig(), 2).cgroupns_mode == "private"
    assert complete(HostConfig(), 1).cgroupns_mode == "host"
    assert complete(HostConfig(privileged=True), 2).cgroupns_mode == "private"
    assert complete(HostConfig(cgroupns_mode="private"), 1).cgroupns_mode == "private"


def test_swap_is_twice_the_memory() -> None:
    made = complete(HostConfig(resources=Resources(memory_bytes=10 * MIB)))
    assert made.resources.memory_swap_bytes == 20 * MIB


def test_shared_namespaces_name_ids() -> None:
    made = complete(HostConfig(pid_mode="container:web", network_mode="container:web"))
    assert (made.pid_mode, made.network_mode) == ("container:id-of-web",) * 2


def test_privileged_has_no_masks_unless_asked() -> None:
    assert complete(HostConfig(privileged=True)).masked_paths is None
    assert complete(HostConfig(masked_paths=())).masked_paths == ()


WISH = EndpointConfig(aliases=("a",))
MINE = Network(id=NetworkId("1" * 64), name="mine", created_ns=0, driver="bridge")


@pytest.mark.parametrize(
    ("mode", "asked", "names"),
    [
        ("bridge", {}, ["bridge"]),
        ("mine", {}, ["mine"]),
        ("1" * 12, {}, ["mine"]),
        ("bridge", {"other": WISH}, ["other"]),
        ("mine", {"other": WISH}, ["other"]),
        ("mine", {"1" * 64: WISH, "other": WISH}, ["mine", "other"]),
        ("1" * 64, {"mine": WISH}, ["mine"]),
        ("1" * 64, {"1" * 64: WISH}, ["mine"]),
        ("bridge", {"default": WISH}, ["bridge"]),
        ("container:x", {"other": WISH}, []),
    ],
)
def test_endpoints(mode: str, asked: dict[str, EndpointConfig], names: list[str]) -> None:
    main = None if mode in ("bridge", "container:x") else MINE
    found = defaults.endpoints(Config(), HostConfig(network_mode=mode), asked, main)
    assert [each.network_name for each in found] == names
    assert [each.config for each in found if asked] == [WISH] * (len(names) if asked else 0)
    assert defaults.endpoints(Config(network_disabled=True), HostConfig(), asked, main) == ()


# Environment


def test_a_bare_name_removes() -> None:
    assert environment.override(["A=1", "B=2"], ["A", "C", "B=3"]) == ("B=3",)


def test_home_stays_if_said() -> None:
    assert environment.with_home(("HOME=/x",), "/root") == ("HOME=/x",)
    assert environment.with_home((), "") == ("HOME=/",)


# Detach keys


def test_detach_keys() -> None:
    assert keys.parse("ctrl-p,ctrl-q") == b"\x10\x11"
    assert keys.parse("a,DEL,ctrl-@,ctrl-_") == b"a\x7f\x00\x1f"
    assert keys.parse("") == b""
    for text in ("del", "ctrl-P", "x,del", "ctrl-?"):
        with pytest.raises(ValueError, match=r"^Unknown character: '"):
            keys.parse(text)


@given(st.text(max_size=12))
def test_any_text_is_keys_or_a_value_error(text: str) -> None:
    try:
        found = keys.parse(text)
    except ValueError:
        return
    assert len(found) == (text.count(",") + 1 if text else 0)


# Capabilities


def test_the_default_fourteen() -> None:
    given_ = capabilities.effective(add=(), drop=(), privileged=False, within=EVERYTHING)
    assert len(given_) == 14
    assert "CAP_SYS_ADMIN" not in given_


def test_add_and_drop() -> None:
    def effective(add: tuple[str, ...], drop: tuple[str, ...]) -> set[str]:
        return set(capabilities.effective(add=add, drop=drop, privileged=False, within=EVERYTHING))

    assert effective((), ("ALL",)) == set()
    assert effective(("CAP_KILL",), ("ALL",)) == {"CAP_KILL"}
    assert effective(("ALL",), ("CAP_KILL",)) == EVERYTHING - {"CAP_KILL"}
    assert "CAP_SYS_TIME" in effective(("CAP_SYS_TIME",), ("CAP_CHOWN",))
    assert "CAP_CHOWN" not in effective((), ("CAP_CHOWN",))


def test_names_with_and_without_prefix() -> None:
    found = capabilities.normalize(["chown", "CAP_KILL", "all"], EVERYTHING, "CapAdd")
    assert found == ("CAP_CHOWN", "CAP_KILL", "ALL")


# Security options


def test_security_options() -> None:
    parsed = security.parse(
        ["no-new-privileges", "seccomp=unconfined", "label=disable", "apparmor:x"]
    )
    assert parsed == security.SecurityOptions(
        seccomp="unconfined", apparmor="x", no_new_privileges=True
    )
    assert not security.parse(["no-new-privileges=false"], no_new_privileges=True).no_new_privileges


# Logs


def log_plan(config: dict[str, str], **container: object) -> dict[str, object]:
    asked = Config(labels={"a": "1", "b": "2"}, env=("E=3",))
    return logconfig.plan(
        LogConfig(type="json-file", config=config),
        "/path",
        asked,
        container_id="c" * 64,
        name="web",
        image="img",
    )


def test_logs_are_rotated_unless_told_otherwise() -> None:
    plan = log_plan({})
    assert (plan["max_size"], plan["max_file"]) == (20_000_000, 3)
    plan = log_plan({"max-size": "10k"})
    assert (plan["max_size"], plan["max_file"]) == (10_000, 1)
    assert log_plan({"max-size": "1k", "max-file": "+2", "compress": "1"})["compress"] is True


def test_attributes_of_records() -> None:
    options = {"labels": "a,x", "env": "E", "tag": "{{.Name}}/{{.ID}}"}
    assert log_plan(options)["attrs"] == {"a": "1", "E": "3", "tag": f"web/{'c' * 12}"}
    assert log_plan({"labels-regex": "^b"})["attrs"] == {"b": "2"}


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"max-size": "x"}, "invalid size: 'x'"),
        ({"max-size": "-1"}, "invalid size: '-1'"),
        ({"max-size": ""}, "invalid size: ''"),
        ({"max-size": "10x"}, "invalid suffix: 'x'"),
        ({"max-size": " 5"}, 'strconv.ParseFloat: parsing " 5": invalid syntax'),
        ({"max-size": "0"}, "max-size must be a positive number"),
        ({"max-file": "0"}, "max-file cannot be less than 1"),
        ({"max-file": "1.5"}, 'strconv.Atoi: parsing "1.5": invalid syntax'),
        ({"max-file": "9" * 20}, f'strconv.Atoi: parsing "{"9" * 20}": value out of range'),
        ({"compress": ""}, 'strconv.ParseBool: parsing "": invalid syntax'),
        (
            {"compress": "true"},
            "compress cannot be true when max-file is less than 2 or max-size is not set",
        ),
        (
            {"compress": "true", "max-size": "1m"},
            "compress cannot be true when max-file is less than 2 or max-size is not set",
        ),
        (
            {"tag": "{{.Foo}}"},
            'template: log-tag:1:2: executing "log-tag" at <.Foo>: '
            "can't evaluate field Foo in type *logger.Info",
        ),
        ({"tag": "{{"}, "template: log-tag:1: unclosed action"),
        ({"env-regex": "("}, "error parsing regexp: missing closing ): `(`"),
    ],
)
def test_options_that_fail_at_start(options: dict[str, str], cause: str) -> None:
    with pytest.raises(EngineError) as caught:
        log_plan(options)
    assert str(caught.value) == (
        f"failed to create task for container: failed to initialize logging driver: {cause}"
    )


def test_drivers() -> None:
    def finished(type_: str, **config: str) -> LogConfig:
        return logconfig.complete(
            LogConfig(type=type_, config=config), driver="json-file", options={"max-file": "2"}
        )

    assert finished("").config == {"max-file": "2"}
    assert finished("none").config == {}
    with pytest.raises(InvalidParameter, match=r'plugin "foo" not found$'):
        finished("foo")
    with pytest.raises(InvalidParameter, match=r"^unknown log opt 'foo' for json-file log driver$"):
        finished("json-file", foo="1")
    with pytest.raises(NotImplementedHere):
        finished("syslog")


@pytest.mark.parametrize(
    ("text", "size"),
    [("10", 10), ("1k", 1000), ("1KiB", 1000), ("1.5m", 1_500_000), ("20 MB", 20_000_000)],
)
def test_files_are_measured_in_thousands(text: str, size: int) -> None:
    assert log_plan({"max-size": text})["max_size"] == size


# Failures of a start


@pytest.mark.parametrize(
    ("text", "code", "end"),
    [
        ('exec: "x": executable file not found in $PATH', 127, "in $PATH"),
        ('exec: "/x": stat /x: no such file or directory', 127, "directory"),
        ('exec: "/x": permission denied', 126, "denied"),
        ('exec: "/etc": is a directory', 126, ": permission denied"),
        ('error mounting "/a": not a directory', 127, "is the expected type"),
        ("something else", 128, "else"),
    ],
)
def test_exit_codes_are_read_off_the_sentence(text: str, code: int, end: str) -> None:
    found = failure.of_create(text)
    assert found.exit_code == code
    assert text in str(found.error)
    assert str(found.error).endswith(end)
    assert isinstance(found.error, InvalidParameter if code != 128 else EngineError)


# Devices


def test_device_rules() -> None:
    rule = devices.parse_rule("c 13:* rw")
    assert (rule.type, rule.major, rule.minor, rule.access) == ("c", 13, None, "rw")
    for text in ("x", "c 1:2", "c 1:2 x", "d 1:2 r", "c 1:2 rwmm", "c 99999999999:1 r"):
        with pytest.raises(InvalidParameter, match=r"^invalid device cgroup rule format: '"):
            devices.parse_rule(text)


def test_a_folder_deeper_than_python_s_stack_has_no_devices(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=folder)
        deeper = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = deeper
    os.close(folder)
    try:
        with pytest.raises(InvalidParameter, match="not a device node"):
            devices.from_mapping(DeviceMapping(path_on_host=str(tmp_path)))
    finally:
        tree.remove(str(tmp_path / "d"))


def test_a_fifo_is_no_device_to_set_rules_for(tmp_path: Path) -> None:
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    mapping = DeviceMapping(path_on_host=fifo, cgroup_permissions="rwm")
    with pytest.raises(
        InvalidParameter, match=r'runc create failed: invalid cgroup device type "p"'
    ):
        devices.plan([mapping], [], privileged=False)
    with pytest.raises(InvalidParameter, match="not a device node"):
        devices.plan([DeviceMapping(path_on_host=str(tmp_path))], [], privileged=False)


def test_fuse_stays_closed() -> None:
    assert devices.DEFAULT_RULES[0].allow is False
    last = devices.DEFAULT_RULES[-1]
    assert (last.allow, last.major, last.minor) == (False, 10, 229)


# Updates


def test_updates_change_only_what_is_named() -> None:
    current = HostConfig(resources=Resources(memory_bytes=10 * MIB, memory_swap_bytes=-1))
    made = update.merged(current, Resources(cpu_shares=5, pids_limit=0), None)
    assert made.resources == Resources(
        memory_bytes=10 * MIB, memory_swap_bytes=-1, cpu_shares=5, pids_limit=0
    )


def test_updates_that_clash() -> None:
    swap = HostConfig(resources=Resources(memory_bytes=MIB, memory_swap_bytes=2 * MIB))
    with pytest.raises(InvalidParameter, match=r"^Memory limit should be smaller"):
        update.merged(swap, Resources(memory_bytes=3 * MIB), None)
    cpus = HostConfig(resources=Resources(nano_cpus=1))
    with pytest.raises(InvalidParameter, match=r"CPU Quota cannot be updated as NanoCPUs"):
        update.merged(cpus, Resources(cpu_quota_us=5000), None)
    always = RestartPolicy(name=RestartPolicyName.ALWAYS)
    with pytest.raises(InvalidParameter, match=r"because AutoRemove is enabled"):
        update.merged(HostConfig(auto_remove=True), Resources(), always)
