"""compat.daemon.configuration: flags, file and environment merged into one value."""

from __future__ import annotations

import codecs
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compat.daemon import file
from compat.daemon.configuration import (
    Configuration,
    ConfigurationError,
    command_line,
    configure,
)
from compat.daemon.options import TABLE, by_flag, by_key

if TYPE_CHECKING:
    from pathlib import Path


def configured(*argv: str, environ: dict[str, str] | None = None) -> Configuration:
    words = argv if "--config-file" in argv else (*argv, "--config-file=")
    return configure(command_line(words), environ or {})


@pytest.fixture
def daemon_json(tmp_path: Path) -> Any:
    """A function that writes the file and merges it with flags."""

    def write(document: object, *argv: str) -> Configuration:
        path = tmp_path / "daemon.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return configured(*argv, "--config-file", str(path))

    return write


def test_flags_decide_over_defaults() -> None:
    config = configured(
        "-H", "unix:///b", "--host=unix:///a", "-H=unix:///b", "--mtu=1400", "--live-restore=false",
        "--log-opt", "max-size=1m", "--label", "a=b", "--dns=1.1.1.1,::1", "-D",
    ).engine  # fmt: skip
    assert config.hosts == ("unix:///a", "unix:///b")
    assert config.mtu == 1400
    assert not config.live_restore
    assert config.log_opts == {"max-size": "1m"}
    assert config.labels == ("a=b",)
    assert config.dns == ("1.1.1.1", "::1")
    assert config.debug


def test_the_file_decides_over_defaults(daemon_json: Any) -> None:
    config = daemon_json(
        {
            "hosts": ["tcp://127.0.0.1:2375"],
            "live-restore": False,
            "insecure-registries": ["http://r:5000"],
            "registry-mirrors": ["https://m"],
            "default-shm-size": "1g",
            "proxies": {"http-proxy": "http://p", "no-proxy": "x"},
            "default-address-pools": [{"base": "10.10.0.0/16", "size": 24}],
            "log-opts": {"max-file": "3"},
            "mtu": 0,
            "dns": None,
            "log-driver": "",
        },
        "--debug",
    ).engine
    assert config.hosts == ("tcp://127.0.0.1:2375",)
    assert not config.live_restore
    assert config.insecure_registries == ("r:5000",)
    assert config.registry_mirrors == ("https://m/",)
    assert config.default_shm_size_bytes == 2**30
    assert (config.http_proxy, config.no_proxy) == ("http://p", "x")
    assert str(config.default_address_pools[0]) == "10.10.0.0/16 24"
    assert (config.mtu, config.dns, config.log_driver) == (1500, (), "json-file")
    assert config.debug


def test_mirrors_by_registry(daemon_json: Any) -> None:
    document = {"registries": {"quay.io": {"mirrors": ["https://m", "http://n:5000/x"]}}}
    assert daemon_json(document).engine.registries == {
        "quay.io": ("https://m/", "http://n:5000/x/")
    }
    flags = ("--registry", "quay.io=https://m", "--registry=quay.io=http://n")
    config = daemon_json({}, *flags).engine
    assert config.registries == {"quay.io": ("https://m/", "http://n/")}


@pytest.mark.parametrize(
    ("registries", "sentence"),
    [
        ([], ""),
        (["x"], 'must be an object of {"mirrors"} by registry'),
        ({"https://quay.io": {}}, '"https://quay.io" is no registry: must be a host or host:port'),
        ({"quay.io": ["https://m"]}, 'quay.io: must be {"mirrors"}'),
        ({"quay.io": {"mirror": ["https://m"]}}, 'quay.io: has no field "mirror"'),
        ({"quay.io": {"mirrors": "https://m"}}, "quay.io: must be a list of strings"),
        ({"quay.io": {"mirrors": [1]}}, "quay.io: must be a list of strings"),
        ({"quay.io": {"mirrors": ["m"]}}, 'quay.io: invalid mirror: no scheme specified for "m"'),
        ({"docker.io": {}, "index.docker.io": {}}, "docker.io was already defined"),
    ],
)
def test_mirrors_by_registry_that_cannot_be(
    daemon_json: Any, registries: object, sentence: str
) -> None:
    if not sentence:
        assert daemon_json({"registries": registries}).engine.registries == {}
        return
    with pytest.raises(ConfigurationError) as caught:
        daemon_json({"registries": registries})
    assert f"invalid value for registries: {sentence}" in str(caught.value) or (
        sentence in str(caught.value) and sentence.startswith("docker.io")
    )


@pytest.mark.parametrize(
    "mark", [codecs.BOM_UTF8 + b'{"debug":true}', '{"debug":true}'.encode("utf-16")]
)
def test_a_byte_order_mark_is_understood(mark: bytes) -> None:
    assert file.decode(mark) == {"debug": True}


@pytest.mark.parametrize("text", ["", "  \n", "null", "{}"])
def test_an_empty_file_says_nothing(daemon_json: Any, text: str) -> None:
    assert daemon_json(text).engine.mtu == 1500


