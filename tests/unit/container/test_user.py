"""`user[:group]` against passwd and group files that somebody else wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.container import user
from engine.errors import InvalidParameter

PASSWD = b"""# comment
root:x:0:0:root:/root:/bin/sh
 bob:x:1000:1001:Bob:/home/bob:/bin/sh
bob:x:9:9::/second:/bin/sh
1234:x:7:7::/numeric:/bin/sh
huge:x:4294967296:0::/:/bin/sh
minus:x:-1:0::/:/bin/sh
word:x:zero:zero::/:/bin/sh
"""
GROUP = b"""root:x:0:
bob:x:1001:
wheel:x:10:root,bob
audio:x:29:bob
big:x:99999999999999999999:
"""


@pytest.mark.parametrize(
    ("spec", "uid", "gid", "groups", "home"),
    [
        ("", 0, 0, (0, 10), "/root"),
        ("root", 0, 0, (0, 10), "/root"),
        ("bob", 1000, 1001, (1001, 10, 29), "/home/bob"),
        ("1000", 1000, 1001, (1001, 10, 29), "/home/bob"),
        ("bob:audio", 1000, 29, (29,), "/home/bob"),
        ("bob:77", 1000, 77, (77,), "/home/bob"),
        ("5000", 5000, 0, (0,), ""),
        ("5000:6000", 5000, 6000, (6000,), ""),
        ("1234", 1234, 0, (0,), ""),
        ("2147483647", 2147483647, 0, (0,), ""),
    ],
)
def test_lookup(spec: str, uid: int, gid: int, groups: tuple[int, ...], home: str) -> None:
    assert user.lookup(spec, PASSWD, GROUP) == (uid, gid, groups, home)


def test_additional_groups_come_behind_the_others() -> None:
    found = user.lookup("bob", PASSWD, GROUP, ["audio", "77", "wheel"])
    assert found.groups == (1001, 10, 29, 29, 77, 10)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("nobody", "unable to find user nobody: no matching entries in passwd file"),
        ("bob:nogroup", "unable to find group nogroup: no matching entries in group file"),
    ],
)
def test_unknown_names(spec: str, sentence: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        user.lookup(spec, PASSWD, GROUP)
    assert str(caught.value) == sentence


def test_unknown_additional_group() -> None:
    with pytest.raises(InvalidParameter, match=r"^unable to find group nope: no matching"):
        user.lookup("", PASSWD, GROUP, ["nope"])


@pytest.mark.parametrize(
    "spec",
    ["-1", "2147483648", "4294967296", "9" * 100, "huge", "minus", "word", "1:-5", "1:99999999999"],
)
def test_ids_out_of_range_never_become_root(spec: str) -> None:
    """Attack case R8: an id that overflows must not wrap to 0."""
    with pytest.raises(user.IdOutOfRange, match=r"^uids and gids must be in range 0-2147483647$"):
        user.lookup(spec, PASSWD, GROUP)


@given(spec=st.text(max_size=30), passwd=st.binary(max_size=300), group=st.binary(max_size=300))
def test_whatever_the_files_hold_the_ids_are_in_range(
    spec: str, passwd: bytes, group: bytes
) -> None:
    try:
        found = user.lookup(spec, passwd, group)
    except InvalidParameter:
        return
    assert all(0 <= number <= user.MAX_ID for number in (found.uid, found.gid, *found.groups))


def test_without_files_a_number_still_works() -> None:
    assert user.lookup("5:6", b"", b"") == (5, 6, (6,), "")
    assert user.lookup("", b"", b"") == (0, 0, (0,), "")


def test_home_by_uid() -> None:
    assert user.home_of(1000, PASSWD) == "/home/bob"
    assert user.home_of(4711, PASSWD) == "/"


def test_all_behind_the_first_colon_is_the_group() -> None:
    with pytest.raises(InvalidParameter, match=r"nable to find group 2:3"):
        user.lookup("1:2:3", b"", b"")


def test_many_lines_are_no_harm_and_one_long_one_is() -> None:
    many = b"".join(b"u%d:x:%d:7::/:\n" % (n, n) for n in range(1, 100_000))
    assert user.lookup("bob", many + PASSWD, GROUP).uid == 1000
    longest = b"a" * 65535 + b"\n"
    assert user.lookup("bob", PASSWD + longest, GROUP).uid == 1000
    for name in ("", "bob", "0"):
        with pytest.raises(user.LineTooLong) as refused:
            user.lookup(name, PASSWD + b"a" + longest, GROUP)
        sentence = f"unable to find user {name or 0}: bufio.Scanner: token too long"
        assert str(refused.value) == sentence


def test_a_group_has_as_many_members_as_it_likes() -> None:
    members = b",".join(b"member%d" % n for n in range(20_000))
    assert user.lookup("bob", PASSWD, b"crowd:x:50:" + members + b",bob\n").groups == (1001, 50)
