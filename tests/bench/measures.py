"""What is measured, each as a function that asks one engine and returns named figures.

Times are milliseconds, memory is megabytes of proportional set size (proc(5), smaps_rollup): what a
process has for itself plus its share of what it has with others.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import socket
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.storage import compression, layer
from tests.bench import large
from tests.support import dns, images, internet
from tests.support.engine import Wharf
from tests.support.questions import within
from tests.support.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.engine import Engine

IMAGE = "busybox:latest"
FLEET = 60
CROWD = 200
LOOK_UPS = 3000
STREAM_MB = 2000
PORTS = 100
FLEET_IN_MEMORY = 20
MANY = 1000
GROWTH = "MB that the daemon grew by in a pull"
PEAK = "MB that the daemon grew by at most in a pull of 2 GB"
PULL_TIMEOUT_S = 600
SETTLE_S = 60


@dataclass
class Sample:
    """The figures of one round."""

    figures: dict[str, float] = field(default_factory=dict[str, float])

    @contextlib.contextmanager
    def timed(self, name: str, *, per: int = 1) -> Iterator[None]:
        before = time.perf_counter()
        yield
        self.figures[name] = (time.perf_counter() - before) * 1000 / per


def ask(engine: Engine, method: str, path: str, body: Any = None) -> Any:
    """A request that must succeed; its JSON, if it has any."""
    reply = engine.call(method, path, body)
    if reply.status >= 400:
        raise RuntimeError(f"{method} {path}: {reply.status} {reply.body[:300]!r}")
    return reply.json() if reply.body else None


def created(engine: Engine, *command: str) -> str:
    return ask(engine, "POST", "/containers/create", {"Image": IMAGE, "Cmd": command})["Id"]


def removed(engine: Engine, container: str) -> None:
    engine.call("POST", f"/containers/{container}/kill")
    engine.call("DELETE", f"/containers/{container}?force=1")


# The measures


def run(engine: Engine) -> Sample:
    """The whole command of a user."""
    sample = Sample()
    with sample.timed("docker run --rm busybox true"):
        engine.docker("run", "--rm", IMAGE, "true")
    return sample


def life(engine: Engine) -> Sample:
    """Each request of one container's life."""
    sample = Sample()
    with sample.timed("create"):
        container = created(engine, "sleep", "1000")
    with sample.timed("start"):
        ask(engine, "POST", f"/containers/{container}/start")
    with sample.timed("exec true"):
        _exec(engine, container)
    with sample.timed("kill and wait"):
        ask(engine, "POST", f"/containers/{container}/kill")
        ask(engine, "POST", f"/containers/{container}/wait")
    with sample.timed("rm"):
        ask(engine, "DELETE", f"/containers/{container}")
    return sample


def _exec(engine: Engine, container: str) -> None:
    """Create and start an exec, and read its stream to the end."""
    body = {"Cmd": ["true"], "AttachStdout": True, "AttachStderr": True}
    made = ask(engine, "POST", f"/containers/{container}/exec", body)["Id"]
    document = b'{"Detach":false,"Tty":false}'
    with engine.raw() as connection:
        connection.sendall(
            f"POST /exec/{made}/start HTTP/1.1\r\nHost: localhost\r\n"
            "Content-Type: application/json\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
            f"Content-Length: {len(document)}\r\n\r\n".encode()
            + document
        )
        while connection.recv(65536):
            pass


def fleet(engine: Engine) -> Sample:
    """Many containers: started eight at a time, listed, removed."""
    sample = Sample()
    containers: list[str] = []

    def start(_: int) -> None:
        container = created(engine, "sleep", "1000")
        containers.append(container)
        ask(engine, "POST", f"/containers/{container}/start")

    try:
        with ThreadPoolExecutor(8) as pool:
            with sample.timed(f"create and start, {FLEET} by 8 clients, each", per=FLEET):
                list(pool.map(start, range(FLEET)))
            with sample.timed(f"GET /containers/json, {FLEET} running", per=20):
                for _ in range(20):
                    ask(engine, "GET", "/containers/json")
    finally:
        for container in containers:
            removed(engine, container)
    return sample


