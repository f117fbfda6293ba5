"""The registry that people run: over TLS, with users, and with skopeo beside the engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import certificates, docker_registry, images
from tests.support.certificates import Authority
from tests.support.docker_registry import PASSWORD, USERNAME, DockerRegistry, TokenServer, htpasswd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.engine import Engine

pytestmark = [
    pytest.mark.stock,
    pytest.mark.skipif(
        docker_registry.missing is not None, reason=f"needs {docker_registry.missing}"
    ),
    pytest.mark.skipif(certificates.missing is not None, reason=f"needs {certificates.missing}"),
]
needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo")

ADDRESS = "192.0.2.77"
"""None that engines take for insecure, as they do 127.0.0.1; for documentation (RFC 5737)."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    change = ("ip", "address", "{}", f"{ADDRESS}/32", "dev", "lo")
    subprocess.run([word.format("add") for word in change], check=True)
    yield ADDRESS
    subprocess.run([word.format("del") for word in change], check=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("registry") / "authority")


@pytest.fixture
def trust(engine: Engine, authority: Authority) -> Iterator[Callable[..., None]]:
    """Tells the engine of the authority of a host, and with `client` who it is itself."""
    made: list[Path] = []
    above = [path for path in (engine.certs, *engine.certs.parents) if not path.exists()]

    def say(host: str, *, client: tuple[Path, Path] | None = None) -> None:
        folder = engine.certs / host
        folder.mkdir(parents=True, exist_ok=True)
        made.append(folder)
        shutil.copy(authority.certificate, folder / "ca.crt")
        if client is not None:
            shutil.copy(client[0], folder / "client.cert")
            shutil.copy(client[1], folder / "client.key")

    yield say
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)
    for path in above:
        if path.is_dir() and not os.listdir(path):
            path.rmdir()


@pytest.fixture
def image(name: str) -> images.Image:
    """Two layers, of which nobody has the second."""
    return images.on_busybox({"own": images.file(name.encode() * 1000)})


@pytest.fixture
def loaded(engine: Engine, image: images.Image) -> Iterator[Callable[[str], str]]:
    """Loads the image under a name; what comes to the same host goes afterwards."""
    hosts: list[str] = []

    def load(ref: str) -> str:
        hosts.append(ref.partition("/")[0])
        engine.docker("load", input=images.docker_archive({ref: image}))
        return ref

    yield load
    for line in engine.out("images", "--format", "{{.Repository}}:{{.Tag}}").split():
        if line.partition("/")[0] in hosts:
            engine.docker("rmi", "-f", line, check=False)


def said(engine: Engine, *words: str, input: str | None = None) -> str:
    done = engine.docker(*words, input=input, check=False)
    assert done.returncode == 1, done.stdout
    return done.stderr.decode()


def digest_of(engine: Engine, ref: str) -> str:
    """What the registry calls it, as the engine remembers."""
    (found,) = {d.partition("@")[2] for d in engine.inspect(ref)["RepoDigests"]}
    return found


def round_trip(engine: Engine, ref: str) -> None:
    """Push, forget, pull: the same image, and the same digest."""
    before = engine.inspect(ref)["Id"]
    engine.docker("push", ref)
    pushed = digest_of(engine, ref)
    engine.docker("rmi", ref)
    assert "Status: Downloaded newer image" in engine.out("pull", ref)
    assert (engine.inspect(ref)["Id"], digest_of(engine, ref)) == (before, pushed)


# TLS


def test_a_certificate_of_an_unknown_authority(
    engine: Engine, address: str, authority: Authority, tmp_path: Path,
    loaded: Callable[[str], str],
) -> None:  # fmt: skip
    tls = authority.sign("server", host=f"IP:{address}")
    with DockerRegistry(tmp_path / "registry", address, tls=tls) as registry:
        ref = loaded(f"{registry.host}/a/b:1")
        unknown = (
            f'Get "https://{registry.host}/v2/": tls: failed to verify certificate: '
            "x509: certificate signed by unknown authority\n"
        )
        assert said(engine, "pull", ref) == f"Error response from daemon: {unknown}"
        assert said(engine, "push", ref) == unknown
        login = said(engine, "login", "-u", "x", "--password-stdin", registry.host, input="y")
        assert login.endswith(unknown)


