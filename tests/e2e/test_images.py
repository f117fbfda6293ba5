"""Images: in, out, named, listed, removed."""

from __future__ import annotations

import io
import json
import re
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from tests.e2e.conftest import eventually
from tests.support import changes, images
from tests.support.registry import Corrupt, HangUp, Registry, Truncate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine
    from tests.support.registry import Fault

pytestmark = pytest.mark.stock


@pytest.fixture
def tag(engine: Engine, name: str) -> Iterator[str]:
    """A repository name; every tag of it is removed afterwards."""
    yield name
    for ref in engine.out("images", "--format", "{{.Repository}}:{{.Tag}}", name).split():
        engine.docker("rmi", "-f", ref, check=False)


def three_layers(name: str) -> images.Image:
    """busybox and two layers on it: one adds, one takes away."""
    return images.on_busybox(
        {
            "data": images.directory(),
            "data/kept": images.file(name.encode()),
            "data/gone": images.file(b"x"),
            "data/link": images.symlink("kept"),
            "data/hard": images.hardlink("data/kept"),
        },
        images.whiteout("data/gone"),
        config={"Cmd": ["cat", "/data/link"], "Env": ["PATH=/bin", "OWN=1"], "WorkingDir": "/data"},
    )


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_load_docker_archive(engine: Engine, tag: str, compression: str) -> None:
    data = images.docker_archive({f"{tag}:1": three_layers(tag)})
    if compression:
        data = images.compress(data, compression)  # type: ignore[arg-type]
    done = engine.docker("load", input=data)
    assert done.stdout.decode() == f"Loaded image: {tag}:1\n"
    assert engine.out("run", "--rm", f"{tag}:1") == tag
    out = engine.out("run", "--rm", f"{tag}:1", "sh", "-c", "pwd; echo $OWN; ls /data")
    assert out.split() == ["/data", "1", "hard", "kept", "link"]


@pytest.mark.beyond
def test_load_a_plain_oci_layout(engine: Engine, tag: str) -> None:
    engine.docker("load", input=images.oci_layout({f"{tag}:1": three_layers(tag)}))
    assert engine.out("run", "--rm", f"{tag}:1") == tag


def test_loaded_image_has_the_id_of_its_config(engine: Engine, tag: str) -> None:
    image = three_layers(tag)
    engine.docker("load", input=images.docker_archive({f"{tag}:1": image}))
    (found,) = json.loads(engine.out("image", "inspect", f"{tag}:1"))
    assert found["Id"] == image.id
    assert found["RepoTags"] == [f"{tag}:1"]
    assert found["RootFS"]["Type"] == "layers"
    assert len(found["RootFS"]["Layers"]) == 3
    assert found["Config"]["Cmd"] == ["cat", "/data/link"]
    assert found["GraphDriver"]["Name"] == "overlay2"


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {m.name: f.read() for m in archive if (f := archive.extractfile(m)) is not None}


def test_save_and_load_again(engine: Engine, tag: str) -> None:
    image = three_layers(tag)
    engine.docker("load", input=images.docker_archive({f"{tag}:1": image}))
    saved = engine.docker("save", f"{tag}:1").stdout
    files = members(saved)
    (entry,) = json.loads(files["manifest.json"])
    assert entry["RepoTags"] == [f"{tag}:1"]
    assert "sha256:" + entry["Config"].rsplit("/", 1)[-1] == image.id
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    assert len(entry["Layers"]) == 3
    engine.docker("rmi", f"{tag}:1")
    assert engine.docker("load", input=saved).stdout.decode() == f"Loaded image: {tag}:1\n"
    assert engine.out("run", "--rm", f"{tag}:1") == tag


@pytest.mark.beyond
def test_save_gives_the_same_bytes_each_time(engine: Engine, tag: str) -> None:
    engine.docker("load", input=images.docker_archive({f"{tag}:1": three_layers(tag)}))
    assert engine.docker("save", f"{tag}:1").stdout == engine.docker("save", f"{tag}:1").stdout


def test_save_keeps_the_layers_bytes(engine: Engine, tag: str) -> None:
    engine.docker("load", input=images.docker_archive({f"{tag}:1": three_layers(tag)}))
    files = members(engine.docker("save", f"{tag}:1").stdout)
    (entry,) = json.loads(files["manifest.json"])
    diff_ids = json.loads(files[entry["Config"]])["rootfs"]["diff_ids"]
    assert [
        "sha256:" + images.sha256(files[path]).removeprefix("sha256:") for path in entry["Layers"]
    ] == diff_ids


@pytest.mark.parametrize("ref", ["{}:nosuch", "nosuch.example/{}:1", "{}@sha256:" + 64 * "a"])
def test_what_is_not_there_is_not_saved(engine: Engine, tag: str, ref: str) -> None:
    engine.docker("tag", "busybox", f"{tag}:1")
    done = engine.docker("save", ref.format(tag), check=False)
    assert done.stderr.decode() == "Error response from daemon: reference does not exist\n"
    assert (done.returncode, done.stdout) == (1, b"")


