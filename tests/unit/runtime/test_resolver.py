"""The resolver on sockets of loopback, with servers of the tests' own behind it."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.runtime.monitor import dns, resolver
from engine.runtime.monitor.loop import Loop
from engine.runtime.monitor.resolver import Resolver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def named(name: str) -> bytes:
    labels = [label.encode() for label in name.split(".") if label]
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def asked(name: str, kind: int = dns.A, *, number: int = 7, size: int = 0) -> bytes:
    extra = b"\0" + struct.pack("!HHIH", 41, size, 0, 0) if size else b""
    header = struct.pack("!6H", number, 0x0100, 1, 0, 0, 1 if size else 0)
    return header + named(name) + struct.pack("!HH", kind, 1) + extra


def told(message: bytes) -> tuple[int, list[str]]:
    """The code, and the addresses or names of an answer to one question."""
    _, flags, _, count, _, _ = struct.unpack_from("!6H", message)
    assert flags & 0x8000
    at = 12
    while message[at]:
        at += 1 + message[at]
    at += 5
    found: list[str] = []
    for _ in range(count):
        _, kind, _, ttl, length = struct.unpack_from("!HHHIH", message, at)
        data = message[at + 12 : at + 12 + length]
        assert ttl == 600
        match kind:
            case dns.A:
                found.append(socket.inet_ntop(socket.AF_INET, data))
            case dns.AAAA:
                found.append(socket.inet_ntop(socket.AF_INET6, data))
            case _:
                found.append(".".join(_labels(data)))
        at += 12 + length
    return flags & 15, sorted(found)


def _labels(data: bytes) -> Iterator[str]:
    while data[0]:
        yield data[1 : 1 + data[0]].decode()
        data = data[1 + data[0] :]


class House:
    """A resolver in a thread, its files, and how to ask it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp_address, self.tcp_address = self.udp.getsockname(), self.tcp.getsockname()
        self.own: dict[str, Any] = {"networks": [], "servers": [], "forwards": True}
        self.loop = Loop()
        self._wake, self._woken = socket.socketpair()
        self.put("own", self.own)
        self.faults = 0
        self.resolver = Resolver(self.loop, self.udp, self.tcp, str(folder / "own"), self._on_fault)
        self.loop.add(self._woken.fileno(), 1, self._stop)
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()

    def _on_fault(self) -> None:
        self.faults += 1

    def _stop(self, _events: int) -> None:
        self.loop.is_running = False

    def close(self) -> None:
        self._wake.send(b"x")
        self._thread.join(10)
        self.resolver.close()
        self._wake.close()
        self._woken.close()

    def put(self, name: str, content: object) -> None:
        temporary = self.folder / f".{name}"
        temporary.write_text(json.dumps(content))
        os.replace(temporary, self.folder / name)

    def network(self, name: str, *hosts: tuple[list[str], list[str]], **aliases: str) -> None:
        self.put(name, {"name": name, "hosts": hosts})
        self.own["networks"].append({"path": str(self.folder / name), "aliases": aliases})
        self.put("own", self.own)

    def servers(self, *addresses: str, forwards: bool = True) -> None:
        self.own |= {"servers": [[a, True] for a in addresses], "forwards": forwards}
        self.put("own", self.own)

    def ask(self, data: bytes, timeout: float = 10) -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(timeout)
            sock.connect(self.udp_address)
            sock.send(data)
            return sock.recv(65535)

    def look_up(self, name: str, kind: int = dns.A) -> tuple[int, list[str]]:
        return told(self.ask(asked(name, kind)))

    def connect(self) -> socket.socket:
        return socket.create_connection(self.tcp_address, timeout=10)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.close()


def read(sock: socket.socket) -> bytes:
    size = int.from_bytes(sock.recv(2, socket.MSG_WAITALL))
    return sock.recv(size, socket.MSG_WAITALL)


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(2) + data


# Names that are known here


def test_names_of_a_network(house: House) -> None:
    house.network("net", (["Web", "abc"], ["10.0.0.2", "fd00::2"]), (["abc"], ["10.0.0.3"]))
    assert house.look_up("web") == (0, ["10.0.0.2"])
    assert house.look_up("WEB.net") == (0, ["10.0.0.2"])
    assert house.look_up("abc") == (0, ["10.0.0.2", "10.0.0.3"])
    assert house.look_up("web", dns.AAAA) == (0, ["fd00::2"])
    assert house.look_up("web", dns.MX) == (0, [])
    assert house.look_up("2.0.0.10.in-addr.arpa", dns.PTR) == (0, ["Web.net"])
    reverse = "2." + "0." * 27 + "0.0.d.f.ip6.arpa"
    assert house.look_up(reverse, dns.PTR) == (0, ["Web.net"])


