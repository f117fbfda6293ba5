"""Attach and exec on raw sockets: no byte is lost, whatever the client does not wait for."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import shutil
import socket
import ssl
import struct
import subprocess
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from compat import http2, streams
from compat.connection import Connection
from tests.contract import fake_engine

if TYPE_CHECKING:
    from pathlib import Path

    from engine.linux.fd import OwnedFd

ATTACH = (
    b"POST /v1.51/containers/web/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: d\r\n"
    b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
)
ATTACH_PLAIN = b"POST /containers/web/attach?stream=1 HTTP/1.1\r\nHost: d\r\n\r\n"
CREATE = b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
DOCUMENT = b'Content-Length: 13\r\n\r\n{"Image":"a"}'
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
PING = b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n"
ANSWER = (
    b"HTTP/1.1 101 UPGRADED\r\n"
    b"Content-Type: application/vnd.docker.multiplexed-stream\r\n"
    b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
)
ANSWER_PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n"

Talk = "Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[object, object, None]]"


def talk(tmp_path: Path, conversation: Talk, fake: object = None) -> None:
    async def run() -> None:
        path = str(tmp_path / "api.sock")
        async with fake_engine.serving(fake or fake_engine.engine(), path):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                async with asyncio.timeout(10):
                    await conversation(reader, writer)
            finally:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()

    asyncio.run(run())


def test_a_patient_client_speaks_after_the_answer(tmp_path: Path) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ATTACH)
        assert await reader.readexactly(len(ANSWER)) == ANSWER
        writer.write(b"late")
        writer.write_eof()
        assert await reader.read() == b"heard late"

    talk(tmp_path, conversation)


def test_bytes_right_behind_the_request_and_a_half_close_arrive(tmp_path: Path) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ATTACH + b"early\r\n\r\nPOST / HTTP/1.1\r\n\r\n")
        writer.write_eof()
        answer = ANSWER + b"heard early\r\n\r\nPOST / HTTP/1.1\r\n\r\n"
        assert await reader.read() == answer

    talk(tmp_path, conversation)


def test_without_upgrade_the_same_holds(tmp_path: Path) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ATTACH_PLAIN + b"early")
        writer.write_eof()
        assert await reader.read() == ANSWER_PLAIN + b"heard early"

    talk(tmp_path, conversation)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_request_in_pieces_is_recognised(tmp_path: Path, size: int) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent = ATTACH + b"early"
        for at in range(0, len(sent), size):
            writer.write(sent[at : at + size])
            await asyncio.sleep(0)
        writer.write_eof()
        assert await reader.read() == ANSWER + b"heard early"

    talk(tmp_path, conversation)


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (b"Content-Length: 2\r\n", b"{}"),
        (b"Transfer-Encoding: chunked\r\n", b"2;x=y\r\n{}\r\n0\r\nTrailer: 1\r\n\r\n"),
    ],
)
def test_a_document_sent_with_attach_is_not_input(
    tmp_path: Path, header: bytes, body: bytes
) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = ATTACH.removesuffix(b"\r\n")
        writer.write(head + header + b"Content-Type: application/json\r\n\r\n" + body + b"input")
        writer.write_eof()
        assert await reader.read() == ANSWER + b"heard input"

    talk(tmp_path, conversation)


def test_a_second_request_on_the_connection_may_attach(tmp_path: Path) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            writer.write(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
            await reader.readuntil(b"\r\n\r\nOK")
        writer.write(ATTACH + b"x")
        writer.write_eof()
        assert await reader.read() == ANSWER + b"heard x"

    talk(tmp_path, conversation)


def test_a_refusal_is_plain_text_and_ends_the_connection(tmp_path: Path) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ATTACH.replace(b"web", b"nope") + b"ignored")
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")
        assert b"Content-Type: application/vnd.docker.raw-stream\r\n" in answer
        assert answer.endswith(b"\r\n\r\nNo such container: nope\r\n")

    talk(tmp_path, conversation)


def test_an_exec_start_that_does_not_attach_leaves_the_connection_usable(tmp_path: Path) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = b'{"Detach":true}'
        head = (
            f"POST /v1.51/exec/{fake_engine.EXEC_ID}/start HTTP/1.1\r\nHost: d\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        writer.write(head + body + b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert (await reader.readuntil(b"\r\n\r\nOK")).startswith(b"HTTP/1.1 200 OK\r\n")

    talk(tmp_path, conversation)


def test_exec_start_hands_over_what_follows_its_document(tmp_path: Path) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = b'{"Detach":false,"Tty":true}'
        writer.write(
            f"POST /exec/{fake_engine.EXEC_ID}/start HTTP/1.1\r\nHost: d\r\n"
            "Connection: Upgrade\r\nUpgrade: tcp\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
            + b"keys"
        )
        writer.write_eof()
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(ANSWER.replace(b"multiplexed", b"raw").removesuffix(b"\r\n"))
        assert b"\r\nApi-Version: 1.51\r\n" in answer
        assert await reader.read() == b"heard keys"

    talk(tmp_path, conversation)


def test_a_failure_to_start_is_told_in_a_frame(tmp_path: Path) -> None:
    from engine.errors import InvalidParameter

    fake = fake_engine.engine()

    async def exec_start(ref: str, *, fd: OwnedFd, **asked: object) -> None:
        fd.close()
        raise InvalidParameter('exec: "x": executable file not found in $PATH')

    fake.containers.exec_start = exec_start

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            f"POST /exec/{fake_engine.EXEC_ID}/start HTTP/1.1\r\nHost: d\r\n"
            "Upgrade: tcp\r\nConnection: Upgrade\r\n\r\n".encode()
        )
        text = b'exec: "x": executable file not found in $PATH\r\n'
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.read() == struct.pack(">BxxxL", 1, len(text)) + text

    talk(tmp_path, conversation, fake)


def test_a_connection_that_nobody_took_is_closed(tmp_path: Path) -> None:
    from engine.errors import EngineError

    fake = fake_engine.engine()

    async def attach(*asked: object) -> None:
        raise EngineError("no")

    fake.containers.attach = attach

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ATTACH)
        assert await reader.read() == ANSWER

    talk(tmp_path, conversation, fake)


def test_want_of_descriptors_is_answered_while_that_is_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def dup(fd: int) -> int:
        if made:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        made.append(os.dup(fd))
        return made[0]

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            f"POST /exec/{fake_engine.EXEC_ID}/start HTTP/1.1\r\nHost: d\r\n"
            "Upgrade: tcp\r\nConnection: Upgrade\r\n\r\n".encode()
        )
        assert (await reader.readline()).startswith(b"HTTP/1.1 500 ")
        answer = await reader.readuntil(b"}\n")
        assert answer.endswith(b'\r\n\r\n{"message":"too many open files"}\n')
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(made[0])

    monkeypatch.setattr(streams, "os", SimpleNamespace(dup=dup))
    talk(tmp_path, conversation)


def test_versions_before_1_42_know_one_content_type(tmp_path: Path) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ATTACH.replace(b"1.51", b"1.41"))
        answer = await reader.readuntil(b"\r\n\r\n")
        assert b"Content-Type: application/vnd.docker.raw-stream\r\n" in answer

    talk(tmp_path, conversation)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate of its own for "d", in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    made = path.with_suffix(".crt")
    request = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=d -addext subjectAltName=DNS:d"
    subprocess.run(
        ["openssl", *request.split(), "-keyout", path, "-out", made],
        check=True,
        capture_output=True,
    )
    path.write_bytes(path.read_bytes() + made.read_bytes())
    return path


@pytest.mark.parametrize("is_patient", [True, False])
def test_behind_tls_the_bytes_are_pumped(
    tmp_path: Path, certificate: Path, is_patient: bool
) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    client = ssl.create_default_context(cafile=str(certificate))
    fake = fake_engine.engine()
    megabyte = b"x" * 2**20

    async def echo(ref: str, options: object, fd: OwnedFd, prefix: bytes) -> None:
        fake.echo = asyncio.ensure_future(_echo(fd.take(), prefix, len(megabyte) + 5))

    fake.containers.attach = echo

    async def run() -> None:
        path = str(tmp_path / "tls.sock")
        async with fake_engine.serving(fake, path, tls=server), asyncio.timeout(10):
            reader, writer = await asyncio.open_unix_connection(
                path, ssl=client, server_hostname="d"
            )
            sent = b"early" + megabyte
            writer.write(ATTACH if is_patient else ATTACH + sent)
            assert await reader.readexactly(len(ANSWER)) == ANSWER
            if is_patient:
                writer.write(sent)
            assert await reader.read(-1) == b"early" + megabyte
            writer.close()

    asyncio.run(run())


def talk_tls(tmp_path: Path, certificate: Path, conversation: Talk, fake: Any) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    client = ssl.create_default_context(cafile=str(certificate))

    async def run() -> None:
        path = str(tmp_path / "tls.sock")
        async with fake_engine.serving(fake, path, tls=server), asyncio.timeout(10):
            reader, writer = await asyncio.open_unix_connection(
                path, ssl=client, server_hostname="d"
            )
            await conversation(reader, writer)
            writer.close()

    asyncio.run(run())


def test_behind_tls_what_is_told_before_the_handover_goes_out_at_once(
    tmp_path: Path, certificate: Path
) -> None:
    """A log that is longer than all buffers on the way."""
    fake = fake_engine.engine()
    told = b"line\n" * 2**21

    async def replay(ref: str, options: object, fd: OwnedFd, prefix: bytes) -> None:
        with socket.socket(fileno=fd.take()) as sock:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(sock, told)

    fake.containers.attach = replay

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ATTACH)
        assert await reader.readexactly(len(ANSWER)) == ANSWER
        assert await reader.read() == told

    talk_tls(tmp_path, certificate, conversation, fake)


def test_behind_tls_an_attach_that_fails_ends_the_connection(
    tmp_path: Path, certificate: Path
) -> None:
    """Also where somebody has the descriptor still."""
    from engine.errors import Conflict

    fake = fake_engine.engine()
    left: list[socket.socket] = []

    async def refuse(ref: str, options: object, fd: OwnedFd, prefix: bytes) -> None:
        left.append(socket.socket(fileno=fd.take()))
        raise Conflict("it is paused by now")

    fake.containers.attach = refuse

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ATTACH)
        assert (await reader.read()).startswith(ANSWER)
        with left[0]:
            assert left[0].recv(1) == b""

    talk_tls(tmp_path, certificate, conversation, fake)


async def _echo(fd: int, prefix: bytes, count: int) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(fileno=fd) as sock:
        sock.setblocking(False)
        heard = prefix
        while len(heard) < count:
            heard += await loop.sock_recv(sock, 65536)
        await loop.sock_sendall(sock, heard)


def test_doubled_slashes_are_redirected(tmp_path: Path) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET //containers/../version?a=b HTTP/1.1\r\nHost: d\r\n\r\n")
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 301 Moved Permanently\r\n")
        assert b"Location: /version?a=b\r\n" in answer

    talk(tmp_path, conversation)


def test_a_client_that_leaves_ends_its_wait_and_its_logs(tmp_path: Path) -> None:
    fake = fake_engine.engine()

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST /containers/web/wait HTTP/1.1\r\nHost: d\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")  # while nothing has ended yet
        path = writer.get_extra_info("peername")
        other_reader, other = await asyncio.open_unix_connection(path)
        other.write(b"GET /containers/web/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: d\r\n\r\n")
        await other_reader.readuntil(b"more\n")
        writer.close()
        other.close()
        while sorted(fake.containers.ends) != ["logs", "wait"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    talk(tmp_path, conversation, fake)


def test_a_client_that_leaves_takes_all_that_was_made_for_it_along(tmp_path: Path) -> None:
    fake = fake_engine.engine()

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = writer.get_extra_info("peername")
        left = []
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                other_reader, other = await asyncio.open_unix_connection(path)
                other.write(
                    b"GET /containers/web/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: d\r\n\r\n"
                )
                await other_reader.readuntil(b"more\n")
                other.close()
            while len(fake.containers.ends) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            left = [one for one in gc.get_objects() if type(one) is web.Request]
        finally:
            gc.enable()
        assert left == []

    talk(tmp_path, conversation, fake)


@pytest.mark.parametrize("sent", [b"GET /_ping\r\n", b"\r\nGET", b"GET /\x01 HTTP/1.1\n"])
def test_a_first_line_that_is_none_is_refused_at_once(tmp_path: Path, sent: bytes) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        assert (await reader.read()).startswith(b"HTTP/1.1 400 Bad Request\r\n")

    talk(tmp_path, conversation)


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"GARBAGE <secret>\r\n\r\n", b"HTTP/1.1 400 Bad Request\r\n"),
        (b"GET /_ping HTTP/1.1\r\nHost: d\r\nX: " + b"a" * 2**21, b"HTTP/1.1 431 Request Header"),
        (CREATE + CHUNKED + b"zz\n", b"HTTP/1.1 400 Bad Request\r\n"),
        (CREATE + CHUNKED + b"1" * 5000, b"HTTP/1.1 400 Bad Request\r\n"),
    ],
    ids=["garbage", "large", "chunk", "endless chunk line"],
)
def test_what_is_no_request_ends_the_connection_and_is_no_news(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sent: bytes, answer: bytes
) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
        await reader.readuntil(b"\r\n\r\nOK")
        writer.write(sent)
        heard = b""
        with contextlib.suppress(ConnectionError):  # of what was not read any more
            while data := await reader.read(65536):
                heard += data
        assert heard.startswith(answer)
        assert b"secret" not in heard

    talk(tmp_path, conversation)
    assert [r for r in caplog.records if r.levelno > logging.DEBUG] == []


def test_a_head_that_never_ends_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compat.connection.HEAD_TIMEOUT_S", 0.2)

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
        await reader.readuntil(b"\r\n\r\nOK")
        await asyncio.sleep(0.4)  # between two requests there is no hurry
        writer.write(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
        await reader.readuntil(b"\r\n\r\nOK")
        for _ in range(3):
            writer.write(b"GET /_ping")
            await asyncio.sleep(0.05)
        assert await reader.read() == b""

    talk(tmp_path, conversation)


def test_heads_in_a_row_are_answered_in_a_row_even_before_a_takeover(tmp_path: Path) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /_ping HTTP/1.1\nHost: d\n\n" * 3 + ATTACH + b"early")
        writer.write_eof()
        for _ in range(3):
            await reader.readuntil(b"\r\n\r\nOK")
        assert await reader.read() == ANSWER + b"heard early"

    talk(tmp_path, conversation)


def test_a_client_that_leaves_at_any_moment_is_no_news(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer to these begins when nobody is there any more."""
    fake = fake_engine.engine()
    asked: list[bytes] = [
        ATTACH,
        b"POST /containers/web/wait HTTP/1.1\r\nHost: d\r\n\r\n",
        b"GET /containers/web/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: d\r\n\r\n",
        b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n",
    ]

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = writer.get_extra_info("peername")
        for delay in (0, 0.001, 0.005):
            for head in asked * 5:
                _, other = await asyncio.open_unix_connection(path)
                other.write(head)
                await asyncio.sleep(delay)
                other.transport.abort()
        await asyncio.sleep(0.2)

    talk(tmp_path, conversation, fake)
    assert [r.getMessage() for r in caplog.records if r.levelno > logging.INFO] == []


