"""The codec of netlink messages, without a kernel."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from engine.linux import netlink


@given(st.lists(st.tuples(st.integers(1, 100), st.binary(max_size=40))))
def test_attributes_come_back(items: list[tuple[int, bytes]]) -> None:
    data = b"".join(netlink.attribute(type, payload) for type, payload in items)
    assert len(data) % 4 == 0
    assert list(netlink.attributes(data)) == items


@given(st.binary(max_size=64))
def test_nonsense_ends(data: bytes) -> None:
    assert len(list(netlink.attributes(data))) <= len(data)


def test_nesting_is_marked_for_the_kernel_and_hidden_from_us() -> None:
    data = netlink.nested(5, netlink.text(3, "eth0"))
    assert struct.unpack_from("=HH", data)[1] == 5 | netlink.NLA_F_NESTED
    ((type, inner),) = netlink.attributes(data)
    assert type == 5
    assert dict(netlink.attributes(inner)) == {3: b"eth0\0"}


@given(st.binary(max_size=30), st.integers(0, 2**32 - 1))
def test_frames_are_aligned(body: bytes, number: int) -> None:
    data = netlink.frame(16, 5, number, body)
    assert len(data) % 4 == 0
    assert struct.unpack_from("=IHHI", data) == (16 + len(body), 16, 5, number)
