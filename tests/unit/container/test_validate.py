"""Bad requests, each with dockerd's sentence, and what would be written raw into files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.container import limits, validate
from engine.container.model import (
    Config,
    CreateRequest,
    Healthcheck,
    HostConfig,
    MountRequest,
    PortBinding,
    Resources,
    RestartPolicy,
    RestartPolicyName,
)
from engine.errors import InvalidParameter
from engine.linux.capability import NAMES

HOST = limits.Host(cpu_count=2, cpus="0-1")
RUNTIMES = frozenset({"wharf", "runc"})
CAPABILITIES = frozenset(NAMES) - {"CAP_SYS_RESOURCE"}


def check(config: Config | None = None, host: HostConfig | None = None) -> list[str]:
    request = CreateRequest(
        config=config or Config(image="busybox"), host_config=host or HostConfig()
    )
    _, warnings = validate.check(request, HOST, runtimes=RUNTIMES, available=CAPABILITIES)
    return warnings


def sentence(config: Config | None = None, host: HostConfig | None = None) -> str:
    with pytest.raises(InvalidParameter) as caught:
        check(config, host)
    return str(caught.value)


def test_a_plain_request_is_fine() -> None:
    assert check() == []


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Config(env=("=x",)), "invalid environment variable: =x"),
        (
            Config(working_dir="x"),
            "the working directory 'x' is invalid, it needs to be an absolute path",
        ),
        (Config(stop_signal="FOO"), "invalid signal: FOO"),
        (
            Config(healthcheck=Healthcheck(interval_ns=1)),
            "Interval in Healthcheck cannot be less than 1ms",
        ),
        (
            Config(healthcheck=Healthcheck(retries=-1)),
            "Retries in Healthcheck cannot be negative",
        ),
    ],
)
def test_configs(config: Config, expected: str) -> None:
    assert sentence(config) == expected


ALWAYS = RestartPolicy(name=RestartPolicyName.ALWAYS)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (
            HostConfig(auto_remove=True, restart_policy=ALWAYS),
            "can't create 'AutoRemove' container with restart policy",
        ),
        (
            HostConfig(
                restart_policy=RestartPolicy(name=RestartPolicyName.ALWAYS, maximum_retry_count=3)
            ),
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ),
        (
            HostConfig(
                restart_policy=RestartPolicy(
                    name=RestartPolicyName.ON_FAILURE, maximum_retry_count=-1
                )
            ),
            "invalid restart policy: maximum retry count cannot be negative",
        ),
        (HostConfig(cap_add=("FOO",)), 'invalid CapAdd: unknown capability: "CAP_FOO"'),
        (
            HostConfig(cap_add=("sys_resource",)),
            "invalid CapAdd: capability not supported by your kernel or not available in the "
            'current environment: "CAP_SYS_RESOURCE"',
        ),
        (HostConfig(cap_drop=("x",)), 'invalid CapDrop: unknown capability: "CAP_X"'),
        (HostConfig(extra_hosts=("a",)), 'bad format for add-host: "a"'),
        (HostConfig(extra_hosts=("a:b",)), 'invalid IP address in add-host: "b"'),
        (
            HostConfig(port_bindings={"x/tcp": (PortBinding(),)}),
            'invalid port specification: "x"',
        ),
        (
            HostConfig(port_bindings={"80/tcp": (PortBinding(host_port="99999"),)}),
            'invalid port specification: "99999"',
        ),
        (HostConfig(ipc_mode="x"), "invalid IPC mode: x"),
        (HostConfig(pid_mode="container:"), "invalid PID mode: container:"),
        (HostConfig(uts_mode="x"), "invalid UTS mode: x"),
        (HostConfig(cgroupns_mode="x"), "invalid cgroup namespace mode: x"),
        (HostConfig(runtime="x"), "unknown or invalid runtime name: x"),
        (HostConfig(shm_size_bytes=-1), "SHM size can not be less than 0"),
        (
            HostConfig(oom_score_adj=-2000),
            "Invalid value -2000, range for oom score adj is [-1000, 1000]",
        ),
        (
            HostConfig(isolation="hyperv"),
            "invalid isolation (hyperv): linux only supports 'default'",
        ),
        (
            HostConfig(tmpfs={"/": ""}),
            "invalid specification: destination can't be '/'",
        ),
        (HostConfig(security_opt=("foo",)), 'invalid --security-opt 1: "foo"'),
        (HostConfig(security_opt=("foo=1",)), 'invalid --security-opt 2: "foo=1"'),
        (
            HostConfig(security_opt=("no-new-privileges=maybe",)),
            'invalid --security-opt 2: "no-new-privileges=maybe"',
        ),
        (HostConfig(links=("a:b:c",)), "bad format for links: a:b:c"),
        (
            HostConfig(mounts=(MountRequest(type="foo", target="/t"),)),
            'invalid mount config for type "foo": mount type unknown',
        ),
        (
            HostConfig(network_mode="container:x", dns=("1.1.1.1",)),
            "conflicting options: dns and the network mode",
        ),
        (
            HostConfig(network_mode="container:"),
            "invalid network mode: invalid container format container:<name|id>",
        ),
    ],
)
def test_host_configs(host: HostConfig, expected: str) -> None:
    assert sentence(host=host) == expected


def test_a_hostname_without_a_uts_namespace() -> None:
    expected = "conflicting options: hostname and the UTS mode"
    assert sentence(Config(hostname="h"), HostConfig(uts_mode="host")) == expected


def test_what_is_dropped_is_said() -> None:
    host = HostConfig(network_mode="host", port_bindings={"80/tcp": (PortBinding(),)})
    assert check(host=host) == ["Published ports are discarded when using host network mode"]


@pytest.mark.parametrize(
    "host",
    [
        HostConfig(extra_hosts=("a:1.1.1.1\n2.2.2.2 b",)),
        HostConfig(dns_search=("a\nnameserver 6.6.6.6",)),
        HostConfig(dns_options=("ndots:1\n",)),
        HostConfig(resources=Resources(cgroup_parent="../../x")),
        HostConfig(resources=Resources(cgroup_parent="a\nb")),
    ],
)
def test_lines_cannot_be_smuggled_into_files(host: HostConfig) -> None:
    """Attack case A8."""
    assert sentence(host=host)


def test_a_hostname_is_one_line() -> None:
    assert "hostname" in sentence(Config(hostname="a\nb"))


def test_newlines_elsewhere_are_ordinary() -> None:
    check(Config(env=("A=1\n2",), labels={"l": "1\n2"}, cmd=("sh", "-c", "a\nb")))


@given(
    st.sampled_from(["env", "cmd", "label", "bind", "user"]),
    st.text(max_size=5),
    st.text(max_size=5),
)
def test_nul_is_refused_wherever_it_stands(place: str, before: str, after: str) -> None:
    text = f"a{before}\0{after}"
    config, host = Config(), HostConfig()
    match place:
        case "env":
            config = Config(env=(f"A={text}",))
        case "cmd":
            config = Config(cmd=(text,))
        case "label":
            config = Config(labels={text: "x"})
        case "user":
            config = Config(user=text)
        case _:
            host = HostConfig(binds=(f"/{text}:/x",))
    assert "NUL" in sentence(config, host)


def test_a_backslash_and_digits_are_no_nul() -> None:
    check(Config(env=("A=\\u0000",)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a", ("a", "a")), ("a:b", ("a", "b")), ("/a:/web/b", ("a", "b"))],
)
def test_links(text: str, expected: tuple[str, str]) -> None:
    assert validate.parse_link(text) == expected
