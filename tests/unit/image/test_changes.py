"""Changes of import and commit: dockerd's grammar and sentences (recorded from 28.5.2)."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidParameter
from engine.image import changes
from engine.oci.image import Config, Healthcheck
from tests.support.changes import BASE, UNCHANGED, recorded


def test_all_instructions() -> None:
    config = changes.apply(
        Config(),
        [
            'CMD ["a","b"]',
            "ENTRYPOINT sh -c x",
            'ENV a=b c="d e" f=g\\ h',
            "ENV old style value",
            "EXPOSE 80 90/udp 100-102",
            'LABEL x=y "m n"=o',
            "USER u:g",
            "WORKDIR rel",
            "WORKDIR sub",
            "VOLUME /a /b",
            'VOLUME ["/c"]',
            "STOPSIGNAL SIGTERM",
            "HEALTHCHECK --interval=5s --retries=3 CMD echo hi",
            "ONBUILD RUN x",
        ],
    )
    assert config == Config(
        cmd=("a", "b"),
        entrypoint=("/bin/sh", "-c", "sh -c x"),
        env=("a=b", "c=d e", "f=g h", "old=style value"),
        exposed_ports={p: {} for p in ("80/tcp", "90/udp", "100/tcp", "101/tcp", "102/tcp")},
        labels={"x": "y", "m n": "o"},
        user="u:g",
        working_dir="/rel/sub",
        volumes={"/a": {}, "/b": {}, "/c": {}},
        stop_signal="SIGTERM",
        healthcheck=Healthcheck(test=("CMD-SHELL", "echo hi"), interval=5 * 10**9, retries=3),
        on_build=("RUN x",),
    )


@pytest.mark.parametrize(
    ("change", "config"),
    [
        ("CMD", Config(cmd=("/bin/sh", "-c"))),
        ("cmd x", Config(cmd=("/bin/sh", "-c", "x"))),
        ("CMD []", Config(cmd=())),
        ("CMD [", Config(cmd=("/bin/sh", "-c", "["))),
        ("ENTRYPOINT []", Config()),
        ("USER a b", Config(user="a b")),
        ("HEALTHCHECK NONE", Config(healthcheck=Healthcheck(test=("NONE",)))),
        ('HEALTHCHECK CMD ["a"]', Config(healthcheck=Healthcheck(test=("CMD", "a")))),
        ("CMD a \\\n  b", Config(cmd=("/bin/sh", "-c", "a   b"))),
        ("# c\nUSER a", Config(user="a")),
        ("WORKDIR /a/../b//c", Config(working_dir="/b/c")),
    ],
)
def test_one_instruction(change: str, config: Config) -> None:
    assert changes.apply(Config(), [change]) == config


@pytest.mark.parametrize(
    ("lines", "config"),
    [
        (["CMD echo \\\\", "USER bob"], Config(cmd=("/bin/sh", "-c", "echo \\\\"), user="bob")),
        (["LABEL l=a\\\\", "USER bob"], Config(labels={"l": "a\\"}, user="bob")),
        (["CMD echo \\ ", "USER bob"], Config(cmd=("/bin/sh", "-c", "echo USER bob"))),
    ],
)
def test_a_line_goes_on_behind_one_backslash_only(lines: list[str], config: Config) -> None:
    assert changes.apply(Config(), lines) == config


def test_variables() -> None:
    config = changes.apply(
        Config(env=("A=1", "E=")),
        ["ENV B=$A C=${A}x D='$A' F=${E:-none} G=${A:+some} H=\\$A", "USER $B", "LABEL l=${C}"],
    )
    assert config.env == ("A=1", "E=", "B=1", "C=1x", "D=$A", "F=none", "G=some", "H=$A")
    assert config.user == "1"
    assert config.labels == {"l": "1x"}


def test_env_is_replaced_in_its_place() -> None:
    config = changes.apply(Config(env=("A=1", "B=2")), ["ENV A=3", "ENV C=4"])
    assert config.env == ("A=3", "B=2", "C=4")


@pytest.mark.parametrize(("change", "result"), recorded())
def test_as_dockerd(change: str, result: dict[str, object] | str) -> None:
    if isinstance(result, str):
        with pytest.raises(InvalidParameter) as caught:
            changes.apply(Config(), [BASE, change])
        assert str(caught.value).strip() == result  # "invalid signal: " of nothing
        return
    config = changes.apply(Config(), [BASE, change])
    made = {key: value for key, value in to_json(config).items() if value}
    told = {**UNCHANGED, **result}
    assert made == {key: value for key, value in told.items() if value}


def to_json(config: Config) -> dict[str, object]:
    return dict(json.loads(msgspec.json.encode(config)))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("FOO bar", "FOO is not a valid change command"),
        ("RUN bar", "RUN is not a valid change command"),
        ("", "file with no instructions"),
        ("# c", "file with no instructions"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV a", "ENV must have two arguments"),
        ("ENV =x", "ENV names can not be blank"),
        ("EXPOSE", "EXPOSE requires at least one argument"),
        ("EXPOSE x", "Invalid containerPort: x"),
        ("USER", "USER requires exactly one argument"),
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        ("VOLUME", "VOLUME requires at least one argument"),
        ("VOLUME []", "VOLUME requires at least one argument"),
        ("STOPSIGNAL", "STOPSIGNAL requires exactly one argument"),
        ("STOPSIGNAL NOPE", "invalid signal: NOPE"),
        ("HEALTHCHECK", "HEALTHCHECK requires at least one argument"),
        ("HEALTHCHECK FOO", 'Unknown type "FOO" in HEALTHCHECK (try CMD)'),
        ("HEALTHCHECK --interval=x CMD a", 'time: invalid duration "x"'),
        ("LABEL", "LABEL requires at least one argument"),
        ("LABEL a", "LABEL must have two arguments"),
        ("ONBUILD", "ONBUILD requires at least one argument"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
    ],
)
def test_refusals(change: str, sentence: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        changes.apply(Config(), [change])
    assert str(caught.value) == sentence


_word = st.sampled_from(sorted(changes._INSTRUCTIONS))  # pyright: ignore[reportPrivateUsage]


@given(_word, st.text(max_size=30))
def test_any_text_is_applied_or_refused(word: str, rest: str) -> None:
    try:
        config = changes.apply(Config(), [f"{word} {rest}"])
    except InvalidParameter:
        return
    assert isinstance(config, Config)


@pytest.mark.parametrize(
    ("lines", "entrypoint", "cmd"),
    [
        (['ENTRYPOINT ["n"]'], ("n",), None),
        (["ENTRYPOINT []"], None, None),
        (['CMD ["x"]', 'ENTRYPOINT ["n"]'], ("n",), ("x",)),
        (['entrypoint ["n"]', 'cmd ["x"]'], ("n",), ("x",)),
    ],
)
def test_a_new_entrypoint_drops_a_command_that_was_written_for_another(
    lines: list[str], entrypoint: tuple[str, ...] | None, cmd: tuple[str, ...] | None
) -> None:
    config = changes.apply(Config(entrypoint=("old",), cmd=("former",)), lines)
    assert (config.entrypoint, config.cmd) == (entrypoint, cmd)