def test_long_headers_and_urls_are_read(tmp_path: Path) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        credentials = b"c" * 500_000
        writer.write(b"GET /_ping?" + b"f" * 100_000 + b" HTTP/1.1\r\nHost: d\r\n")
        writer.write(b"X-Registry-Config: " + credentials + b"\r\n\r\n")
        await reader.readuntil(b"\r\n\r\nOK")

    talk(tmp_path, conversation)


def test_the_connection_to_a_builder_is_taken_and_every_call_refused(tmp_path: Path) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"POST /grpc HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
            + http2.PREFACE
        )
        answer = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        assert await reader.readexactly(len(answer)) == answer
        assert await reader.readexactly(9) == b"\0\0\0\4\0\0\0\0\0"
        writer.write(b"\0\0\0\1\4\0\0\0\1")
        assert b"building images is not supported" in await reader.read(1000)
        writer.write_eof()
        assert await reader.read() == b""

    talk(tmp_path, conversation)


# One request after the other


async def answers(reader: asyncio.StreamReader) -> list[tuple[int, str]]:
    """Status and text of each answer until the connection ends."""
    heard = await reader.read()
    found: list[tuple[int, str]] = []
    while heard:
        head, _, heard = heard.partition(b"\r\n\r\n")
        said = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
        length = int(said) if said else len(heard)
        found.append((int(head[9:12]), heard[:length].decode().strip()))
        heard = heard[length:]
    return found


