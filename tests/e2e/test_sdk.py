"""docker-py, as a plain script uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import docker
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine

pytestmark = pytest.mark.stock


@pytest.fixture
def client(engine: Engine) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=engine.host, timeout=60)
    yield client
    client.close()


def test_run_returns_the_output(client: docker.DockerClient) -> None:
    assert client.containers.run("busybox", "echo hi", remove=True) == b"hi\n"


def test_run_raises_on_failure(client: docker.DockerClient) -> None:
    with pytest.raises(docker.errors.ContainerError) as caught:
        client.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 3"], remove=True)
    assert caught.value.exit_status == 3
    assert caught.value.stderr == b"bad\n"


def test_unknown_image_and_container(client: docker.DockerClient) -> None:
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get("nosuch")
    with pytest.raises(docker.errors.NotFound):
        client.containers.get("nosuch")


def test_streaming_logs(client: docker.DockerClient, name: str) -> None:
    box = client.containers.run(
        "busybox",
        ["sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.1; done"],
        name=name,
        detach=True,
    )
    assert list(box.logs(stream=True, follow=True)) == [b"1\n", b"2\n", b"3\n"]
    assert box.wait()["StatusCode"] == 0


def test_exec_run(client: docker.DockerClient, name: str) -> None:
    box = client.containers.run("busybox", "sleep 60", name=name, detach=True)
    assert box.exec_run("echo in") == (0, b"in\n")
    code, streams = box.exec_run(["sh", "-c", "echo a; echo b >&2; exit 4"], demux=True)
    assert (code, streams) == (4, (b"a\n", b"b\n"))
    box.reload()
    assert box.status == "running"
    box.stop(timeout=0)


def test_events(client: docker.DockerClient, name: str) -> None:
    stream = client.events(decode=True, filters={"container": name})
    client.containers.run("busybox", "true", name=name)
    seen = []
    for event in stream:
        seen.append(event["Action"])
        if event["Action"] == "die":
            break
    stream.close()
    assert seen[0] == "create"
    assert seen.index("start") < seen.index("die")


def test_info_version_and_ping(client: docker.DockerClient) -> None:
    assert client.ping() is True
    assert client.version()["ApiVersion"] == "1.51"
    assert client.info()["Driver"] == "overlay2"


def test_volumes_and_networks(client: docker.DockerClient, name: str) -> None:
    volume = client.volumes.create(name)
    assert volume.attrs["Mountpoint"].endswith(f"/{name}/_data")
    client.containers.run("busybox", "touch /v/x", volumes={name: {"bind": "/v"}}, remove=True)
    volume.remove()
    assert {"bridge", "host", "none"} <= {n.name for n in client.networks.list()}
