"""Certificates of authorities that exist for one test, made by the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

missing: str | None = None if shutil.which("openssl") else "openssl"


class Authority:
    """A CA with its files in `folder`, which it makes."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.certificate = folder / "ca.pem"
        self._openssl(
            "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-subj", "/CN=ca", "-keyout", "ca-key.pem", "-out", "ca.pem", "-days", "2",
        )  # fmt: skip

    def sign(self, name: str, *, host: str = "DNS:localhost") -> tuple[Path, Path]:
        """Certificate and key; `host` is a subjectAltName (x509v3_config(5))."""
        (self.folder / "ext").write_text(f"subjectAltName={host}")
        self._openssl(
            "req", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-subj", f"/CN={name}", "-keyout", f"{name}-key.pem", "-out", f"{name}.csr",
        )  # fmt: skip
        self._openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca-key.pem",
            "-CAcreateserial", "-out", f"{name}.pem", "-days", "2", "-extfile", "ext",
        )  # fmt: skip
        return self.folder / f"{name}.pem", self.folder / f"{name}-key.pem"

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True)
