"""Content: blobs by digest, the exact bytes of manifests and configs.

    <root>/blobs/<algorithm>/<encoded>    committed: complete, verified, durable
    <root>/ingest/<random>                being written; what a crash leaves is swept at boot

A blob is invisible until `commit` has checked its size and digest. Layers pass
through here only if somebody wishes so: they live unpacked in snapshots.
"""

from __future__ import annotations

import contextlib
import os
import secrets
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


class Ingest:
    """A blob being written; leaving the context without `commit` removes it."""

    def __init__(self, content: Content, digest: Digest, size: int | None) -> None:
        self._content = content
        self._digest = digest
        self._size = size
        self._hash = digests.hasher(digest)
        self._path = os.path.join(content.ingest_root, secrets.token_hex(12))
        self._file: BinaryIO | None = open(self._path, "xb")  # noqa: SIM115 (closed by `abort`)
        self._is_over = False
        self.offset = 0

    @property
    def path(self) -> str:
        """Where the bytes are while the ingest is open."""
        return self._path

    def write(self, data: bytes) -> None:
        """Append; raises SizeMismatch as soon as there is more than announced."""
        if self._file is None:
            raise ValueError("ingest is closed")
        self.offset += len(data)
        if self._size is not None and self.offset > self._size:
            raise SizeMismatch(self._digest, self._size, self.offset)
        self._hash.update(data)
        self._file.write(data)

    def verify(self) -> None:
        """Raise SizeMismatch or DigestMismatch unless the bytes so far are the whole blob."""
        if self._size is not None and self.offset != self._size:
            raise SizeMismatch(self._digest, self._size, self.offset)
        actual = f"{digests.algorithm(self._digest)}:{self._hash.hexdigest()}"
        if actual != self._digest:
            raise DigestMismatch(self._digest, actual)
        if self._file is not None:
            self._file.flush()

    def commit(self) -> Digest:
        """Verify, make durable, make visible."""
        if self._file is None:
            raise ValueError("ingest is closed")
        self.verify()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        target = self._content.path(self._digest)
        os.rename(self._path, target)
        self._is_over = True
        atomic.fsync_directory(os.path.dirname(target))
        return self._digest

    def abort(self) -> None:
        """Forget the bytes; after `commit` it does nothing."""
        if self._is_over:
            return
        self._is_over = True
        file, self._file = self._file, None
        try:
            # What is still in its buffer is unwanted, so it is no matter if the disk is full.
            with contextlib.suppress(OSError):
                if file is not None:
                    file.close()
        finally:
            os.unlink(self._path)

    def __enter__(self) -> Ingest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abort()


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
        """The whole of a document."""
        if self.size(digest) > LARGEST_DOCUMENT_BYTES:
            raise EngineError(f"content {digest} is too large to be read at once")
        with self.open(digest) as file:
            return file.read()

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