@pytest.mark.parametrize("first", [b"", ATTACH.replace(b"attach?", b"attac?"), PING])
def test_whoever_half_closes_gets_all_answers(tmp_path: Path, first: bytes) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first + PING + PING)
        writer.write_eof()
        assert (await answers(reader))[-2:] == [(200, "OK"), (200, "OK")]

    talk(tmp_path, conversation)


def test_what_comes_behind_a_refused_takeover_and_a_half_close_is_answered(tmp_path: Path) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST /exec/nope/start HTTP/1.1\r\nHost: d\r\n\r\n" + PING * 2 + b"GET /_pi")
        writer.write_eof()
        assert [status for status, _ in await answers(reader)] == [404, 200, 200, 400]

    talk(tmp_path, conversation)


@pytest.mark.parametrize("version", ["v1.29", "v1.51"])
@pytest.mark.parametrize("is_late", [False, True])
def test_whoever_half_closes_waits_for_nothing(tmp_path: Path, version: str, is_late: bool) -> None:
    """What is there of the answer goes out, and so do those to what comes behind."""
    fake = fake_engine.engine()

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wait = f"POST /{version}/containers/web/wait HTTP/1.1\r\nHost: d\r\n\r\n"
        writer.write(wait.encode() + PING)
        if is_late:
            await asyncio.sleep(0.1)
        writer.write_eof()
        heard = await reader.read()
        assert b'{"Error":{"Message":"context canceled"},"StatusCode":-1}\n' in heard
        assert heard.endswith(b"OK")
        assert fake.containers.ends == ["wait"]

    talk(tmp_path, conversation, fake)


