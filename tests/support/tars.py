"""What a tar says, in a form that two of them can be compared by, whoever wrote them."""

from __future__ import annotations

import hashlib
import io
import tarfile
from decimal import Decimal
from typing import IO, NamedTuple

_XATTR = "SCHILY.xattr."
_KINDS = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.CONTTYPE: "file",
    tarfile.LNKTYPE: "link",
    tarfile.SYMTYPE: "symlink",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
    tarfile.DIRTYPE: "directory",
    tarfile.FIFOTYPE: "fifo",
}


class Entry(NamedTuple):
    """`name` without a slash at its end; bytes that are no UTF-8 escaped; `sha256` of a file's
    contents. A link has what its file has, whatever its own header says."""

    kind: str
    name: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    target: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, bytes], ...] = ()
    size: int = 0
    sha256: str = ""


def entries(data: bytes | IO[bytes]) -> list[Entry]:
    """All members, in the order they have."""
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    with tarfile.open(
        fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape"
    ) as archive:
        return [_entry(archive, member) for member in archive]


def by_name(data: bytes | IO[bytes]) -> dict[str, Entry]:
    found = entries(data)
    names = {entry.name: entry for entry in found}
    assert len(names) == len(found), "a name came twice"
    return names


def _entry(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    kind = _KINDS[member.type]
    contents = archive.extractfile(member) if kind == "file" else None
    mtime = member.pax_headers.get("mtime")
    return Entry(
        kind=kind,
        name=member.name.rstrip("/"),
        mode=member.mode,
        uid=member.uid,
        gid=member.gid,
        mtime_ns=int(Decimal(mtime if mtime is not None else member.mtime) * 10**9),
        target=member.linkname if kind in ("link", "symlink") else "",
        device=(member.devmajor, member.devminor) if kind in ("char", "block") else (0, 0),
        xattrs=tuple(
            sorted(
                (key.removeprefix(_XATTR), value.encode("utf-8", "surrogateescape"))
                for key, value in member.pax_headers.items()
                if key.startswith(_XATTR)
            )
        ),
        size=member.size if kind == "file" else 0,
        sha256="" if contents is None else _hash(contents),
    )


def _hash(contents: IO[bytes]) -> str:
    found = hashlib.sha256()
    while piece := contents.read(1 << 20):
        found.update(piece)
    return found.hexdigest()
