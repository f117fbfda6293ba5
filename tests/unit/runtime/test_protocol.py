"""Framing, versions and the documents of the runtime's protocol."""

from __future__ import annotations

import json
import os
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.runtime import protocol
from engine.runtime.protocol import Channel, Decoder, ProtocolError, encode

MESSAGES = [
    protocol.Superseded(),
    protocol.Hello(id="a", pid=7),
    protocol.Create(seq=1, bundle={"id": "x", "spec": {"args": ["é", "\udcff"]}}),
    protocol.Start(seq=2),
    protocol.Signal(seq=3, signo=9),
    protocol.Resize(seq=4, height=1, width=2, exec_id="e"),
    protocol.Exec(seq=5, exec_id="e", process={"args": []}),
    protocol.Failed(seq=6, step="exec", errno=2, text='exec: "x"'),
    protocol.Exited(exit=protocol.Exit(code=137, signal=9, at_ns=1).to_json()),
    protocol.StateReply(seq=7, status="running", pid=3, execs={"e": {"pid": 1}}),
    protocol.Superseded(),
]


@given(st.lists(st.sampled_from(MESSAGES), max_size=6), st.data())
def test_messages_survive_any_chunking(
    messages: list[protocol.Message], data: st.DataObject
) -> None:
    stream = b"".join(encode(message, 0) for message in messages)
    decoder, received = Decoder(), list[protocol.Message]()
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        received += [message for message, _ in decoder.feed(stream[:size], ())]
        stream = stream[size:]
    assert received == messages


def test_descriptors_go_to_the_messages_that_announced_them() -> None:
    decoder = Decoder()
    stream = encode(MESSAGES[0], 1) + encode(MESSAGES[3], 0) + encode(MESSAGES[2], 2)
    received = decoder.feed(stream, (10, 11, 12))
    assert [fds for _, fds in received] == [[10], [], [11, 12]]


def test_announced_descriptors_that_did_not_come_break_the_stream() -> None:
    with pytest.raises(ProtocolError, match="2 descriptors were announced, 1 came"):
        Decoder().feed(encode(MESSAGES[0], 2), (10,))


def test_more_descriptors_than_one_sendmsg_carries() -> None:
    ours, theirs = socket.socketpair()
    sender, receiver = Channel(ours), Channel(theirs)
    fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(600)]
    assert sender.send(protocol.Create(bundle={}), fds)
    received: list[tuple[protocol.Message, list[int]]] = []
    while not received:
        received += receiver.receive() or []
    ((message, got),) = received
    assert isinstance(message, protocol.Create)
    assert len(got) == 600
    assert all(os.fstat(fd).st_rdev == os.stat(os.devnull).st_rdev for fd in got)
    for fd in got:
        os.close(fd)
    sender.close()
    assert receiver.receive() is None
    receiver.close()


def test_a_later_version_may_add_keys_and_messages() -> None:
    document = {"type": "Start", "fds": 0, "seq": 4, "new": True}
    body = json.dumps(document).encode()
    other = json.dumps({"type": "Dance", "fds": 0, "seq": 9}).encode()
    frames = struct.pack(">I", len(body)) + body + struct.pack(">I", len(other)) + other
    (start, _), (unknown, _) = Decoder().feed(frames, ())
    assert start == protocol.Start(seq=4)
    assert unknown == protocol.Unknown(name="Dance", seq=9)


def test_an_earlier_version_may_lack_keys() -> None:
    assert protocol.Exit.from_json({"code": 3, "at_ns": 5}) == protocol.Exit(code=3, at_ns=5)
    bundle = protocol.Bundle.from_json({"id": "x", "spec": {}})
    assert bundle.log == {"driver": "none"}
    assert bundle.tty is False


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"fds":0}', b'{"type":"Hello","fds":"x"}', b"\xff"]
)
def test_nonsense_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        Decoder().feed(struct.pack(">I", len(body)) + body, ())


def test_a_message_without_end_is_refused_by_its_length() -> None:
    with pytest.raises(ProtocolError, match="a message of"):
        Decoder().feed(b"\xff\xff\xff\xff", ())


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_documents_read_back_as_they_were_written(message: protocol.Message) -> None:
    again = type(message).from_json(json.loads(json.dumps(message.to_json())))
    assert again == message
    assert repr(again) == repr(message)