def test_certs_d_names_the_authority(
    engine: Engine, address: str, authority: Authority, tmp_path: Path,
    loaded: Callable[[str], str], trust: Callable[..., None],
) -> None:  # fmt: skip
    tls = authority.sign("server", host=f"IP:{address}")
    with DockerRegistry(tmp_path / "registry", address, tls=tls) as registry:
        trust(registry.host)
        round_trip(engine, loaded(f"{registry.host}/a/b:1"))


def test_a_certificate_for_another_host(
    engine: Engine, address: str, authority: Authority, tmp_path: Path,
    trust: Callable[..., None],
) -> None:  # fmt: skip
    tls = authority.sign("server", host="IP:192.0.2.78")
    with DockerRegistry(tmp_path / "registry", address, tls=tls) as registry:
        trust(registry.host)
        # Which hosts it is for, dockerd says and OpenSSL does not.
        refusal = said(engine, "pull", f"{registry.host}/a/b:1")
        assert refusal.startswith(
            f'Error response from daemon: Get "https://{registry.host}/v2/": tls: failed to verify '
            "certificate: x509: certificate is "
        )
        assert address in refusal.partition("x509")[2]


def test_a_registry_that_wants_to_know_its_clients(
    engine: Engine, address: str, authority: Authority, tmp_path: Path,
    loaded: Callable[[str], str], trust: Callable[..., None],
) -> None:  # fmt: skip
    tls = authority.sign("server", host=f"IP:{address}")
    client = authority.sign("client")
    with DockerRegistry(
        tmp_path / "registry", address, tls=tls, clients=authority.certificate
    ) as registry:
        ref = loaded(f"{registry.host}/a/b:1")
        trust(registry.host)
        # What it says is its own affair, and older ones say less.
        assert re.search(
            f'Get "https://{registry.host}/v2/": remote error: tls: '
            "(certificate required|bad certificate)",
            said(engine, "push", ref),
        )
        trust(registry.host, client=client)
        round_trip(engine, ref)


# Who is there

NOBODY = ("no basic auth credentials\n", "unauthorized: incorrect username or password\n")
"""What is said to whoever has no name, in the one way of asking and in the other."""


@pytest.fixture(params=["basic", "token"])
def guarded(
    request: pytest.FixtureRequest, engine: Engine, address: str, authority: Authority,
    tmp_path: Path, trust: Callable[..., None],
) -> Iterator[DockerRegistry]:  # fmt: skip
    """A registry over TLS that lets in one user."""
    tls = authority.sign("server", host=f"IP:{address}")
    with TokenServer(authority, address) as tokens:
        auth = tokens.auth if request.param == "token" else htpasswd(tmp_path)
        with DockerRegistry(tmp_path / "registry", address, tls=tls, auth=auth) as registry:
            trust(registry.host)
            yield registry


def test_login_push_pull_logout(
    engine: Engine, guarded: DockerRegistry, loaded: Callable[[str], str]
) -> None:
    ref = loaded(f"{guarded.host}/a/b:1")
    assert said(engine, "push", ref).endswith(NOBODY)
    assert "nauthorized" in said(
        engine, "login", "-u", USERNAME, "--password-stdin", guarded.host, input="wrong"
    )
    engine.docker("login", "-u", USERNAME, "--password-stdin", guarded.host, input=PASSWORD)
    round_trip(engine, ref)
    engine.docker("tag", ref, f"{guarded.host}/c/d:2")
    assert "Mounted from a/b" in engine.out("push", f"{guarded.host}/c/d:2")
    engine.docker("logout", guarded.host)
    # The client asks who it is; some wait for ever where their input is at its end.
    unasked = ("Error: Non-null Username Required\n", *NOBODY)
    assert said(engine, "pull", ref, input="\n").endswith(unasked)


# skopeo, which shares no code with either


