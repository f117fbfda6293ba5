"""compat.daemon.tls: who gets in by which certificate."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import TYPE_CHECKING

import pytest

from compat.daemon.tls import TlsError, server_context
from engine.config import EngineConfig
from tests.support import certificates
from tests.support.certificates import Authority

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    certificates.missing is not None, reason=f"needs {certificates.missing}"
)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "theirs")


def config(authority: Authority, *, verify: bool) -> EngineConfig:
    certificate, key = authority.sign("server")
    return EngineConfig(
        tls=True,
        tls_verify=verify,
        tls_ca_cert=str(authority.certificate),
        tls_cert=str(certificate),
        tls_key=str(key),
    )


def gets_in(server: EngineConfig, client: ssl.SSLContext) -> bool:
    """Whether the two shake hands and a byte comes through."""
    context = server_context(server)
    assert context is not None
    near, far = socket.socketpair()
    for end in (near, far):
        end.settimeout(10)

    def serve() -> None:
        try:
            with context.wrap_socket(far, server_side=True) as stream:
                stream.sendall(b"1")
        except OSError:
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(near, server_hostname="localhost") as stream:
            return stream.recv(1) == b"1"
    except OSError:
        return False
    finally:
        near.close()
        thread.join()


def client(authority: Authority | None) -> ssl.SSLContext:
    """A client that trusts any server and has a certificate of that authority, or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if authority is not None:
        context.load_cert_chain(*authority.sign("client"))
    return context


def test_only_certificates_of_the_ca_get_in(ours: Authority, theirs: Authority) -> None:
    server = config(ours, verify=True)
    assert gets_in(server, client(ours))
    assert not gets_in(server, client(theirs))
    assert not gets_in(server, client(None))


def test_without_verification_everybody_does(ours: Authority) -> None:
    assert gets_in(config(ours, verify=False), client(None))


def test_old_protocols_do_not(ours: Authority) -> None:
    context = server_context(config(ours, verify=True))
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_no_tls_is_no_context() -> None:
    assert server_context(EngineConfig()) is None


def test_files_that_are_not_there_are_named(ours: Authority, tmp_path: Path) -> None:
    missing = EngineConfig(tls=True, tls_cert="/nope/cert.pem", tls_key="/nope/key.pem")
    with pytest.raises(TlsError, match=r'Could not load X509 key pair \(cert: "/nope/cert.pem"'):
        server_context(missing)
    certificate, key = ours.sign("server")
    (tmp_path / "ca.pem").write_text("no certificate")
    broken = EngineConfig(
        tls=True,
        tls_verify=True,
        tls_cert=str(certificate),
        tls_key=str(key),
        tls_ca_cert=str(tmp_path / "ca.pem"),
    )
    with pytest.raises(TlsError, match="could not read CA certificate"):
        server_context(broken)
