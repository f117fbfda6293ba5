"""The grammar of mount options."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.linux import syscalls as sys
from engine.linux.mount import flag_names, parse


def test_docker_bind_options() -> None:
    options = parse(["rbind", "ro", "rprivate"])
    assert options.flags == sys.MS_BIND | sys.MS_REC | sys.MS_RDONLY
    assert options.propagation == [sys.MS_PRIVATE | sys.MS_REC]
    assert options.attributes == sys.MOUNT_ATTR_RDONLY
    assert options.is_bind
    assert options.data == ""


def test_what_is_no_flag_is_for_the_file_system() -> None:
    options = parse(["nosuid", "strictatime", "mode=755", "size=65536k"])
    assert options.flags == sys.MS_NOSUID | sys.MS_STRICTATIME
    assert options.data == "mode=755,size=65536k"
    assert not options.is_bind


def test_later_options_win() -> None:
    assert parse(["ro", "rw"]).flags == 0
    assert parse(["rw", "ro"]).flags == sys.MS_RDONLY
    assert parse(["rro", "rrw"]).tree_set == 0
    assert parse(["rro", "rrw"]).tree_clear == sys.MOUNT_ATTR_RDONLY
    assert parse(["rrw", "rro"]).tree_clear == 0


def test_recursive_options_are_kept_apart() -> None:
    options = parse(["bind", "rro", "rnosuid"])
    assert options.attributes == 0
    assert options.tree_set == sys.MOUNT_ATTR_RDONLY | sys.MOUNT_ATTR_NOSUID


def test_mapped_mounts_are_refused() -> None:
    with pytest.raises(ValueError, match="idmap"):
        parse(["idmap"])


@given(st.lists(st.sampled_from(["ro", "nosuid", "nodev", "noexec", "noatime", "bind"])))
def test_flags_do_not_depend_on_order(options: list[str]) -> None:
    assert parse(options).flags == parse(reversed(options)).flags


def test_names_of_flags_for_sentences() -> None:
    assert flag_names(sys.MS_BIND | sys.MS_REC) == "MS_BIND|MS_REC"
    assert flag_names(0) == "0x0"