def test_import(engine: Engine, tag: str) -> None:
    data = images.tar({"hello": images.file(b"imported")})
    out = engine.out(
        "import", "-c", 'CMD ["x"]', "-c", "ENV A=b", "-m", "said", "-", f"{tag}:1", input=data
    )
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", out)
    (found,) = json.loads(engine.out("image", "inspect", f"{tag}:1"))
    assert found["Id"] == out
    assert (found["Config"]["Cmd"], found["Config"]["Env"]) == (["x"], ["A=b"])
    assert found["Comment"] == "said"


def test_every_change_is_dockerds(engine: Engine) -> None:
    """All that was recorded of dockerd, of what is applied and of what is refused."""
    wrong: list[object] = []
    for change, result in changes.recorded():
        query = urlencode({"fromSrc": "-", "changes": [changes.BASE, change]}, doseq=True)
        reply = engine.call("POST", f"/images/create?{query}", images.tar({}))
        last = [json.loads(line) for line in reply.body.splitlines()][-1]
        if isinstance(result, str):
            made: object = last.get("message", last.get("error", last)).strip()
        else:
            image = last["status"]
            config = engine.call("GET", f"/images/{image}/json").json()["Config"]
            made = {k: v for k, v in config.items() if changes.UNCHANGED.get(k, 0) != v}
            engine.call("DELETE", f"/images/{image}")
        if made != result:
            wrong.append((change, result, made))
    assert wrong == []


def test_tag_and_untag(engine: Engine, tag: str) -> None:
    engine.docker("load", input=images.docker_archive({f"{tag}:1": three_layers(tag)}))
    engine.docker("tag", f"{tag}:1", f"{tag}:2")
    assert engine.out("rmi", f"{tag}:1") == f"Untagged: {tag}:1"
    lines = engine.out("rmi", f"{tag}:2").splitlines()
    assert lines[0] == f"Untagged: {tag}:2"
    assert lines[1].startswith("Deleted: sha256:")
    assert engine.docker("image", "inspect", f"{tag}:2", check=False).returncode == 1


def test_remove_refuses_what_is_in_use(engine: Engine, tag: str) -> None:
    engine.docker("load", input=images.docker_archive({f"{tag}:1": three_layers(tag)}))
    identifier = engine.out("create", "--name", tag, f"{tag}:1")
    reply = engine.call("DELETE", f"/images/{tag}:1")
    assert reply.status == 409
    image = engine.inspect(tag)["Image"].removeprefix("sha256:")[:12]
    assert reply.message == (
        f'conflict: unable to remove repository reference "{tag}:1" (must force) - '
        f"container {identifier[:12]} is using its referenced image {image}"
    )
    engine.docker("rm", tag)


def test_history(engine: Engine, tag: str) -> None:
    engine.docker("load", input=images.docker_archive({f"{tag}:1": three_layers(tag)}))
    rows = engine.call("GET", f"/images/{tag}:1/history").json()
    assert rows[0]["Tags"] == [f"{tag}:1"]
    assert sum(1 for row in rows if row["Size"] > 0) >= 1


def test_list_and_its_filters(engine: Engine, tag: str) -> None:
    engine.docker("load", input=images.docker_archive({f"{tag}:1": three_layers(tag)}))

    def refs(*flags: str) -> list[str]:
        return engine.out("images", "--format", "{{.Repository}}:{{.Tag}}", *flags).split()

    assert f"{tag}:1" in refs()
    assert refs("--filter", f"reference={tag}:*") == [f"{tag}:1"]
    assert refs(tag) == [f"{tag}:1"]
    assert f"{tag}:1" not in refs("--filter", "dangling=true")
    (row,) = engine.call("GET", f"/images/json?filters=%7B%22reference%22:[%22{tag}%22]%7D").json()
    assert row["RepoTags"] == [f"{tag}:1"]
    assert row["Containers"] == -1 or row["Containers"] == 0
    assert row["Size"] > 1_000_000


def test_prune_dangling(engine: Engine, tag: str) -> None:
    engine.docker("load", input=images.docker_archive({f"{tag}:1": three_layers(tag)}))
    old = json.loads(engine.out("image", "inspect", f"{tag}:1"))[0]["Id"]
    engine.docker("load", input=images.docker_archive({f"{tag}:1": three_layers(tag + "new")}))
    out = engine.out("image", "prune", "-f")
    assert old in out
    assert engine.out("run", "--rm", f"{tag}:1") == tag + "new"


# Pull


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as serving:
        yield serving


def last_message(engine: Engine, reference: str) -> list[dict[str, Any]]:
    repository, _, name = reference.rpartition(":")
    reply = engine.call("POST", f"/images/create?fromImage={repository}&tag={name}", timeout=90)
    return [json.loads(line) for line in reply.body.splitlines()]


def test_pull_and_run(engine: Engine, tag: str, registry: Registry) -> None:
    image = three_layers(tag)
    registry.add(f"{tag}:1", image)
    ref = f"{registry.host}/{tag}:1"
    out = engine.out("pull", ref)
    assert f"Digest: {image.digest}" in out
    assert f"Status: Downloaded newer image for {ref}" in out
    try:
        assert engine.out("run", "--rm", ref) == tag
        (found,) = json.loads(engine.out("image", "inspect", ref))
        assert found["RepoDigests"] == [f"{registry.host}/{tag}@{image.digest}"]
        assert f"Status: Image is up to date for {ref}" in engine.out("pull", ref)
    finally:
        engine.docker("rmi", "-f", ref)


