"""The plan that the runtime gets, read as a list of things."""

from __future__ import annotations

import msgspec
import pytest

from engine.config import EngineConfig
from engine.container import defaults, spec
from engine.container.model import (
    BindOptions,
    Config,
    Container,
    HostConfig,
    MountPoint,
    MountRequest,
    MountType,
    Resources,
    Ulimit,
)
from engine.container.security import SecurityOptions
from engine.container.user import User
from engine.errors import InvalidParameter
from engine.ids import ContainerId
from engine.oci import runtime as oci

ID = ContainerId("a" * 64)
OWN = dict.fromkeys(("mount", "uts", "pid", "ipc"), spec.OWN)


def container(host_config: HostConfig | None = None, **config: object) -> Container:
    asked = msgspec.convert({"hostname": "box", **config}, Config)
    completed = defaults.complete(
        host_config or HostConfig(), EngineConfig(), cgroup_version=1, find_id=str
    )
    return Container(
        id=ID,
        name="box",
        created_ns=1,
        config=asked,
        host_config=completed,
        image_id="",
        path="prog",
        args=("arg",),
    )


def build(asked: Container, **facts: object) -> oci.Spec:
    around = {
        "root": "/run/x/rootfs",
        "user": User(0, 0, (0,), "/root"),
        "capabilities": ("CAP_CHOWN",),
        "security": SecurityOptions(),
        "namespaces": {**OWN, "network": "/run/x/netns"},
        "cgroup_path": "parent/id",
    }
    return spec.build(asked, spec.Surroundings(**{**around, **facts}))  # type: ignore[arg-type]


def targets(made: oci.Spec) -> list[str]:
    return [mount.destination for mount in made.mounts]


def mount(made: oci.Spec, target: str) -> oci.Mount:
    (found,) = [m for m in made.mounts if m.destination == target]
    return found


def point(destination: str, **facts: object) -> MountPoint:
    given = {"type": "bind", "source": "/src", "propagation": "rprivate", **facts}
    return msgspec.convert({"destination": destination, **given}, MountPoint)


def with_points(*points: MountPoint, host_config: HostConfig | None = None) -> Container:
    return msgspec.structs.replace(container(host_config), mount_points=points)


def test_default_mounts_in_docker_order() -> None:
    files = {"/etc/resolv.conf": "/d/r", "/etc/hostname": "/d/n", "/etc/hosts": "/d/h"}
    made = build(container(), network_files=files)
    assert targets(made) == [
        "/proc",
        "/dev",
        "/dev/pts",
        "/sys",
        "/sys/fs/cgroup",
        "/dev/mqueue",
        "/dev/shm",
        "/etc/resolv.conf",
        "/etc/hostname",
        "/etc/hosts",
    ]
    assert mount(made, "/dev/shm").options == (
        "nosuid",
        "noexec",
        "nodev",
        "mode=1777",
        "size=67108864",
    )


def test_a_users_mount_replaces_the_default() -> None:
    made = build(with_points(point("/dev/shm", source="/shared")))
    assert mount(made, "/dev/shm").source == "/shared"
    made = build(with_points(point("/dev")))
    assert [t for t in targets(made) if t.startswith("/dev")] == ["/dev"]


def test_mounts_are_made_by_depth() -> None:
    made = build(with_points(point("/a/b/c"), point("/a"), point("/a/b")))
    assert targets(made)[-3:] == ["/a", "/a/b", "/a/b/c"]


def test_read_only_binds_reach_below_unless_told_otherwise() -> None:
    made = build(with_points(point("/a", is_writable=False)))
    assert mount(made, "/a").options == ("rbind", "rro", "rprivate")
    shallow = MountRequest(
        type=MountType.BIND, bind_options=BindOptions(read_only_non_recursive=True)
    )
    made = build(with_points(point("/a", is_writable=False, spec=msgspec.to_builtins(shallow))))
    assert mount(made, "/a").options == ("rbind", "ro", "rprivate")
    made = build(with_points(point("/a", is_writable=False)), has_recursive_read_only=False)
    assert mount(made, "/a").options == ("rbind", "ro", "rprivate")


def test_slave_and_shared_binds_open_the_root() -> None:
    assert build(container()).linux.rootfs_propagation == ""
    made = build(with_points(point("/a", propagation="rslave")))
    assert made.linux.rootfs_propagation == "rslave"
    made = build(with_points(point("/a", propagation="rslave"), point("/b", propagation="shared")))
    assert made.linux.rootfs_propagation == "shared"


def test_a_read_only_root_leaves_dev_and_shm_writable() -> None:
    made = build(
        with_points(point("/data"), host_config=HostConfig(readonly_rootfs=True)),
        network_files={"/etc/hosts": "/d/h"},
    )
    assert made.root.readonly
    for target in ("/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/data"):
        assert "ro" not in mount(made, target).options, target
    for target in ("/sys", "/etc/hosts"):
        assert "ro" in mount(made, target).options, target