def test_no_ipv6_is_an_answer(house: House) -> None:
    house.network("net", (["web"], ["10.0.0.2"]))
    assert house.look_up("web", dns.AAAA) == (0, [])


def test_the_first_network_that_has_the_name(house: House) -> None:
    house.network("one", (["web"], ["10.0.1.2"]))
    house.network("two", (["web", "only"], ["10.0.2.2", "fd00::2"]))
    assert house.look_up("web") == (0, ["10.0.1.2"])
    assert house.look_up("web", dns.AAAA) == (0, ["fd00::2"])
    assert house.look_up("web.two") == (0, ["10.0.2.2"])
    assert house.look_up("only.one")[0] == dns.SERVFAIL


def test_an_alias_is_for_this_container(house: House) -> None:
    house.network("net", (["web"], ["10.0.0.2"]), lnk="web")
    assert house.look_up("lnk") == (0, ["10.0.0.2"])
    assert house.look_up("lnk.net") == (0, ["10.0.0.2"])


def test_hosts_of_its_own_come_last(house: House) -> None:
    house.own["hosts"] = {"host.docker.internal": ["10.0.0.1"], "web": ["10.9.9.9"]}
    house.network("net", (["web"], ["10.0.0.2"]))
    assert house.look_up("host.docker.internal") == (0, ["10.0.0.1"])
    assert house.look_up("host.docker.internal", dns.AAAA) == (0, [])
    assert house.look_up("web") == (0, ["10.0.0.2"])


def test_each_gets_another_first(house: House) -> None:
    house.network("net", *((["web"], [f"10.0.0.{n}"]) for n in range(2, 6)))
    firsts = {house.ask(asked("web"))[-52:-48] for _ in range(60)}
    assert len(firsts) > 1


def test_names_come_and_go_without_a_word(house: House) -> None:
    house.network("net", (["web"], ["10.0.0.2"]))
    assert house.look_up("web") == (0, ["10.0.0.2"])
    house.put("net", {"name": "net", "hosts": [[["web"], ["10.0.0.9"]], [["new"], ["10.0.0.3"]]]})
    assert house.look_up("web") == (0, ["10.0.0.9"])
    assert house.look_up("new") == (0, ["10.0.0.3"])
    (house.folder / "net").unlink()
    assert house.look_up("web")[0] == dns.SERVFAIL
    house.put("net", {"name": "net", "hosts": [[["web"], ["10.0.0.9"]]]})
    assert house.look_up("web") == (0, ["10.0.0.9"])


def test_the_question_comes_back_as_it_was_spelled(house: House) -> None:
    house.network("net", (["web"], ["10.0.0.2"]))
    query = asked("wEb", number=0xBEEF)
    answer = house.ask(query)
    assert answer[:2] == b"\xbe\xef"
    assert answer[12 : 12 + 9] == query[12:21]


def test_what_is_too_long_for_udp_is_asked_for_by_tcp(house: House) -> None:
    addresses = [f"10.0.{n // 250}.{n % 250}" for n in range(300)]
    house.network("net", (["web"], addresses))
    short = house.ask(asked("web"))
    assert len(short) <= 512
    assert short[2] & 0x02  # truncated
    assert told(house.ask(asked("web", size=8192)))[1] == sorted(addresses)
    with house.connect() as sock:
        sock.sendall(framed(asked("web")))
        assert told(read(sock))[1] == sorted(addresses)


REVERSE = b"\7in-addr\4arpa\0\0\x0c\0\1"


@pytest.mark.parametrize("label", [b"\xff", b"a\0", b"\0", b"\xc3\xa9", b"-1", b"256", b"\\."])
def test_an_address_that_is_none(house: House, label: bytes) -> None:
    """Whatever is in it: anybody in the container may ask."""
    name = bytes((len(label),)) + label + b"\0011" * 3 + REVERSE
    assert house.ask(asked("")[:12] + name)[3] & 15 == dns.SERVFAIL
    with house.connect() as sock:
        sock.sendall(framed(asked("")[:12] + name))
        assert read(sock)[3] & 15 == dns.SERVFAIL
    assert house.faults == 0