def test_pull_progress(engine: Engine, tag: str, registry: Registry) -> None:
    registry.add(f"{tag}:1", three_layers(tag + "progress"))
    ref = f"{registry.host}/{tag}:1"
    messages = last_message(engine, ref)
    try:
        assert messages[0] == {"status": f"Pulling from {tag}", "id": "1"}
        seen = {m["status"] for m in messages}
        assert {"Pulling fs layer", "Pull complete"} <= seen
        assert messages[-1] == {"status": f"Status: Downloaded newer image for {ref}"}
        assert messages[-2]["status"].startswith("Digest: sha256:")
    finally:
        engine.docker("rmi", "-f", ref)


def test_pull_picks_the_platform(engine: Engine, tag: str, registry: Registry) -> None:
    mine = three_layers(tag)
    registry.add(f"{tag}:1", images.Index((mine,)))
    ref = f"{registry.host}/{tag}:1"
    engine.docker("pull", ref)
    assert engine.out("run", "--rm", ref) == tag
    engine.docker("rmi", "-f", ref)
    done = engine.docker("pull", "--platform", "linux/s390x", ref, check=False)
    assert b"no matching manifest for linux/s390x in the manifest list entries" in done.stderr
    registry.add(f"{tag}:alone", mine)
    alone = f"{registry.host}/{tag}:alone"
    done = engine.docker("pull", "--platform", "windows/amd64", alone, check=False)
    assert done.returncode == 1
    assert done.stderr == b"operating system is not supported\n"
    assert engine.docker("image", "inspect", alone, check=False).returncode == 1


def test_pull_another_platform_of_a_tag(engine: Engine, tag: str, registry: Registry) -> None:
    """The tag moves; the digest is the index's, and goes on meaning what came first."""
    mine = three_layers(tag)
    other = images.Image((images.Layer(images.tar({"a": images.file(tag.encode())})),))
    other = replace(other, architecture="s390x")
    registry.add(f"{tag}:1", images.Index((mine, other)))
    ref = f"{registry.host}/{tag}:1"
    engine.docker("pull", ref)
    said = engine.out("pull", "--platform", "linux/s390x", ref)
    assert "Status: Downloaded newer image" in said
    assert engine.inspect(ref)["Id"] == other.id
    assert engine.inspect(other.id)["RepoDigests"] == []
    (digest,) = engine.inspect(mine.id)["RepoDigests"]
    assert engine.inspect(mine.id)["RepoTags"] == []
    engine.docker("pull", ref)
    assert engine.inspect(ref)["Id"] == mine.id
    assert engine.inspect(mine.id)["RepoDigests"] == [digest]
    engine.docker("rmi", "-f", mine.id, other.id)


def test_pull_what_is_not_there(engine: Engine, tag: str, registry: Registry) -> None:
    ref = f"{registry.host}/{tag}:none"
    reply = engine.call("POST", f"/images/create?fromImage={registry.host}/{tag}&tag=none")
    assert reply.status == 404
    assert f"manifest for {ref} not found" in reply.message


def test_run_pulls_what_is_missing(engine: Engine, tag: str, registry: Registry) -> None:
    registry.add(f"{tag}:1", three_layers(tag))
    ref = f"{registry.host}/{tag}:1"
    done = engine.docker("run", "--rm", ref)
    assert done.stdout.decode() == tag
    assert f"Unable to find image '{ref}' locally" in done.stderr.decode()
    eventually(lambda: engine.docker("rmi", "-f", ref, check=False).returncode, lambda c: c == 0)


@pytest.mark.parametrize(
    ("path", "fault"),
    [("/blobs/", Corrupt()), ("/blobs/", Truncate(at=50)), ("/manifests/", HangUp())],
)
def test_a_faulty_registry_leaves_nothing(
    engine: Engine, tag: str, registry: Registry, path: str, fault: Fault
) -> None:
    registry.add(f"{tag}:1", three_layers(tag + path + type(fault).__name__))
    registry.fault("GET", path, fault)
    ref = f"{registry.host}/{tag}:1"
    done = engine.docker("pull", ref, check=False, timeout=110)
    assert done.returncode == 1
    assert engine.docker("image", "inspect", ref, check=False).returncode == 1
    registry.mend()
    engine.docker("pull", ref)
    engine.docker("rmi", "-f", ref)


def test_a_corrupt_archive(engine: Engine, tag: str) -> None:
    data = images.docker_archive({f"{tag}:1": three_layers(tag)})
    done = engine.docker("load", input=data[: len(data) // 2], check=False)
    assert done.returncode == 1
    assert engine.docker("image", "inspect", f"{tag}:1", check=False).returncode == 1


def test_an_archive_of_no_image(engine: Engine) -> None:
    archive = images.tar({"manifest.json": images.file(b"[]")})
    assert engine.docker("load", input=archive).stdout == b"\n"
