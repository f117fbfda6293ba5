"""Downloads over wires that break in every way there is."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from engine import errors
from engine.oci import reference
from engine.oci.descriptor import Descriptor
from engine.oci.digest import Digest
from engine.registry.failure import UnknownBlob, VerificationFailed
from engine.registry.fetch import Fetch
from engine.registry.retry import Policy
from tests.support.registry import Answer, Basic, Corrupt, Drip, Fault, HangUp, Registry, Truncate
from tests.unit.registry.conftest import client

if TYPE_CHECKING:
    from engine.registry.client import Repository
    from engine.registry.fetch import Sink

QUICK = Policy(unit_s=0.0, window_s=0.2, floor_bytes=1000)
BLOB = random.Random(1).randbytes(3 << 20)


class Memory:
    """A sink that keeps everything, for tests to look at."""

    made: list[Memory]

    def __init__(self, digest: str, wrote: threading.Event | None = None) -> None:
        self.data = b""
        self.is_aborted = False
        self._wrote = wrote or threading.Event()
        self._digest = digest

    @property
    def offset(self) -> int:
        return len(self.data)

    def write(self, data: bytes) -> None:
        self.data += data
        self._wrote.set()

    def verify(self) -> None:
        if hashlib.sha256(self.data).hexdigest() != self._digest.removeprefix("sha256:"):
            raise errors.InvalidParameter("not what was announced")

    def abort(self) -> None:
        self.is_aborted = True


class Download:
    """Fetches one blob and remembers what it reported and into what it wrote."""

    def __init__(self, registry: Registry, digest: str, size: int) -> None:
        self.ref = reference.parse(f"{registry.host}/a/b:1")
        self.descriptor = Descriptor(digest=Digest(digest), size=size)
        self.sinks: list[Memory] = []
        self.reports: list[tuple[str, int, int]] = []
        self.began = asyncio.Event()
        self.wrote = threading.Event()

    def _report(self, status: str, current: int, total: int) -> None:
        self.reports.append((status, current, total))
        self.began.set()

    def _open(self) -> Sink:
        self.sinks.append(Memory(self.descriptor.digest, self.wrote))
        return self.sinks[-1]

    async def start(self, policy: Policy = QUICK) -> bytes:
        async def work(repository: Repository) -> bytes:
            await Fetch(
                repository,
                self.descriptor,
                self._open,
                policy=policy,
                report=self._report,
            ).run()
            return self.sinks[-1].data

        async with client() as found:
            return await found.attempt(self.ref, None, work)

    def run(self, policy: Policy = QUICK) -> bytes:
        return asyncio.run(self.start(policy))

    @property
    def statuses(self) -> list[str]:
        """The statuses in order, repeated ones once."""
        found = [status for status, _, _ in self.reports]
        return [s for n, s in enumerate(found) if n == 0 or found[n - 1] != s]


@pytest.fixture
def download(registry: Registry) -> Download:
    return Download(registry, registry.add_blob("a/b", BLOB), len(BLOB))


def test_a_blob_arrives(download: Download) -> None:
    assert download.run() == BLOB
    assert download.statuses == ["Downloading", "Verifying Checksum", "Download complete"]
    assert download.reports[-3] == ("Downloading", len(BLOB), len(BLOB))


def test_an_empty_blob_arrives(registry: Registry) -> None:
    assert Download(registry, registry.add_blob("a/b", b""), 0).run() == b""


def test_a_blob_of_unknown_length_arrives(registry: Registry, download: Download) -> None:
    registry.chunked_blobs = True
    assert download.run() == BLOB


@pytest.mark.parametrize(
    "fault",
    [
        Truncate(1_500_000),
        Truncate(0),
        HangUp(),
        Answer(503),
        Answer(500),
        Answer(429, code="TOOMANYREQUESTS"),
    ],
)
def test_a_broken_download_is_taken_up_again(
    registry: Registry, download: Download, fault: Fault
) -> None:
    registry.fault("GET", "/blobs/", fault, times=2)
    assert download.run() == BLOB
    assert "Retrying in 5 seconds" in download.statuses
    assert len(download.sinks) == 1


def test_it_goes_on_where_it_ended(registry: Registry, download: Download) -> None:
    registry.fault("GET", "/blobs/", Truncate(2_000_000), times=1)
    assert download.run() == BLOB
    ranges = [s.headers.get("Range") for s in registry.requests if "/blobs/" in s.path]
    assert ranges == [None, "bytes=2000000-"]


def test_the_countdown_is_as_dockerds(registry: Registry, download: Download) -> None:
    registry.fault("GET", "/blobs/", Answer(503), times=2)
    download.run()
    countdown = [f"Retrying in {n} second{'s' * (n != 1)}" for n in (*range(5, 0, -1),)]
    assert download.statuses[:5] == countdown
    assert download.statuses[5] == "Retrying in 10 seconds"


def test_retry_after_is_heeded(registry: Registry, download: Download) -> None:
    limit = Answer(429, code="TOOMANYREQUESTS", headers={"Retry-After": "30"})
    registry.fault("GET", "/blobs/", limit, times=1)
    download.run()
    assert download.statuses[0] == "Retrying in 30 seconds"


def test_a_registry_without_ranges_is_read_from_the_start(
    registry: Registry, download: Download
) -> None:
    registry.accepts_ranges = False
    registry.fault("GET", "/blobs/", Truncate(2_000_000), times=1)
    assert download.run() == BLOB


@pytest.mark.parametrize("status", [400, 416, 501])
def test_a_registry_that_refuses_ranges_is_read_from_the_start(
    registry: Registry, download: Download, status: int
) -> None:
    registry.fault("GET", "/blobs/", Truncate(2_000_000), times=1)
    registry.fault("GET", "/blobs/", Answer(status), times=1)
    assert download.run() == BLOB
    assert [sink.is_aborted for sink in download.sinks] == [True, False]


def test_it_does_not_begin_anew_for_ever(registry: Registry, download: Download) -> None:
    for _ in range(10):
        registry.fault("GET", "/blobs/", Truncate(2_000_000), times=1)
        registry.fault("GET", "/blobs/", Answer(416), times=1)
    with pytest.raises(errors.WharfError):
        download.run()
    assert registry.seen("GET", "/blobs/") < 12


def test_progress_earns_new_attempts(registry: Registry, download: Download) -> None:
    registry.fault("GET", "/blobs/", Truncate(300_000), times=8)
    assert download.run(replace(QUICK, progress_bytes=100_000)) == BLOB


def test_it_gives_up(registry: Registry, download: Download) -> None:
    registry.fault("GET", "/blobs/", Answer(503))
    with pytest.raises(errors.EngineError, match=r"^received unexpected HTTP status: 503 "):
        download.run()
    assert registry.seen("GET", "/blobs/") == QUICK.attempts
    assert download.sinks[0].is_aborted


@pytest.mark.parametrize(
    "fault", [Answer(401, code="UNAUTHORIZED"), Answer(403, code="DENIED"), Answer(404)]
)
def test_a_refusal_is_final(registry: Registry, download: Download, fault: Fault) -> None:
    registry.fault("GET", "/blobs/", fault)
    with pytest.raises(errors.WharfError):
        download.run()
    assert registry.seen("GET", "/blobs/") == 1
    assert download.sinks[0].is_aborted


def test_a_blob_that_is_not_there(registry: Registry) -> None:
    missing = Download(registry, "sha256:" + "0" * 64, 10)
    with pytest.raises(UnknownBlob, match=r"^unknown blob$"):
        missing.run()


def test_wrong_bytes_are_refused(registry: Registry, download: Download) -> None:
    registry.fault("GET", "/blobs/", Corrupt())
    with pytest.raises(VerificationFailed) as caught:
        download.run()
    digest = download.descriptor.digest
    assert str(caught.value) == f"filesystem layer verification failed for digest {digest}"
    assert registry.seen("GET", "/blobs/") == 1
    assert download.statuses == ["Downloading", "Verifying Checksum"]


@pytest.mark.parametrize("announced", [len(BLOB) - 1, len(BLOB) + 1])
def test_a_wrong_size_is_refused(registry: Registry, announced: int) -> None:
    wrong = Download(registry, registry.add_blob("a/b", BLOB), announced)
    with pytest.raises(VerificationFailed):
        wrong.run()
    assert wrong.sinks[-1].offset <= announced
    assert wrong.sinks[-1].is_aborted


def test_two_halves_of_different_blobs_are_fetched_anew(
    registry: Registry, download: Download
) -> None:
    registry.fault("GET", "/blobs/", Truncate(2_000_000), times=1)
    registry.fault("GET", "/blobs/", Corrupt(), times=1)
    assert download.run() == BLOB
    assert [sink.is_aborted for sink in download.sinks] == [True, False]


def test_it_is_fetched_anew_only_once(registry: Registry, download: Download) -> None:
    for _ in range(2):
        registry.fault("GET", "/blobs/", Truncate(2_000_000), times=1)
        registry.fault("GET", "/blobs/", Corrupt(), times=1)
    with pytest.raises(VerificationFailed):
        download.run()
    assert registry.seen("GET", "/blobs/") == 4


def test_a_trickle_is_cut_off(registry: Registry, download: Download) -> None:
    registry.fault("GET", "/blobs/", Drip(every_s=0.01, first=1000), times=1)
    assert download.run() == BLOB
    assert registry.seen("GET", "/blobs/") == 2


def test_what_has_arrived_is_written_though_no_more_comes(
    registry: Registry, download: Download
) -> None:
    """Who unpacks behind the download sees it: a bomb needs no last byte to go off."""
    registry.fault("GET", "/blobs/", Drip(every_s=60, first=1000))

    async def watch() -> None:
        task = asyncio.create_task(download.start(Policy()))
        is_written = await asyncio.to_thread(download.wrote.wait, 10)
        assert is_written
        task.cancel()
        await asyncio.wait((task,))

    asyncio.run(watch())
    assert download.sinks[-1].data == BLOB[:1000]


def test_cancelling_leaves_nothing(registry: Registry, download: Download) -> None:
    registry.fault("GET", "/blobs/", Drip(every_s=60, first=1000))

    async def run() -> None:
        task = asyncio.ensure_future(download.start())
        await download.began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert download.sinks[0].is_aborted


def test_a_full_disk_is_not_retried(registry: Registry, download: Download) -> None:
    class Full(Memory):
        def write(self, data: bytes) -> None:
            raise OSError(28, "No space left on device")

    download._open = lambda: Full(download.descriptor.digest)  # type: ignore[method-assign]
    with pytest.raises(OSError, match="No space left"):
        download.run()
    assert registry.seen("GET", "/blobs/") == 1


def test_a_password_wanted_for_a_blob_is_final() -> None:
    with Registry(auth=Basic(username="u", password="p")) as registry:
        wanting = Download(registry, registry.add_blob("a/b", BLOB), len(BLOB))
        with pytest.raises(errors.EngineError, match=r"no basic auth credentials$"):
            wanting.run()
        assert not any("Retrying" in status for status in wanting.statuses)