def test_a_fault_of_ours_ends_nothing(house: House) -> None:
    house.put("own", {"networks": [{"no": "path"}]})
    assert house.look_up("web") == (dns.SERVFAIL, [])
    with house.connect() as sock:
        sock.sendall(framed(asked("web")))
        assert told(read(sock)) == (dns.SERVFAIL, [])
    assert house.faults == 2
    house.network("net", (["web"], ["10.0.0.2"]))
    assert house.look_up("web") == (0, ["10.0.0.2"])


# By TCP


def test_several_questions_on_one_connection(house: House) -> None:
    house.network("net", (["web"], ["10.0.0.2"]))
    with house.connect() as sock:
        sock.sendall(b"".join(framed(asked("web", number=n)) for n in range(1000)))
        for number in range(1000):
            answer = read(sock)
            assert int.from_bytes(answer[:2]) == number
            assert told(answer) == (0, ["10.0.0.2"])


def test_a_question_in_pieces(house: House) -> None:
    house.network("net", (["web"], ["10.0.0.2"]))
    with house.connect() as sock:
        for byte in framed(asked("web")):
            sock.sendall(bytes((byte,)))
        assert told(read(sock)) == (0, ["10.0.0.2"])


def test_many_malformed_questions_at_once(house: House) -> None:
    with house.connect() as sock:
        sock.sendall(framed(b"\0" * 12) * 4000)
        assert all(read(sock)[3] & 15 == dns.FORMERR for _ in range(4000))


def test_only_so_many_connections(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "_MOST_STREAMS", 2)
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(house.connect()) for _ in range(2)]
        for sock in kept:
            sock.sendall(framed(b"\0" * 12))
            read(sock)
        assert stack.enter_context(house.connect()).recv(1) == b""
        kept[0].sendall(framed(b"\0" * 12))
        assert read(kept[0])[3] & 15 == dns.FORMERR


def test_who_says_nothing_is_hung_up_on(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "_IDLE_S", 0.05)
    with house.connect() as sock:
        assert sock.recv(1) == b""


# Other servers


