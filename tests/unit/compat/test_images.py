"""Lines of progress, as clients parse and print them."""

from __future__ import annotations

import json

import msgspec
import pytest

from compat import params
from compat.translate import images
from engine.errors import Forbidden, InvalidParameter
from engine.image.model import Progress
from engine.oci.platform import Platform


def line(**step: object) -> dict[str, object]:
    shown: dict[str, object] = json.loads(
        msgspec.json.encode(images.progress(Progress(**step)))  # type: ignore[arg-type]
    )
    return shown


def test_a_sentence_about_the_whole_has_no_detail() -> None:
    assert line(id="latest", status="Pulling from library/busybox") == {
        "status": "Pulling from library/busybox",
        "id": "latest",
    }
    assert line(status="Digest: sha256:1") == {"status": "Digest: sha256:1"}


def test_a_layer_always_has_a_detail() -> None:
    assert line(id="ab", status="Pull complete") == {
        "status": "Pull complete",
        "progressDetail": {},
        "id": "ab",
    }
    shown = line(id="ab", status="Downloading", current=512_000, total=1_024_000)
    assert shown["progressDetail"] == {"current": 512_000, "total": 1_024_000}
    bar = "[" + "=" * 25 + ">" + " " * 25 + "]"
    assert shown["progress"] == f"{bar}    512kB/1.024MB"


def test_an_error_is_told_twice() -> None:
    assert line(error="broken") == {"errorDetail": {"message": "broken"}, "error": "broken"}


def test_a_text_is_passed_on() -> None:
    assert line(stream="Loaded image: a:1\n") == {"stream": "Loaded image: a:1\n"}


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0B"), (999, "999B"), (1000, "1kB"), (1_984_287, "1.984MB"), (133_984_754, "134MB")],
)
def test_sizes(count: int, words: str) -> None:
    assert images.size(count) == words


def test_what_to_pull() -> None:
    def pulled(name: str, tag: str = "") -> str:
        return str(images.to_pull(name, tag))

    digest = "sha256:" + "ab" * 32
    assert pulled("busybox") == "docker.io/library/busybox"
    assert pulled("busybox:", "1") == "docker.io/library/busybox:1"
    assert pulled("host:5000/a", digest) == f"host:5000/a@{digest}"
    with pytest.raises(Forbidden, match=r"^'scratch' is a reserved name$"):
        pulled("scratch")
    with pytest.raises(InvalidParameter, match=r"^invalid tag format$"):
        pulled("busybox", "bad tag")


def test_platforms_are_json() -> None:
    decode = params.parse_platform
    assert decode('{"os":"linux","architecture":"arm64","variant":"v8"}') == Platform(
        os="linux", architecture="arm64", variant="v8"
    )
    assert decode('{"OS":"linux","architecture":"arm","variant":null}').variant == ""
    with pytest.raises(InvalidParameter, match=r"^both OS and Architecture must be provided$"):
        decode('{"os":"linux"}')
    with pytest.raises(InvalidParameter, match=r"^optional platform fields provided, but OS"):
        decode('{"variant":"v8"}')
    for broken in ("x", "[" * 100_000, '{"os":1}'):
        with pytest.raises(InvalidParameter, match=r"^failed to parse platform: "):
            decode(broken)