def network(engine: Engine) -> Sample:
    """A network made, joined, left and removed; and names asked for, a thousand a second."""
    sample = Sample()
    with sample.timed("network create and rm", per=10):
        for _ in range(10):
            network_id = ask(engine, "POST", "/networks/create", {"Name": "bench"})["Id"]
            ask(engine, "DELETE", f"/networks/{network_id}")
    network_id = ask(engine, "POST", "/networks/create", {"Name": "bench"})["Id"]
    containers = [created(engine, "sleep", "1000") for _ in range(2)]
    try:
        for container in containers:
            ask(engine, "POST", f"/containers/{container}/start")
        joins: list[float] = []
        for _ in range(10):
            before = time.perf_counter()
            for container in containers:
                body = {"Container": container}
                ask(engine, "POST", f"/networks/{network_id}/connect", body)
            joins.append((time.perf_counter() - before) * 1000 / len(containers))
            for container in containers:
                ask(
                    engine,
                    "POST",
                    f"/networks/{network_id}/disconnect",
                    body | {"Container": container},
                )
        sample.figures["network connect"] = statistics.median(joins)
        for container in containers:
            ask(engine, "POST", f"/networks/{network_id}/connect", {"Container": container})
        pid = ask(engine, "GET", f"/containers/{containers[0]}/json")["State"]["Pid"]
        times = _look_ups(pid, containers[1][:12])
        sample.figures["a name looked up, 1000 a second"] = statistics.median(times)
        sample.figures["the slowest of 100 of these"] = statistics.quantiles(times, n=100)[-1]
    finally:
        for container in containers:
            removed(engine, container)
        engine.call("DELETE", f"/networks/{network_id}")
    return sample


def _look_ups(pid: int, name: str) -> list[float]:
    """Milliseconds each, begun a millisecond apart."""
    question = dns.question(name, "A")
    times: list[float] = []
    with dns.asker(pid) as sock:
        begin = time.perf_counter()
        for number in range(LOOK_UPS):
            while (before := time.perf_counter()) < begin + number / 1000:
                time.sleep(0.0001)
            sock.send(question)
            if not dns.read(sock.recv(512)).values:
                raise RuntimeError(f"{name} is not known")
            times.append((time.perf_counter() - before) * 1000)
    return times


def crowd(engine: Engine) -> Sample:
    """One network with very many containers on it."""
    sample = Sample()
    network_id = ask(engine, "POST", "/networks/create", {"Name": "bench"})["Id"]
    body = {"Image": IMAGE, "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "bench"}}
    containers = [ask(engine, "POST", "/containers/create", body)["Id"] for _ in range(CROWD)]
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda c: ask(engine, "POST", f"/containers/{c}/start"), containers))
        with sample.timed(f"GET /networks/…, {CROWD} containers on it", per=20):
            for _ in range(20):
                ask(engine, "GET", f"/networks/{network_id}")
        with sample.timed(f"docker network inspect, {CROWD} containers on it"):
            engine.docker("network", "inspect", "bench")
    finally:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda c: removed(engine, c), containers))
        engine.call("DELETE", f"/networks/{network_id}")
    return sample


def ports(engine: Engine) -> Sample:
    """Bytes through a published port, and a start with very many ports."""
    sample = Sample()
    body = {
        "Image": IMAGE,
        "Cmd": ["sleep", "1000"],
        "ExposedPorts": {"80/tcp": {}},
        "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "46080"}]}},
    }
    container = ask(engine, "POST", "/containers/create", body)["Id"]
    try:
        ask(engine, "POST", f"/containers/{container}/start")
        pid = ask(engine, "GET", f"/containers/{container}/json")["State"]["Pid"]
        with internet.internet() as net, _sink(f"/proc/{pid}/ns/net") as sink:
            for who, namespace, address in (
                ("from the LAN", net.neighbour, internet.LAN4),
                ("from the host, by its address", None, internet.LAN4),
                ("from the host, by 127.0.0.1", None, "127.0.0.1"),
                ("from the host, by ::1", None, "::1"),
            ):
                with sample.timed(f"{STREAM_MB} MB through a published port {who}"):
                    _pour(namespace, address, sink)
    finally:
        removed(engine, container)
    return sample


@contextlib.contextmanager
def _sink(namespace: str) -> Iterator[socket.socket]:
    with within(namespace, lambda: socket.create_server(("0.0.0.0", 80))) as server:
        server.settimeout(SETTLE_S)
        yield server