@contextlib.contextmanager
def server(
    address: str, port: int, answer: Callable[[bytes], bytes | None], seen: list[bytes]
) -> Iterator[None]:
    """One that answers what `answer` makes of each question, by UDP and TCP."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((address, port))
    tcp = socket.create_server((address, port))

    def datagrams() -> None:
        with contextlib.suppress(OSError):
            while True:
                data, client = udp.recvfrom(65535)
                if not data:
                    return
                seen.append(data)
                if (made := answer(data)) is not None:
                    udp.sendto(made, client)

    def streams() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = tcp.accept()
                with sock, contextlib.suppress(OSError):
                    data = read(sock)
                    seen.append(data)
                    if (made := answer(data)) is not None:
                        sock.sendall(framed(made))

    threads = [threading.Thread(target=one, daemon=True) for one in (datagrams, streams)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (address, port))
        tcp.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(10)
        udp.close()
        tcp.close()


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """One that is free for both on 127.0.0.1 and its neighbours."""
    with socket.create_server(("127.0.0.2", 0)) as probe:
        found = int(probe.getsockname()[1])
    monkeypatch.setattr(resolver, "PORT", found)
    return found


def says(code: int, *addresses: str) -> Callable[[bytes], bytes]:
    def answer(data: bytes) -> bytes:
        query = dns.Query(data)
        made = dns.addresses(query, addresses)
        return made[:3] + bytes((0x80 | code,)) + made[4:]

    return answer


def test_what_nobody_has_is_asked_elsewhere(house: House, port: int) -> None:
    seen: list[bytes] = []
    house.servers("127.0.0.2")
    with server("127.0.0.2", port, says(0, "192.0.2.1"), seen):
        answer = house.ask(asked("example.com", number=0x1234, size=1232))
        assert told(answer) == (0, ["192.0.2.1"])
        assert answer[:2] == b"\x12\x34"
        with house.connect() as sock:
            sock.sendall(framed(asked("example.com")))
            assert told(read(sock)) == (0, ["192.0.2.1"])
    # As it came, but for an id that nobody can guess.
    assert seen[0][2:] == asked("example.com", size=1232)[2:]
    assert len({data[:2] for data in seen}) == 2


@pytest.mark.parametrize("first", [says(dns.SERVFAIL), says(dns.REFUSED), None])
def test_the_next_server_is_asked(
    house: House, port: int, first: Callable[[bytes], bytes] | None
) -> None:
    house.servers("127.0.0.2", "127.0.0.3")
    with contextlib.ExitStack() as stack:
        if first is not None:  # else nobody listens there
            stack.enter_context(server("127.0.0.2", port, first, []))
        stack.enter_context(server("127.0.0.3", port, says(0, "192.0.2.3"), []))
        assert house.look_up("example.com") == (0, ["192.0.2.3"])
        with house.connect() as sock:
            sock.sendall(framed(asked("example.com")))
            assert told(read(sock)) == (0, ["192.0.2.3"])


def test_a_server_that_is_silent(house: House, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "_SHORT_PATIENCE_S", 0.1)
    monkeypatch.setattr(resolver, "_PATIENCE_S", 0.2)
    house.servers("127.0.0.2", "127.0.0.3")
    with server("127.0.0.2", port, lambda _: None, []):
        with server("127.0.0.3", port, says(0, "192.0.2.3"), []):
            assert house.look_up("example.com") == (0, ["192.0.2.3"])
        assert house.look_up("example.com") == (dns.SERVFAIL, [])


def late(seconds: float, *addresses: str) -> Callable[[bytes], bytes]:
    def answer(data: bytes) -> bytes:
        time.sleep(seconds)
        return says(0, *addresses)(data)

    return answer


@pytest.mark.parametrize("is_stream", [False, True])
def test_who_is_slow_is_listened_to_while_others_are_asked(
    house: House, port: int, monkeypatch: pytest.MonkeyPatch, is_stream: bool
) -> None:
    monkeypatch.setattr(resolver, "_SHORT_PATIENCE_S", 0.2)
    house.servers("127.0.0.2", "127.0.0.3")
    with (
        server("127.0.0.2", port, late(0.6, "192.0.2.2"), []),
        server("127.0.0.3", port, late(2, "192.0.2.3"), []),
    ):
        begun = time.monotonic()
        if is_stream:
            with house.connect() as sock:
                sock.sendall(framed(asked("example.com")))
                found = told(read(sock))
        else:
            found = house.look_up("example.com")
        assert found == (0, ["192.0.2.2"])
        assert time.monotonic() - begun < 1.5


def test_a_slow_one_that_fails_does_not_end_the_wait_for_the_next(
    house: House, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "_SHORT_PATIENCE_S", 0.1)

    def fail(data: bytes) -> bytes:
        time.sleep(0.3)
        return says(dns.SERVFAIL)(data)

    house.servers("127.0.0.2", "127.0.0.3")
    with (
        server("127.0.0.2", port, fail, []),
        server("127.0.0.3", port, late(0.6, "192.0.2.3"), []),
    ):
        assert house.look_up("example.com") == (0, ["192.0.2.3"])


def test_an_empty_message_by_tcp_is_no_answer(house: House, port: int) -> None:
    house.servers("127.0.0.2", "127.0.0.3")
    with (
        server("127.0.0.2", port, lambda _: b"", []),
        server("127.0.0.3", port, says(0, "192.0.2.3"), []),
        house.connect() as sock,
    ):
        begun = time.monotonic()
        sock.sendall(framed(asked("example.com")))
        assert told(read(sock)) == (0, ["192.0.2.3"])
        assert time.monotonic() - begun < 1


def test_a_name_that_does_not_exist_is_not_asked_for_twice(house: House, port: int) -> None:
    seen: list[bytes] = []
    house.servers("127.0.0.2", "127.0.0.3")
    with (
        server("127.0.0.2", port, says(dns.NXDOMAIN), []),
        server("127.0.0.3", port, says(0, "192.0.2.3"), seen),
    ):
        assert house.look_up("nosuch.example") == (dns.NXDOMAIN, [])
    assert seen == []


def test_an_answer_to_something_else_is_none(
    house: House, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong id, another question, no answer at all: whoever guesses has guessed wrong."""
    monkeypatch.setattr(resolver, "_PATIENCE_S", 0.5)
    lies: list[Callable[[bytes], bytes]] = [
        lambda data: bytes((data[0] ^ 1,)) + says(0, "192.0.2.66")(data)[1:],
        lambda data: says(0, "192.0.2.66")(data[:2] + asked("other.example")[2:]),
        lambda data: data,
        lambda _data: b"\0",
    ]
    house.servers("127.0.0.2")
    for lie in lies:
        with server("127.0.0.2", port, lie, []):
            assert house.look_up("example.com") == (dns.SERVFAIL, [])