def test_a_head_begun_behind_a_long_answer_cuts_nothing_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time begins with the end of that answer."""
    monkeypatch.setattr("compat.connection.HEAD_TIMEOUT_S", 0.2)
    fake = fake_engine.engine()

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from engine.container import model

        writer.write(b"POST /containers/web/wait HTTP/1.1\r\nHost: d\r\n\r\n" + b"GET /_pi")
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.5)
        fake.containers.outcome.set_result(model.WaitResult(exit_code=3))
        assert b'"StatusCode":3' in await reader.readuntil(b"0\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""

    talk(tmp_path, conversation, fake)


@pytest.mark.parametrize("ends", [b"\r\n", b"\r\n\r\n", b"\n", b"\r"])
@pytest.mark.parametrize("size", [1, 1000])
def test_line_ends_behind_a_post_are_overlooked(tmp_path: Path, ends: bytes, size: int) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent = CREATE + DOCUMENT + ends + PING
        for at in range(0, len(sent), size):
            writer.write(sent[at : at + size])
            await asyncio.sleep(0)
        writer.write_eof()
        assert [status for status, _ in await answers(reader)] == [201, 200]

    talk(tmp_path, conversation)


@pytest.mark.parametrize(
    "sent",
    [
        CREATE + DOCUMENT + b"\r\n" * 3 + PING,
        CREATE + DOCUMENT + b" " + PING,
        PING + b"\r\n" + PING,
    ],
    ids=["too many", "blank", "behind GET"],
)
def test_no_others_are(tmp_path: Path, sent: bytes) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        assert [status for status, _ in await answers(reader)][1:] == [400]

    talk(tmp_path, conversation)


# Bodies that are none


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (CHUNKED + b"zz\r\n", "invalid JSON: invalid byte in chunk length"),
        (CHUNKED + b'9\r\n{"Image":\r\n\r\n', "invalid JSON: empty hex number for chunk length"),
        (CHUNKED + b"2\r\n{}\r\nzz\r\n", "unexpected content after JSON"),
        (CHUNKED + b"0\r\n\r\n", "invalid JSON: got EOF while reading request body"),
        (b'Content-Length: 10\r\n\r\n{"Ima', "invalid JSON: unexpected EOF"),
        (b"Content-Length: 10\r\n\r\n{}", "unexpected content after JSON"),
        (b"Content-Length: 4\r\n\r\n{} x", "unexpected content after JSON"),
    ],
)
def test_a_broken_body_is_answered(tmp_path: Path, sent: bytes, said: str) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CREATE + sent)
        writer.write_eof()
        assert await answers(reader) == [(400, f'{{"message":"{said}"}}')]

    talk(tmp_path, conversation)


def test_a_broken_form_is_refused(tmp_path: Path) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        form = b"Content-Type: application/x-www-form-urlencoded\r\n"
        writer.write(
            b"POST /containers/web/stop HTTP/1.1\r\nHost: d\r\n" + form + CHUNKED + b"zz\r\n"
        )
        assert await answers(reader) == [(400, '{"message":"invalid byte in chunk length"}')]

    talk(tmp_path, conversation)


def test_whoever_does_not_look_at_a_broken_body_answers_and_ends(tmp_path: Path) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(PING.removesuffix(b"\r\n") + CHUNKED + b"zz\r\n")
        heard = await reader.read()
        assert b"\r\nConnection: close\r\n" in heard
        assert heard.endswith(b"\r\n\r\nOK")

    talk(tmp_path, conversation)


# Expect: 100-continue


EXPECT = b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"


def test_a_client_is_told_to_go_on_once_its_body_is_wanted(tmp_path: Path) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CREATE + EXPECT.replace(b"2", b"13"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b'{"Image":"a"}' + PING)
        writer.write_eof()
        assert [status for status, _ in await answers(reader)] == [201, 200]

    talk(tmp_path, conversation)


@pytest.mark.parametrize("behind", [PING, b"GARBAGE\r\n\r\n"], ids=["ping", "garbage"])
def test_where_nobody_wants_the_body_the_answer_is_the_last(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, behind: bytes
) -> None:
    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST /containers/nope/stop HTTP/1.1\r\nHost: d\r\n" + EXPECT)
        heard = await reader.read()
        assert heard.startswith(b"HTTP/1.1 404 Not Found\r\n")
        assert b"\r\nConnection: close\r\n" in heard
        writer.write(b"{}" + behind)  # too late, but no reason to break off
        await writer.drain()
        await asyncio.sleep(0.05)

    talk(tmp_path, conversation)
    assert [r for r in caplog.records if r.levelno > logging.DEBUG] == []


# Taking over behind an answer that nobody reads


@pytest.mark.parametrize("reads", [True, False])
def test_a_takeover_waits_for_the_answer_before_it_and_does_not_poll(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    fake = fake_engine.engine()
    waits: list[float] = []
    made = Connection.connection_made

    def with_little_room(self: Connection, transport: asyncio.BaseTransport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made(self, transport)

    monkeypatch.setattr(Connection, "connection_made", with_little_room)

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        writer.transport.pause_reading()
        writer.write(PING * 100 + ATTACH)
        await asyncio.sleep(0.3)
        call_at = loop.call_at

        def counting(when: float, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
            waits.append(when)
            return call_at(when, *args, **kwargs)

        monkeypatch.setattr(loop, "call_at", counting)
        await asyncio.sleep(0.3)
        assert len(waits) < 20
        assert not fake.containers.attached.is_set()
        if reads:
            writer.transport.resume_reading()
            await reader.readuntil(ANSWER)
            writer.write_eof()
            assert await reader.read() == b"heard "
        else:
            writer.transport.abort()
            await asyncio.sleep(0.1)
            assert not fake.containers.attached.is_set()
        assert [task for task in asyncio.all_tasks() if "start" in str(task.get_coro())] == []

    talk(tmp_path, conversation, fake)
