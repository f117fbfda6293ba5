"""Content: blobs by digest, the exact bytes of manifests and configs.

    <root>/blobs/<algorithm>/<encoded>    committed: complete, verified, durable
    <root>/ingest/<random>                being written; what a crash leaves is swept at boot

A blob is invisible until `commit` has checked its size and digest. Layers pass
through here only if somebody wishes so: they live unpacked in snapshots.
"""

from __future__ import annotations

import os
import secrets
import threading
from typing import TYPE_CHECKING, BinaryIO

from engine.errors import EngineError, InvalidParameter
from engine.oci import digest as digests
from engine.oci.digest import Digest
from engine.storage import atomic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

LARGEST_DOCUMENT_BYTES = 16 << 20
"""Most that `read` brings into memory; documents are far smaller."""


class DigestMismatch(InvalidParameter):
    """The bytes are not those that the digest names."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(f"filesystem layer verification failed for digest {expected}")
        self.expected = expected
        self.actual = actual


class SizeMismatch(InvalidParameter):
    """More or fewer bytes than announced."""

    def __init__(self, digest: str, expected: int, actual: int) -> None:
        super().__init__(f"{digest}: expected {expected} bytes, got {actual}")
        self.expected = expected
        self.actual = actual


class BlobMissing(EngineError):
    def __init__(self, digest: str) -> None:
        super().__init__(f"content {digest} is missing from the store")
        self.digest = digest


class BlobDamaged(BlobMissing):
    """Its bytes have changed on the disk, so it is there no more (the sentence is dockerd's)."""

    def __init__(self, digest: Digest) -> None:
        EngineError.__init__(self, f"failed to verify: {digest}")
        self.digest = digest


class IngestAborted(EngineError):
    """The bytes being followed are no longer wanted, or were not those of the blob."""

    def __init__(self, digest: str) -> None:
        super().__init__(f"ingest of {digest} was aborted")


class Ingest:
    """A blob being written; leaving the context without `commit` removes it.

    One thread at a time writes; others may meanwhile follow what it has written.
    """

    def __init__(self, content: Content, digest: Digest, size: int | None) -> None:
        self._content = content
        self._digest = digest
        self._size = size
        self._hash = digests.hasher(digest)
        self._path = os.path.join(content.ingest_root, secrets.token_hex(12))
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._changed = threading.Condition()
        self._is_over = False
        self._is_aborted = False
        self._is_verified = False
        self.offset = 0

    @property
    def path(self) -> str:
        """Where the bytes are while the ingest is open."""
        return self._path

    def write(self, data: bytes) -> None:
        """Append; raises SizeMismatch as soon as there is more than announced."""
        if self._fd < 0:
            raise ValueError("ingest is closed")
        offset = self.offset + len(data)
        if self._size is not None and offset > self._size:
            raise SizeMismatch(self._digest, self._size, offset)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        with self._changed:
            self.offset = offset
            self._changed.notify_all()
        # Followers go on while this is hashed.
        self._hash.update(data)

    def verify(self) -> None:
        """Raise SizeMismatch or DigestMismatch unless the bytes so far are the whole blob."""
        if self._size is not None and self.offset != self._size:
            raise SizeMismatch(self._digest, self._size, self.offset)
        actual = f"{digests.algorithm(self._digest)}:{self._hash.hexdigest()}"
        if actual != self._digest:
            raise DigestMismatch(self._digest, actual)
        with self._changed:
            self._is_verified = True
            self._changed.notify_all()

    def commit(self) -> Digest:
        """Verify, make durable, make visible."""
        if self._fd < 0:
            raise ValueError("ingest is closed")
        self.verify()
        os.fsync(self._fd)
        self._close()
        target = self._content.path(self._digest)
        os.rename(self._path, target)
        self._is_over = True
        atomic.fsync_directory(os.path.dirname(target))
        return self._digest

    def abort(self) -> None:
        """Forget the bytes, and tell who follows them; after `commit` it does nothing."""
        with self._changed:
            if self._is_over:
                return
            self._is_over = self._is_aborted = True
            self._changed.notify_all()
        try:
            self._close()
        finally:
            os.unlink(self._path)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    # Following

    def follow(self) -> Follower:
        """A reader of the bytes as they come; the caller closes it. Raises IngestAborted."""
        with self._changed:
            self._check()
            return Follower(self, os.open(self._path, os.O_RDONLY | os.O_CLOEXEC))

    def wait_for(self, position: int) -> int:
        """How many bytes there are behind `position`, at least one; 0 at the end, which nobody
        sees before the whole is verified. Raises IngestAborted.
        """
        with self._changed:
            while True:
                self._check()
                if self.offset > position:
                    return self.offset - position
                if self._is_verified:
                    return 0
                self._changed.wait()

    def wait_until_verified(self) -> None:
        """Wait for the verdict on the bytes; raises IngestAborted."""
        with self._changed:
            while not self._is_verified:
                self._check()
                self._changed.wait()
            self._check()

    def _check(self) -> None:
        if self._is_aborted:
            raise IngestAborted(self._digest)

    def __enter__(self) -> Ingest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abort()


class Follower:
    """Reads an ingest behind its writer, waiting for more. Use as a context manager."""

    def __init__(self, ingest: Ingest, fd: int) -> None:
        self._ingest = ingest
        self._fd = fd
        self._position = 0

    def read(self, n: int, /) -> bytes:
        """Up to n bytes; b"" is the end of the verified blob. Raises IngestAborted."""
        available = self._ingest.wait_for(self._position)
        if not available:
            return b""
        data = os.read(self._fd, min(n, available))
        self._position += len(data)
        return data

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


class Content:
    """The blobs below `root`. Thread-safe: each ingest has its own file, renames are atomic."""

    def __init__(self, root: str) -> None:
        self._root = root
        self.ingest_root = os.path.join(root, "ingest")
        os.makedirs(self.ingest_root, mode=0o700, exist_ok=True)
        for algorithm in digests.HEX_LENGTH:
            os.makedirs(os.path.join(root, "blobs", algorithm), mode=0o700, exist_ok=True)

    def path(self, digest: Digest) -> str:
        """Where a blob is, if it is; raises InvalidDigest for what is no digest."""
        parsed = digests.parse(digest)
        return os.path.join(self._root, "blobs", digests.algorithm(parsed), digests.encoded(parsed))

    def ingest(self, digest: Digest, size: int | None = None) -> Ingest:
        """Begin to write a blob; use it as a context manager."""
        digests.parse(digest)
        return Ingest(self, digest, size)

    def put(self, data: bytes, digest: Digest | None = None) -> Digest:
        """Store a small document, under its own digest unless one is expected."""
        name = digest or digests.of(data)
        with self.ingest(name, len(data)) as ingest:
            ingest.write(data)
            return ingest.commit()

    def has(self, digest: Digest) -> bool:
        return os.path.exists(self.path(digest))

    def size(self, digest: Digest) -> int:
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError:
            raise BlobMissing(digest) from None

    def open(self, digest: Digest) -> BinaryIO:
        """A reader of the blob; the caller closes it."""
        try:
            return open(self.path(digest), "rb")
        except FileNotFoundError:
            raise BlobMissing(digest) from None

    def read(self, digest: Digest) -> bytes:
        """The whole of a document, verified. Raises BlobMissing, also for one that was damaged."""
        if self.size(digest) > LARGEST_DOCUMENT_BYTES:
            raise BlobDamaged(digest)  # nothing so large was ever put here as a document
        with self.open(digest) as file:
            data = file.read()
        hasher = digests.hasher(digest)
        hasher.update(data)
        if hasher.hexdigest() != digests.encoded(digest):
            raise BlobDamaged(digest)
        return data

    def find(self, digest: Digest) -> bytes | None:
        """A document that is here and whole, else None: then it is to be had anew."""
        try:
            return self.read(digest)
        except BlobMissing:
            return None

    def delete(self, digest: Digest) -> None:
        """Remove a blob; none there is fine."""
        try:
            os.unlink(self.path(digest))
        except FileNotFoundError:
            return

    def walk(self) -> Iterator[tuple[Digest, int]]:
        """Every blob with its size."""
        for algorithm in digests.HEX_LENGTH:
            with os.scandir(os.path.join(self._root, "blobs", algorithm)) as entries:
                for entry in entries:
                    digest = Digest(f"{algorithm}:{entry.name}")
                    if digests.is_digest(digest):
                        yield digest, entry.stat().st_size

    def sweep_ingests(self) -> None:
        """Remove what unfinished ingests of an earlier life left; call before the first one."""
        atomic.empty(self.ingest_root)