def test_privileged_takes_the_covers_off() -> None:
    made = build(container(HostConfig(privileged=True)))
    assert made.linux.masked_paths == made.linux.readonly_paths == ()
    assert "ro" not in mount(made, "/sys").options
    assert "ro" not in mount(made, "/sys/fs/cgroup").options


def test_writable_cgroups_alone() -> None:
    made = build(container(), security=SecurityOptions(writable_cgroups=True))
    assert "ro" not in mount(made, "/sys/fs/cgroup").options
    assert "ro" in mount(made, "/sys").options


def test_the_sandbox_hides_what_docker_hides() -> None:
    made = build(container())
    assert made.linux.masked_paths == spec.MASKED_PATHS
    assert made.linux.readonly_paths == spec.READONLY_PATHS


def test_no_masks_when_an_empty_list_was_sent() -> None:
    made = build(container(HostConfig(masked_paths=(), readonly_paths=())))
    assert made.linux.masked_paths == made.linux.readonly_paths == ()


def test_capabilities_are_neither_inherited_nor_ambient() -> None:
    """Attack case R10."""
    found = build(container()).process.capabilities
    assert found is not None
    assert found.bounding == found.permitted == found.effective == ("CAP_CHOWN",)
    assert found.inheritable == found.ambient == ()


def test_the_environment() -> None:
    made = build(container(env=["A=1", "PATH=/mine", "HOSTNAME"], tty=True))
    assert made.process.env == ("PATH=/mine", "TERM=xterm", "A=1", "HOME=/root")
    made = build(container(env=["HOME=/elsewhere"]))
    assert made.process.env[1:] == ("HOSTNAME=box", "HOME=/elsewhere")


def test_namespaces_in_order_and_only_those_wanted() -> None:
    made = build(container(), namespaces={"ipc": "/proc/1/ns/ipc", "mount": spec.OWN})
    assert made.linux.namespaces == (
        oci.Namespace(type="mount"),
        oci.Namespace(type="ipc", path="/proc/1/ns/ipc"),
    )
    assert made.hostname == ""  # the host's name is not ours to set


def test_the_hosts_ipc_brings_its_shm() -> None:
    made = build(container(HostConfig(ipc_mode="host")), namespaces={"mount": spec.OWN})
    assert mount(made, "/dev/shm").source == "/dev/shm"
    assert mount(made, "/dev/mqueue").type == "mqueue"


def test_no_shm_at_all() -> None:
    assert "/dev/shm" not in targets(build(container(HostConfig(ipc_mode="none"))))


def test_ports_below_1024_and_ping_need_no_capability() -> None:
    made = build(container())
    assert made.linux.sysctl["net.ipv4.ip_unprivileged_port_start"] == "0"
    host = build(container(HostConfig(network_mode="host")), namespaces=OWN)
    assert host.linux.sysctl == {}


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("kernel.foo", 'sysctl "kernel.foo" is not in a separate kernel namespace'),
        ("vm.swappiness", 'sysctl "vm.swappiness" is not in a separate kernel namespace'),
        ("net.ipv4.x", 'sysctl "net.ipv4.x" not allowed in host network namespace'),
        ("kernel.shmmax", 'sysctl "kernel.shmmax" is not allowed in the hosts ipc namespace'),
        ("net../../kernel/x", "is not in a separate kernel namespace"),
    ],
)
def test_sysctls_of_the_host_are_refused(name: str, cause: str) -> None:
    """Attack case A8."""
    asked = container(HostConfig(sysctls={name: "1"}, network_mode="host", ipc_mode="host"))
    with pytest.raises(InvalidParameter) as caught:
        build(asked, namespaces={"mount": spec.OWN})
    assert cause in str(caught.value)


def test_ulimits_of_the_daemon_stand_under_the_containers() -> None:
    own = (Ulimit(name="nofile", soft=1, hard=2),)
    made = build(
        container(HostConfig(resources=Resources(ulimits=own))),
        default_ulimits=(
            Ulimit(name="nofile", soft=8, hard=9),
            Ulimit(name="core", soft=-1, hard=-1),
        ),
    )
    assert made.process.rlimits == (
        oci.Rlimit(type="RLIMIT_NOFILE", soft=1, hard=2),
        oci.Rlimit(type="RLIMIT_CORE", soft=2**64 - 1, hard=2**64 - 1),
    )


def test_an_unknown_ulimit() -> None:
    with pytest.raises(InvalidParameter, match=r"wrong rlimit value: RLIMIT_FOO$"):
        spec.rlimits([Ulimit(name="foo", soft=1, hard=1)], [])


def test_the_document_has_the_specs_names() -> None:
    document = oci.document(build(container(tty=True)))
    assert {"ociVersion", "process", "root", "mounts", "linux", "hostname"} <= set(document)
    linux = document["linux"]
    assert isinstance(linux, dict)
    assert {"cgroupsPath", "maskedPaths", "readonlyPaths", "namespaces"} <= set(linux)