def _pour(namespace: str | None, address: str, sink: socket.socket) -> None:
    """Send so much, and wait until it is there."""
    chunk = memoryview(bytes(1 << 20))
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def receive() -> int:
        taken, buffer = 0, bytearray(1 << 20)
        with sink.accept()[0] as stream:
            while count := stream.recv_into(buffer):
                taken += count
        return taken

    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(receive)
        with within(namespace, lambda: socket.socket(family)) as stream:
            stream.connect((address, 46080))
            for _ in range(STREAM_MB):
                stream.sendall(chunk)
        if received.result() != STREAM_MB << 20:
            raise RuntimeError("bytes were lost")


def many_ports(engine: Engine) -> Sample:
    """How much longer a start takes that publishes a range."""
    sample = Sample()
    spans: dict[int, float] = {}
    for count in (0, PORTS):
        numbers = [str(20000 + number) for number in range(count)]
        body = {
            "Image": IMAGE,
            "Cmd": ["sleep", "1000"],
            "ExposedPorts": {f"{number}/tcp": {} for number in numbers},
            "HostConfig": {"PortBindings": {f"{n}/tcp": [{"HostPort": n}] for n in numbers}},
        }
        container = ask(engine, "POST", "/containers/create", body)["Id"]
        try:
            before = time.perf_counter()
            ask(engine, "POST", f"/containers/{container}/start")
            spans[count] = time.perf_counter() - before
        finally:
            removed(engine, container)
    sample.figures[f"a range of {PORTS} ports, more than none"] = 1000 * (spans[PORTS] - spans[0])
    return sample


def memory(engine: Engine) -> Sample:
    """What a running container costs the host outside itself: shims, monitors, the daemon."""
    containers = [created(engine, "sleep", "1000") for _ in range(FLEET_IN_MEMORY)]
    try:
        before = resident_mb(host_processes())
        for container in containers:
            ask(engine, "POST", f"/containers/{container}/start")
        time.sleep(1)
        after = resident_mb(host_processes())
    finally:
        for container in containers:
            removed(engine, container)
    return Sample({"MB a running container": (after - before) / FLEET_IN_MEMORY})


def pull(engine: Engine) -> Sample:
    """An image of ten layers, 30,000 files and 600 MB, from a registry on this host."""
    sample = Sample()
    with Registry() as registry:
        registry.add(large.NAME, large.image())
        ref = f"{registry.host}/{large.NAME}"
        name, _, tag = ref.rpartition(":")
        os.sync()
        before = daemon_mb(engine)
        with sample.timed(f"pull of {large.LAYERS} layers, 600 MB"):
            reply = engine.call(
                "POST", f"/images/create?fromImage={name}&tag={tag}", timeout=PULL_TIMEOUT_S
            )
        if b"Downloaded newer image" not in reply.body:
            raise RuntimeError(f"pull: {reply.status} {reply.body[-300:]!r}")
        if before:
            sample.figures[GROWTH] = daemon_mb(engine) - before
        ask(engine, "DELETE", f"/images/{ref}")
    # A file system without a journal gives no inode out again for so long (ext4, ialloc.c).
    time.sleep(SETTLE_S)
    return sample


def huge(engine: Engine) -> Sample:
    """Two gigabytes in four layers, half of it zeros: what the daemon needs at its peak."""
    sample = Sample()
    if not isinstance(engine, Wharf):
        return sample
    with Registry() as registry:
        registry.add(large.HUGE_NAME, large.huge())
        ref = f"{registry.host}/{large.HUGE_NAME}"
        name, _, tag = ref.rpartition(":")
        before, peak = daemon_mb(engine), 0.0
        with ThreadPoolExecutor(1) as pool:
            pulling = pool.submit(
                engine.call,
                "POST",
                f"/images/create?fromImage={name}&tag={tag}",
                timeout=PULL_TIMEOUT_S,
            )
            while not pulling.done():
                peak = max(peak, daemon_mb(engine))
                time.sleep(0.1)
        reply = pulling.result()
        if b"Downloaded newer image" not in reply.body:
            raise RuntimeError(f"pull: {reply.status} {reply.body[-300:]!r}")
        ask(engine, "DELETE", f"/images/{ref}")
    sample.figures[PEAK] = peak - before
    return sample