def skopeo(*words: str) -> bytes:
    done = subprocess.run(("skopeo", *words), capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def digests(of: dict[str, Any] | list[dict[str, Any]]) -> list[str]:
    return [one["digest"] for one in (of if isinstance(of, list) else [of])]


@needs_skopeo
def test_skopeo_copies_what_was_pushed(
    engine: Engine, tmp_path: Path, loaded: Callable[[str], str], image: images.Image
) -> None:
    """Out of the registry into a folder and back: digests stay, and the engine has it already."""
    with DockerRegistry(tmp_path / "registry") as registry:
        ref = loaded(f"{registry.host}/a/b:1")
        engine.docker("push", ref)
        pushed = digest_of(engine, ref)
        plain, there = "--src-tls-verify=false", "--dest-tls-verify=false"
        raw = skopeo("inspect", "--tls-verify=false", "--raw", f"docker://{ref}")
        assert images.sha256(raw) == pushed
        copy = f"dir:{tmp_path}/copy"
        skopeo("copy", "--preserve-digests", plain, f"docker://{ref}", copy)
        skopeo("copy", "--preserve-digests", there, copy, f"docker://{registry.host}/c/d:2")
        found = engine.out("pull", f"{registry.host}/c/d:2")
        assert f"Digest: {pushed}" in found
        assert engine.inspect(f"{registry.host}/c/d:2")["Id"] == engine.inspect(ref)["Id"]


@needs_skopeo
@pytest.mark.parametrize("format_", ["oci", "v2s2"])
def test_skopeo_brings_an_image_and_takes_it_back(
    engine: Engine, tmp_path: Path, name: str, format_: str
) -> None:
    """What is pulled and pushed elsewhere is what was there first, with us to the manifest."""
    layers = [images.Layer(images.tar({n: images.file(name.encode())})) for n in "ab"]
    archive = tmp_path / "image.tar"
    archive.write_bytes(images.docker_archive({"x:1": images.Image(tuple(layers))}))
    with DockerRegistry(tmp_path / "registry") as registry:
        ref, again = f"{registry.host}/from/skopeo:1", f"{registry.host}/to/skopeo:1"
        skopeo(
            "copy", "--format", format_, "--dest-tls-verify=false",
            f"docker-archive:{archive}", f"docker://{ref}",
        )  # fmt: skip
        engine.docker("pull", ref)
        raw = skopeo("inspect", "--tls-verify=false", "--raw", f"docker://{ref}")
        assert digest_of(engine, ref) == images.sha256(raw)
        engine.docker("tag", ref, again)
        try:
            pushed = engine.out("push", again)
            taken = skopeo("inspect", "--tls-verify=false", "--raw", f"docker://{again}")
            for part in ("config", "layers"):
                assert digests(json.loads(taken)[part]) == digests(json.loads(raw)[part])
            if engine.is_wharf:
                assert f"digest: {images.sha256(raw)}" in pushed
        finally:
            engine.docker("rmi", ref, again)


@needs_skopeo
def test_skopeo_reads_what_is_saved(
    engine: Engine, tmp_path: Path, loaded: Callable[[str], str]
) -> None:
    """The archive both as docker-archive and as an OCI layout."""
    ref = loaded(f"skopeo-{uuid.uuid4().hex[:6]}:1")
    engine.docker("save", "-o", str(tmp_path / "saved.tar"), ref)
    found = json.loads(skopeo("inspect", f"docker-archive:{tmp_path}/saved.tar"))
    assert found["Layers"] == engine.inspect(ref)["RootFS"]["Layers"]
    (tmp_path / "layout").mkdir()
    subprocess.run(("tar", "-xf", "saved.tar", "-C", "layout"), cwd=tmp_path, check=True)
    copied = f"dir:{tmp_path}/copy"
    skopeo("copy", f"oci:{tmp_path}/layout", copied)
    manifest = json.loads((tmp_path / "copy" / "manifest.json").read_text())
    assert manifest["config"]["digest"] == engine.inspect(ref)["Id"]
