"""The grammar of -v, --mount, --tmpfs and --volumes-from, in dockerd's words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.container import mounts
from engine.container.model import (
    BindOptions,
    MountRequest,
    MountType,
    TmpfsOptions,
    VolumeOptions,
)
from engine.errors import InvalidParameter


def sentence(text: str, driver: str = "") -> str:
    with pytest.raises(InvalidParameter) as caught:
        mounts.parse_bind(text, driver)
    return str(caught.value)


def test_a_path_is_a_bind() -> None:
    point = mounts.parse_bind("/src:/dst")
    assert (point.type, point.source, point.destination) == (MountType.BIND, "/src", "/dst")
    assert (point.mode, point.is_writable, point.propagation) == ("", True, "rprivate")


def test_a_name_is_a_volume() -> None:
    point = mounts.parse_bind("data:/dst:ro")
    assert (point.type, point.name, point.source) == (MountType.VOLUME, "data", "")
    assert (point.mode, point.is_writable, point.is_anonymous) == ("ro", False, False)


def test_a_target_alone_is_an_anonymous_volume() -> None:
    point = mounts.parse_bind("/dst")
    assert (point.type, point.is_anonymous, point.destination) == (MountType.VOLUME, True, "/dst")


def test_paths_are_cleaned() -> None:
    point = mounts.parse_bind("/a//b/../c/:/x/./y/")
    assert (point.source, point.destination) == ("/a/c", "/x/y")


def test_options() -> None:
    point = mounts.parse_bind("/src:/dst:rslave,ro,Z")
    assert (point.propagation, point.is_writable, point.mode) == ("rslave", False, "rslave,ro,Z")
    assert mounts.parse_bind("data:/dst:nocopy").no_copy


def test_a_volume_driver_is_for_volumes_only() -> None:
    assert mounts.parse_bind("data:/dst", "nfs").driver == "nfs"
    assert mounts.parse_bind("/src:/dst", "nfs").driver == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "invalid volume specification: ''"),
        (":/dst", "invalid volume specification: ':/dst'"),
        ("/src:/dst:ro:more", "invalid volume specification: '/src:/dst:ro:more'"),
        ("/dst:rw", "invalid volume specification: '/dst:rw'"),
        ("/src:/dst:foo", "invalid mode: foo"),
        ("/src:/dst:ro,rw", "invalid mode: ro,rw"),
        ("/src:/dst:ro,ro", "invalid mode: ro,ro"),
        (
            "/src:dst",
            "invalid volume specification: '/src:dst': invalid mount config for type \"bind\": "
            "invalid mount path: 'dst' mount path must be absolute",
        ),
        (
            "/src:/",
            "invalid volume specification: '/src:/': invalid mount config for type \"bind\": "
            "invalid specification: destination can't be '/'",
        ),
        (
            "data:/dst:rslave",
            "invalid volume specification: 'data:/dst:rslave': invalid mount config for type "
            '"volume": field BindOptions must not be specified',
        ),
    ],
)
def test_what_dockerd_refuses(text: str, expected: str) -> None:
    assert sentence(text) == expected


@given(st.text(max_size=40))
def test_any_text_is_a_mount_or_a_refusal(text: str) -> None:
    try:
        point = mounts.parse_bind(text)
    except InvalidParameter:
        return
    assert point.destination.startswith("/")
    assert ".." not in point.destination.split("/")


def refused(request: MountRequest) -> str:
    with pytest.raises(InvalidParameter) as caught:
        mounts.parse_mount(request)
    return str(caught.value)


@pytest.mark.parametrize(
    ("request_", "cause"),
    [
        (MountRequest(type="bind", source="/a"), "field Target must not be empty"),
        (MountRequest(type="bind", target="/t"), "field Source must not be empty"),
        (MountRequest(type="foo", target="/t"), "mount type unknown"),
        (
            MountRequest(type="bind", source="a", target="/t"),
            "invalid mount path: 'a' mount path must be absolute",
        ),
        (
            MountRequest(
                type="bind",
                source="/a",
                target="/t",
                bind_options=BindOptions(propagation="up"),
            ),
            "invalid propagation mode: up",
        ),
        (
            MountRequest(type="bind", source="/a", target="/t", volume_options=VolumeOptions()),
            "field VolumeOptions must not be specified",
        ),
        (
            MountRequest(type="volume", target="/t", read_only=True),
            "must not set ReadOnly mode when using anonymous volumes",
        ),
        (
            MountRequest(
                type="volume",
                source="v",
                target="/t",
                volume_options=VolumeOptions(subpath="../x"),
            ),
            "subpath must be a relative path within the volume",
        ),
        (
            MountRequest(type="tmpfs", source="x", target="/t"),
            "field Source must not be specified",
        ),
        (
            MountRequest(
                type="tmpfs", target="/t", tmpfs_options=TmpfsOptions(options=(("suid",),))
            ),
            "invalid option: suid",
        ),
        (
            MountRequest(type="image", source="i", target="/t", image_subpath="/x"),
            "subpath must be a relative path within the volume",
        ),
    ],
)
def test_mounts_that_cannot_be(request_: MountRequest, cause: str) -> None:
    assert refused(request_) == f'invalid mount config for type "{request_.type}": {cause}'


def test_an_image_mount_is_read_only() -> None:
    point = mounts.parse_mount(MountRequest(type="image", source="busybox", target="/t"))
    assert not point.is_writable
    assert point.name == "busybox"


def test_tmpfs_keeps_the_last_word() -> None:
    assert mounts.tmpfs_options("") == ("noexec", "nosuid", "nodev", "rprivate")
    assert mounts.tmpfs_options("exec,size=1m,size=2m") == (
        "nosuid",
        "nodev",
        "rprivate",
        "exec",
        "size=2m",
    )


@pytest.mark.parametrize("word", ["foo", "foo=1"])
def test_tmpfs_refuses_what_it_does_not_know(word: str) -> None:
    with pytest.raises(InvalidParameter, match=r'^invalid tmpfs option "foo"$'):
        mounts.tmpfs_options(word)


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1 << 30, "size=1g"), (3 << 20, "size=3m"), (5 << 10, "size=5k"), (1025, "size=1025")],
)
def test_tmpfs_sizes(size: int, expected: str) -> None:
    assert mounts.tmpfs_data(TmpfsOptions(size_bytes=size), read_only=False) == expected


def test_tmpfs_mode_is_octal() -> None:
    assert mounts.tmpfs_data(TmpfsOptions(mode=0o1777), read_only=True) == "ro,mode=1777"


def test_volumes_from() -> None:
    assert mounts.parse_volumes_from("web") == ("web", True)
    assert mounts.parse_volumes_from("web:ro") == ("web", False)
    for text in ("", "web:rslave", "web:nocopy", "web:foo"):
        with pytest.raises(InvalidParameter):
            mounts.parse_volumes_from(text)


def test_an_inherited_mount_is_never_more_writable() -> None:
    point = mounts.parse_bind("data:/dst:ro")
    assert not mounts.inherited(point, writable=True).is_writable
