"""JSON as Go reads it, and nothing that a body can do but 400 (A2 of ATTACKS.md)."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from compat.wire import containers as wire
from compat.wire import reading, system
from engine.errors import InvalidParameter


def read(text: str | bytes) -> wire.ContainerCreateRequest:
    data = text if isinstance(text, bytes) else text.encode()
    return reading.read(data, wire.ContainerCreateRequest)


def test_keys_match_without_case_and_unknown_ones_are_ignored() -> None:
    body = read('{"image":"a","HOSTCONFIG":{"memory":5,"Nothing":[{}]},"x":{"y":1}}')
    assert body.image == "a"
    assert body.host_config is not None
    assert body.host_config.memory == 5


def test_of_equal_keys_the_last_counts() -> None:
    assert read('{"Image":"a","image":"b"}').image == "b"
    assert read('{"Image":"a","Image":"b"}').image == "b"


def test_null_leaves_the_zero_value_and_tells_from_empty_where_that_matters() -> None:
    body = read(
        '{"Image":null,"Tty":null,"Env":null,"Labels":{"a":null},"Volumes":{"/v":null},'
        '"HostConfig":{"MaskedPaths":[],"ReadonlyPaths":null,"Memory":null,"Binds":[null],'
        '"PortBindings":{"80/tcp":null},"RestartPolicy":null}}'
    )
    host = body.host_config
    assert (body.image, body.tty, body.env) == (UNSET, False, None)
    assert body.labels == {"a": ""}
    assert body.volumes == {"/v": wire.Empty()}
    assert host is not None
    assert (host.masked_paths, host.readonly_paths) == ((), None)
    assert (host.memory, host.binds, host.port_bindings) == (0, ("",), {"80/tcp": None})
    assert host.restart_policy == wire.RestartPolicy()


def test_a_bare_string_may_stand_for_a_list_in_some_fields_only() -> None:
    assert read('{"Cmd":"ls","Entrypoint":["a"]}').cmd == ("ls",)
    with pytest.raises(InvalidParameter, match="cannot unmarshal string"):
        read('{"Env":"A=b"}')


def test_fixed_arrays_are_cut_and_filled() -> None:
    def size(text: str) -> tuple[int, int]:
        host = read(f'{{"HostConfig":{{"ConsoleSize":{text}}}}}').host_config
        assert host is not None
        return host.console_size

    assert (size("[1,2,3]"), size("[7]"), size("null")) == ((1, 2), (7, 0), (0, 0))


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("", "invalid JSON: got EOF while reading request body"),
        (" \n", "invalid JSON: got EOF while reading request body"),
        ("{", "invalid JSON: unexpected EOF"),
        ('{"Image":"x"} trailing', "unexpected content after JSON"),
        ('{"Image":NaN}', "invalid JSON: invalid character 'N' looking for beginning of value"),
        ('{"a":' * 100_000, "invalid JSON: exceeded max depth"),
        ('{"x":' + "9" * 10_000 + "}", "invalid JSON: number out of range"),
        (
            '{"StopTimeout":' + "9" * 30 + "}",
            "invalid JSON: json: cannot unmarshal number " + "9" * 30 + " into "
            "Go struct field .StopTimeout of type int",
        ),
        (
            '{"Image":1}',
            "invalid JSON: json: cannot unmarshal number into Go struct field "
            ".Image of type string",
        ),
        (
            '{"HostConfig":{"BlkioWeight":70000}}',
            "invalid JSON: json: cannot unmarshal number 70000 into Go struct field "
            ".HostConfig.BlkioWeight of type uint16",
        ),
        (
            '{"HostConfig":{"Memory":"5"}}',
            "invalid JSON: json: cannot unmarshal string into Go struct field "
            ".HostConfig.Memory of type int64",
        ),
        (
            '{"Env":"A=b"}',
            "invalid JSON: json: cannot unmarshal string into Go struct field "
            ".Env of type []string",
        ),
        (
            '{"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":80}]}}}',
            "invalid JSON: json: cannot unmarshal number into Go struct field "
            ".HostConfig.PortBindings.80~1tcp.0.HostPort of type string",
        ),
        (
            '{"Labels":{"a":1}}',
            "invalid JSON: json: cannot unmarshal number into Go struct field "
            ".Labels.a of type string",
        ),
        (
            '{"Env":["a",5]}',
            "invalid JSON: json: cannot unmarshal number into .Env.1 of type string",
        ),
        (
            '{"Cmd":[5]}',
            "invalid JSON: json: cannot unmarshal array into Go value of type string",
        ),
        (
            '{"hostconfig":{"Ulimits":[{},{"Soft":1.50}]}}',
            "invalid JSON: json: cannot unmarshal number 1.50 into Go struct field "
            ".hostconfig.Ulimits.1.Soft of type int64",
        ),
        (
            '{"Healthcheck":{"Interval":"30s"}}',
            "invalid JSON: json: cannot unmarshal string into Go struct field "
            ".Healthcheck.Interval of type time.Duration",
        ),
        (
            "[]",
            "invalid JSON: json: cannot unmarshal array into Go value of type "
            "container.CreateRequest",
        ),
    ],
)
def test_a_malformed_body_is_told_in_words_that_clients_know(body: str, sentence: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        read(body)
    assert str(caught.value).startswith(sentence)


def test_other_documents_name_their_struct() -> None:
    with pytest.raises(InvalidParameter) as caught:
        reading.read(b'{"Tty":5}', wire.ExecCreateRequest)
    assert str(caught.value) == (
        "invalid JSON: json: cannot unmarshal number into Go struct field ExecOptions.Tty "
        "of type bool"
    )


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "EOF"),
        (b"{", "unexpected EOF"),
        (b"x", "invalid character 'x' looking for beginning of value"),
        (b"5", "json: cannot unmarshal number into Go value of type registry.AuthConfig"),
        (b'{"username":5}', "json: cannot unmarshal number into Go struct field .username of type"),
    ],
)
def test_credentials_are_read_without_a_word_of_ours(body: bytes, sentence: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        reading.read_first(body, system.AuthRequest)
    assert str(caught.value).startswith(sentence)


def test_what_follows_the_first_document_may_be_left_alone() -> None:
    assert reading.read_first(b'{"username":"u"} {', system.AuthRequest).username == "u"


def test_what_is_no_unicode_becomes_the_replacement_character() -> None:
    assert read(r'{"Image":"\ud800"}').image == "\ufffd"
    assert read(r'{"Image":"\ud83d\ude00\\ud800"}').image == "\U0001f600\\ud800"
    assert read(b'{"Image":"\xff"}').image == "\ufffd"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["Image", "HostConfig", "Env", "Mounts", "Cmd", "PortBindings", "80/tcp"]
            )
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_document_is_read_or_refused(document: object) -> None:
    with suppress(InvalidParameter):
        assert read(json.dumps(document)) is not None


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(InvalidParameter):
        assert read(data) is not None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "invalid JSON: zz"),
        (b'{"Image":"a', "invalid JSON: zz"),
        (b"{", "invalid JSON: zz"),
        (b"{}", "unexpected content after JSON"),
        (b'{"Image":x', "invalid JSON: invalid character 'x' looking for beginning of value"),
    ],
)
def test_a_fault_of_the_transfer_is_told_where_the_decoder_comes_upon_it(
    data: bytes, said: str
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        reading.read(data, wire.ContainerCreateRequest, "zz")
    assert str(caught.value) == said


def test_the_first_document_need_not_be_the_whole_body() -> None:
    assert reading.read_first(b'{"username":"u"}', system.AuthRequest, "zz").username == "u"
    for data in (b"", b'{"username":"u'):
        with pytest.raises(InvalidParameter, match=r"^zz$"):
            reading.read_first(data, system.AuthRequest, "zz")