def parts(engine: Engine) -> Sample:
    """Where the time of that pull goes: each part of it alone, in one thread; of Wharf only."""
    sample = Sample()
    if not isinstance(engine, Wharf):
        return sample
    layers = large.image().layers
    with sample.timed("of the pull, in one thread: hash the blobs"):
        for each in layers:
            hashlib.sha256(each.blob).digest()
    with sample.timed("of the pull, in one thread: inflate"):
        for each in layers:
            plain = compression.plain(io.BytesIO(each.blob))
            while plain.read(1 << 20):
                pass
    with sample.timed("of the pull, in one thread: hash the tars"):
        for each in layers:
            hashlib.sha256(each.tar).digest()
    with tempfile.TemporaryDirectory(dir=engine.root) as folder:
        os.sync()
        with sample.timed(
            "of the pull, in one thread: read and hash the tars, make the files, sync"
        ):
            for number, each in enumerate(layers):
                target = os.path.join(folder, str(number))
                os.mkdir(target)
                layer.stage(io.BytesIO(each.tar), target, is_plain=True)
    return sample


def archives(engine: Engine) -> Sample:
    """The same image as an archive, in and out, and to a registry that has nothing of it."""
    sample = Sample()
    what = f"of {large.LAYERS} layers, 600 MB"
    os.sync()
    with sample.timed(f"load {what}"):
        reply = engine.call("POST", "/images/load", large.archive(), timeout=PULL_TIMEOUT_S)
    if b"Loaded image" not in reply.body:
        raise RuntimeError(f"load: {reply.status} {reply.body[-300:]!r}")
    with sample.timed(f"save {what}"):
        reply = engine.call("GET", f"/images/get?names={large.NAME}", timeout=PULL_TIMEOUT_S)
    if reply.status != 200 or len(reply.body) < large.BYTES * 0.9:
        raise RuntimeError(f"save: {reply.status} {len(reply.body)} bytes")
    with Registry() as registry:
        repository = f"{registry.host}/bench/pushed"
        ask(engine, "POST", f"/images/{large.NAME}/tag?repo={repository}&tag=1")
        with sample.timed(f"push {what}"):
            reply = engine.call(
                "POST",
                f"/images/{repository}/push?tag=1",
                headers={"X-Registry-Auth": "e30="},
                timeout=PULL_TIMEOUT_S,
            )
        if b'"aux"' not in reply.body:
            raise RuntimeError(f"push: {reply.status} {reply.body[-300:]!r}")
        ask(engine, "DELETE", f"/images/{repository}:1")
    ask(engine, "DELETE", f"/images/{large.NAME}")
    time.sleep(SETTLE_S)
    return sample


def thousand(engine: Engine) -> Sample:
    """Many images, of one layer each."""
    sample = Sample()
    shared = images.Layer(images.tar({"file": images.file(b"one for all")}))
    many = {
        f"bench/many:{number}": images.Image((shared,), {"Labels": {"number": str(number)}})
        for number in range(MANY)
    }
    engine.call("POST", "/images/load", images.docker_archive(many), timeout=PULL_TIMEOUT_S)
    try:
        with sample.timed(f"GET /images/json, {MANY} images", per=10):
            for _ in range(10):
                ask(engine, "GET", "/images/json")
        with sample.timed(f"docker images, {MANY} images"):
            engine.docker("images")
    finally:
        for name in many:
            engine.call("DELETE", f"/images/{name}")
    return sample


MEASURES: dict[str, tuple[Callable[[Engine], Sample], int]] = {
    "run": (run, 15),
    "life": (life, 15),
    "fleet": (fleet, 3),
    "network": (network, 5),
    "crowd": (crowd, 1),
    "ports": (ports, 3),
    "range": (many_ports, 3),
    "memory": (memory, 3),
    "pull": (pull, 3),
    "huge": (huge, 1),
    "parts": (parts, 3),
    "archives": (archives, 3),
    "thousand": (thousand, 3),
}
"""By name, with the number of rounds that are counted."""


# Memory, from the host's side


def daemon_mb(engine: Engine) -> float:
    """Of Wharf's daemon; 0 of another engine, which nobody could tell from outside."""
    process = engine.process if isinstance(engine, Wharf) else None
    return resident_mb({process.pid}) if process else 0.0


def resident_mb(pids: set[int]) -> float:
    return sum(map(_pss_kb, pids)) / 1024


def _pss_kb(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as rollup:
            return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
    except (OSError, StopIteration):
        # It ended meanwhile, or is the kernel's own.
        return 0


def host_processes() -> set[int]:
    """All in this pid namespace itself, not in a container's, but for the kernel's threads."""
    own = os.readlink("/proc/self/ns/pid")
    return {pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _is_in(pid, own)}


def _is_in(pid: int, namespace: str) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline") as command:
            return os.readlink(f"/proc/{pid}/ns/pid") == namespace and bool(command.read(1))
    except OSError:
        return False
