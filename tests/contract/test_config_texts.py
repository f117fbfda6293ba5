"""The sentences about flags and daemon.json, word for word as dockerd 28.5.2 has them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from compat.daemon.configuration import ConfigurationError, command_line, configure
from compat.daemon.flags import UsageError

if TYPE_CHECKING:
    from pathlib import Path

FLAG_SENTENCES = {
    "--nope": "unknown flag: --nope",
    "--graph x": "unknown flag: --graph",
    "-Z": "unknown shorthand flag: 'Z' in -Z",
    "--bip": "flag needs an argument: --bip",
    "--debug=maybe": 'invalid argument "maybe" for "-D, --debug" flag: '
    'strconv.ParseBool: parsing "maybe": invalid syntax',
    "--mtu=x": 'invalid argument "x" for "--mtu" flag: '
    'strconv.ParseInt: parsing "x": invalid syntax',
    "--mtu 99999999999999999999": 'invalid argument "99999999999999999999" for "--mtu" flag: '
    'strconv.ParseInt: parsing "99999999999999999999": value out of range',
    "-H foo://x": 'invalid argument "foo://x" for "-H, --host" flag: '
    "invalid bind address (foo://x): unsupported proto 'foo'",
    "-H tcp://x/y": 'invalid argument "tcp://x/y" for "-H, --host" flag: '
    "invalid bind address (tcp://x/y): should not contain a path element",
    "-H :0": 'invalid argument ":0" for "-H, --host" flag: '
    "invalid bind address (:0): invalid port: 0",
    "--label foo": 'invalid argument "foo" for "--label" flag: bad attribute format: foo',
    "--dns x": 'invalid argument "x" for "--dns" flag: '
    "invalid string being converted to IP address: x",
    "--default-gateway x": 'invalid argument "x" for "--default-gateway" flag: '
    'failed to parse IP: "x"',
    "--default-ulimit nofile": 'invalid argument "nofile" for "--default-ulimit" flag: '
    "invalid ulimit argument: nofile",
    "--default-ulimit foo=1": 'invalid argument "foo=1" for "--default-ulimit" flag: '
    "invalid ulimit type: foo",
    "--default-ulimit nofile=5:4": 'invalid argument "nofile=5:4" for "--default-ulimit" flag: '
    "ulimit soft limit must be less than or equal to hard limit: 5 > 4",
    "--default-shm-size x": 'invalid argument "x" for "--default-shm-size" flag: '
    "invalid size: 'x'",
    "--default-address-pool x": 'invalid argument "x" for "--default-address-pool" flag: '
    "invalid field 'x' must be a key=value pair",
    "--add-runtime x": 'invalid argument "x" for "--add-runtime" flag: invalid runtime argument: x',
    "--add-runtime runc=/x": 'invalid argument "runc=/x" for "--add-runtime" flag: '
    "runtime name 'runc' is reserved",
    "--registry-mirror x": 'invalid argument "x" for "--registry-mirror" flag: '
    "invalid mirror: no scheme specified for \"x\": must use either 'https://' or 'http://'",
    "--insecure-registry -x": 'invalid argument "-x" for "--insecure-registry" flag: '
    "invalid index name (-x). Cannot begin or end with a hyphen",
    "--feature a=b": 'invalid argument "a=b" for "--feature" flag: '
    'strconv.ParseBool: parsing "b": invalid syntax',
    "--default-network-opt a": 'invalid argument "a" for "--default-network-opt" flag: '
    'invalid value "a" for map option, should be root-key=key=value',
    "--node-generic-resource x": 'invalid argument "x" for "--node-generic-resource" flag: '
    "invalid node-generic-resource format `x` expected `name=value`",
}


@pytest.mark.parametrize("words", FLAG_SENTENCES)
def test_flags(words: str) -> None:
    with pytest.raises(UsageError) as caught:
        command_line(words.split())
    assert str(caught.value) == FLAG_SENTENCES[words]


def test_flags_that_were_removed_say_so() -> None:
    line = command_line(["--restart", "--allow-nondistributable-artifacts=x"])
    assert line.notices == (
        "Flag --restart has been deprecated, Please use a restart policy on docker run",
        "Flag --allow-nondistributable-artifacts has been deprecated, "
        "Pushing nondistributable artifacts is now enabled by default. ",
    )


BOTH = "the following directives are specified both as a flag and in the configuration file: "
UNKNOWN = "the following directives don't match any configuration option: "
MERGED = "merged configuration validation from file and command line flags failed: "

FILE_SENTENCES = [
    ({"foo": 1, "bar": 2}, "", UNKNOWN + "foo, bar"),
    ({"graph": "/x"}, "", UNKNOWN + "graph"),
    ({"Debug": True}, "", UNKNOWN + "Debug"),
    ({"debug": True}, "--debug", BOTH + "debug: (from flag: true, from file: true)"),
    (
        {"hosts": ["unix:///a"], "labels": ["a=b"]},
        "-H tcp://1 --label x=y",
        BOTH + "hosts: (from flag: [tcp://1], from file: [unix:///a]), "
        "labels: (from flag: [x=y], from file: [a=b])",
    ),
    (
        {"proxies": {"http-proxy": "http://a:b@c"}},
        "--http-proxy http://d:e@f",
        BOTH + "http-proxy: (from flag: http://xxxxx:xxxxx@f, from file: http://xxxxx:xxxxx@c)",
    ),
    (
        {"host-gateway-ip": "1.1.1.1", "host-gateway-ips": ["1.1.1.1"]},
        "",
        "host-gateway-ip and host-gateway-ips must not both be specified in the config file",
    ),
    ({"log-level": "loud"}, "", MERGED + "invalid logging level: loud"),
    ({"log-format": "x"}, "", MERGED + "invalid log format: x"),
    ({"mtu": -1}, "", MERGED + "invalid default MTU: -1"),
    ({}, "--max-concurrent-uploads=-1", MERGED + "invalid max concurrent uploads: -1"),
    (
        {},
        "--default-ipc-mode x",
        MERGED + 'default IPC mode setting (x) is invalid; use "shareable" or "private"',
    ),
    (
        {},
        "--default-ipc-mode host",
        MERGED + 'IPC mode "host" is not supported as default value; use "shareable" or "private"',
    ),
    (
        {"default-cgroupns-mode": "x"},
        "",
        MERGED + 'invalid default cgroup namespace (x): use "host" or "private"',
    ),
    (
        {"host-gateway-ips": ["1.1.1.1", "2.2.2.2"]},
        "",
        MERGED + "only one IPv4 host gateway IP address can be specified",
    ),
    (
        {"labels": "x"},
        "",
        "invalid JSON: json: cannot unmarshal string into Go struct field Config.labels "
        "of type []string",
    ),
    (
        {"log-opts": {"a": 1}},
        "",
        "invalid JSON: json: cannot unmarshal number into Go struct field Config.log-opts.a "
        "of type string",
    ),
    (
        {"hosts": [1]},
        "",
        "invalid JSON: json: cannot unmarshal number into Config.hosts.0 of type string",
    ),
    ({"exec-opts": ["a"]}, "", MERGED + "invalid exec-opt (a): must be formatted 'opt=value'"),
    (
        {"exec-opts": ["isolation=x"]},
        "",
        MERGED + "invalid exec-opt (isolation=x): option 'isolation' is only supported on windows",
    ),
    (
        {"api-cors-header": "*"},
        "",
        MERGED + 'DEPRECATED: The "api-cors-header" config parameter and the dockerd '
        '"--api-cors-header" option have been removed; '
        "use a reverse proxy if you need CORS headers",
    ),
]


@pytest.mark.parametrize(("document", "words", "sentence"), FILE_SENTENCES)
def test_file(document: object, words: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigurationError) as caught:
        configure(command_line([*words.split(), "--config-file", str(path)]), {})
    prefix = f"unable to configure the Docker daemon with file {path}: "
    assert str(caught.value) == prefix + sentence


def test_no_such_file() -> None:
    with pytest.raises(ConfigurationError) as caught:
        configure(command_line(["--config-file=/nope"]), {})
    assert str(caught.value) == (
        "unable to configure the Docker daemon with file /nope: "
        "open /nope: no such file or directory"
    )
