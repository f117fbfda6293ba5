from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from engine.image.channel import Channel
from engine.image.model import Progress

STATUSES = ("Pulling fs layer", "Downloading", "Download complete", "Extracting", "Pull complete")


def received(channel: Channel) -> list[Progress]:
    async def run() -> list[Progress]:
        channel.close()
        return [progress async for progress in channel]

    return asyncio.run(run())


def test_order_is_kept() -> None:
    channel = Channel()
    sent = [Progress(id=name, status="x") for name in "abcab"]
    for progress in sent:
        channel.send(progress)
    assert received(channel) == sent


def test_newer_counts_overtake() -> None:
    channel = Channel()
    for current in range(1, 1001):
        channel.send(Progress(id="a", status="Downloading", current=current, total=1000))
    assert len(channel) == 1
    assert received(channel) == [Progress(id="a", status="Downloading", current=1000, total=1000)]


def test_what_was_said_in_between_stays() -> None:
    channel = Channel()
    channel.send(Progress(id="a", status="Downloading", current=1, total=2))
    channel.send(Progress(id="a", status="Retrying in 1 second"))
    channel.send(Progress(id="a", status="Downloading", current=2, total=2))
    assert [p.status for p in received(channel)] == [
        "Downloading",
        "Retrying in 1 second",
        "Downloading",
    ]


@given(
    st.lists(
        st.builds(
            Progress,
            id=st.sampled_from(["", "a", "b"]),
            status=st.sampled_from(STATUSES),
            current=st.integers(0, 5),
            total=st.sampled_from([0, 5]),
        )
    )
)
def test_each_layers_last_word_arrives(sent: list[Progress]) -> None:
    channel = Channel()
    for progress in sent:
        channel.send(progress)
    got = received(channel)
    for name in {p.id for p in sent}:
        assert [p for p in got if p.id == name][-1] == [p for p in sent if p.id == name][-1]
    assert [p for p in got if not p.total] == [p for p in sent if not p.total]


def test_a_reader_waits_for_news() -> None:
    async def run() -> list[Progress]:
        channel = Channel()

        async def read() -> list[Progress]:
            return [progress async for progress in channel]

        reading = asyncio.ensure_future(read())
        for name in "ab":
            await asyncio.sleep(0)
            channel.send(Progress(id=name))
        channel.close()
        return await reading

    assert [p.id for p in asyncio.run(run())] == ["a", "b"]