def test_an_internal_network_asks_nobody(house: House, port: int) -> None:
    seen: list[bytes] = []
    house.servers("127.0.0.2", forwards=False)
    house.network("net", (["web"], ["10.0.0.2"]))
    with server("127.0.0.2", port, says(0, "192.0.2.1"), seen):
        assert house.look_up("example.com") == (dns.SERVFAIL, [])
        assert house.look_up("9.9.9.9.in-addr.arpa", dns.PTR) == (dns.SERVFAIL, [])
        assert house.look_up("web", 16) == (dns.SERVFAIL, [])
        assert house.look_up("web") == (0, ["10.0.0.2"])
    assert seen == []


def test_too_many_at_once_are_refused(
    house: House, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house.resolver, "_most_under_way", 1)
    monkeypatch.setattr(resolver, "_PATIENCE_S", 5)
    house.servers("127.0.0.2")
    with (
        server("127.0.0.2", port, lambda _: None, []),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waiting,
    ):
        waiting.sendto(asked("slow.example"), house.udp_address)
        deadline = time.monotonic() + 10
        while house.resolver._under_way == set() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert house.look_up("example.com") == (dns.REFUSED, [])


def test_whom_it_asks_leaves_descriptors_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 100))
    house = House(tmp_path)
    assert house.resolver._most_under_way == 50
    house.close()


# What is no question


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 12,
        asked("a")[:-1],
        asked("a")[:13],
        b"\0\1\1\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1",  # a name that points to itself
        b"\0\1\1\0\0\1\0\0\0\0\0\0" + b"\x3f" + b"a" * 63 * 5 + b"\0\0\1\0\1",
        b"\0\1\1\0\0\2" + asked("a")[6:],
        asked("a", size=512)[:-3],
    ],
)
def test_what_is_no_question_is_said_to_be_none(house: House, data: bytes) -> None:
    answer = house.ask(data)
    assert answer[:2] == data[:2]
    assert answer[3] & 15 == dns.FORMERR


@given(st.binary(max_size=80))
def test_any_bytes_are_a_query_or_malformed(data: bytes) -> None:
    try:
        query = dns.Query(data)
    except dns.Malformed:
        assert len(dns.failed_to_parse(data)) in (0, 12)
        return
    dns.address_of(query.name)
    assert len(dns.fitted(dns.addresses(query, []) if query.kind in (1, 28) else b"", query)) <= 512
    dns.failure(query, dns.SERVFAIL)


@given(st.lists(st.binary(min_size=1, max_size=3), min_size=4, max_size=4), st.booleans())
def test_any_labels_are_an_address_or_none(labels: list[bytes], is_text: bool) -> None:
    texts = [b"%d" % label[0] if is_text else label for label in labels]
    name = b"".join(bytes((len(text),)) + text for text in texts) + REVERSE
    found = dns.address_of(dns.Query(asked("")[:12] + name).name)
    assert is_text == (found is not None) or all(text.isdigit() for text in texts)


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), max_size=4))
def test_a_name_is_read_as_it_was_written(labels: list[str]) -> None:
    encoded = [label.encode() for label in labels]
    data = asked("")[:12] + b"".join(bytes((len(e),)) + e for e in encoded) + b"\0\0\1\0\1"
    escaped = [e.lower().decode().replace("\\", "\\\\").replace(".", "\\.") for e in encoded]
    assert dns.Query(data).name == ".".join(escaped)


def test_another_opcode_is_not_implemented(house: House) -> None:
    update = asked("web")[:2] + b"\x29\0" + asked("web")[4:]
    answer = house.ask(update)
    assert (answer[2] & 0x78, answer[3] & 15) == (0x28, dns.NOTIMP)


def test_who_sends_nothing_by_tcp_is_hung_up_on(house: House) -> None:
    with house.connect() as sock:
        sock.sendall(framed(b"short"))
        assert sock.recv(1) == b""


def test_answers_are_not_answered(house: House) -> None:
    house.network("net", (["web"], ["10.0.0.2"]))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect(house.udp_address)
        sock.send(b"\0\1\x81" + asked("web")[3:])
        sock.send(asked("web", number=2))
        assert sock.recv(512)[:2] == b"\0\2"