@pytest.mark.parametrize(
    "text",
    [
        "{", "[1]", "1", '{"mtu":NaN}', '{"mtu":' + "9" * 10_000 + "}", "[" * 100_000,
        '{"a":' * 100_000, '{"group":"a\\u0000b"}', '{"mtu":1e400}',
        '{"debug":"yes"}', '{"hosts":"x"}', '{"hosts":[1]}', '{"proxies":1}', '\ufffe{"a":1}',
        '{"mtu":1.5}', '{"tls":"x"}', '{"runtimes":{"x":{"path":1}}}', "{'a':1}", '{"dns":["x"]}',
    ],
)  # fmt: skip
def test_no_text_ends_in_a_traceback(daemon_json: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match="unable to configure the Docker daemon with file"):
        daemon_json(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        document = file.decode(raw)
    except file.FileError:
        return
    assert set(document) <= set(by_key())


@given(
    st.dictionaries(
        st.sampled_from(sorted(by_key())),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
        max_size=3,
    )
)
def test_any_value_of_a_known_key_is_taken_or_refused(document: dict[str, Any]) -> None:
    try:
        values = file.values(document)
    except file.FileError:
        return
    assert set(values) <= {option.flag for option in TABLE}


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file or directory"):
        configured("--config-file", str(tmp_path / "none.json"))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"{tmp_path}: .*is a directory"):
        configured("--config-file", str(tmp_path))


def test_runtimes_may_be_in_both_and_have_no_effect_yet(daemon_json: Any) -> None:
    found = daemon_json({"runtimes": {"a": {"path": "/a"}}}, "--add-runtime", "b=/b")
    assert any(warning.startswith("runtimes has no effect") for warning in found.warnings)


def test_passwords_in_conflicts_are_hidden(daemon_json: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        daemon_json(
            {"proxies": {"http-proxy": "http://a:geheim@c"}}, "--http-proxy=http://d:geheim@f"
        )
    assert "geheim" not in str(caught.value)


# What is known and not done


def test_what_has_no_effect_is_said() -> None:
    warnings = configured("--storage-driver=btrfs", "--userland-proxy=false").warnings
    assert any(w.startswith("storage-driver has no effect") for w in warnings)
    assert any(w.startswith("userland-proxy has no effect") for w in warnings)


def test_what_is_so_anyway_needs_no_warning() -> None:
    assert configured("--storage-driver=overlay2", "--userland-proxy").warnings == ()


@pytest.mark.parametrize(
    "argv",
    [
        ["--userns-remap=default"],
        ["--selinux-enabled"],
        ["--authorization-plugin=x"],
        ["--rootless"],
        ["--exec-opt=native.cgroupdriver=systemd"],
        ["--storage-opt=overlay2.size=10G"],
        ["--cpu-rt-runtime=1"],
        ["--cri-containerd"],
        ["--default-runtime=runsc"],
    ],
)
def test_what_must_not_be_ignored_is_refused(argv: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=argv[0].removeprefix("--").partition("=")[0]):
        configured(*argv)


def test_an_option_is_honoured_or_explained() -> None:
    for option in by_flag().values():
        is_known = option.attribute or option.no_effect or option.refused or option.deprecated
        is_command = option.key == "-"
        assert is_known or is_command, option.flag


def test_flags_and_keys_are_unique() -> None:
    shorts = [o.short for o in TABLE if o.short]
    assert len(set(shorts)) == len(shorts)
    assert len(by_flag()) + 2 == len(TABLE)
    assert len({o.key or o.flag for o in TABLE if o.key != "-"}) == len(by_key())


# TLS, as dockerd settles it


@pytest.mark.parametrize(
    ("argv", "environ", "expected"),
    [
        ([], {}, (False, False)),
        (["--tls"], {}, (True, True)),
        (["--tls=false"], {}, (False, False)),
        (["--tlsverify"], {}, (True, True)),
        (["--tlsverify=false"], {}, (True, False)),
        (["--tls", "--tlsverify=false"], {}, (True, False)),
        ([], {"DOCKER_TLS_VERIFY": "1"}, (True, True)),
    ],
)
def test_tls_verifies_unless_told_not_to(
    argv: list[str], environ: dict[str, str], expected: tuple[bool, bool]
) -> None:
    config = configured(*argv, environ=environ).engine
    assert (config.tls, config.tls_verify) == expected


def test_certificates_are_where_the_cli_has_them() -> None:
    config = configured("--tlsverify", "--tlskey=/k", environ={"HOME": "/home/x"}).engine
    assert config.tls_ca_cert == "/home/x/.docker/ca.pem"
    assert config.tls_key == "/k"
    moved = configured("--tlsverify", environ={"DOCKER_CERT_PATH": "/c"}).engine
    assert moved.tls_cert == "/c/cert.pem"
    assert moved.hosts == ("tcp://localhost:2376",)
