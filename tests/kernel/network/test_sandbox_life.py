"""A container's network from open to close, on a host of its own."""

from __future__ import annotations

import time

from engine.network.model import PortBinding
from tests.kernel.network.fake_host import NEIGHBOUR, UPLINK, FakeHost, in_fake_host


@in_fake_host
async def test_published_port_answers_from_everywhere(host: FakeHost) -> None:
    networks = await host.networks()
    await networks.settle()
    opened = await networks.open(
        host.request(
            exposed_ports=("80/tcp",), port_bindings={"80/tcp": (PortBinding(host_port="8080"),)}
        )
    )
    other = await networks.open(host.request("two"))
    host.serve(opened.netns_path, 80, "hello")
    gateway = opened.endpoints[0].gateway
    own = opened.endpoints[0].ipv4_address
    assert await host.ask(None, own, 80) == f"hello {gateway}"
    assert await host.ask(None, "127.0.0.1", 8080) == f"hello {gateway}"
    assert await host.ask(None, UPLINK, 8080) == f"hello {UPLINK}"
    assert await host.ask(host.neighbour, UPLINK, 8080) == f"hello {NEIGHBOUR}"
    assert await host.ask(other.netns_path, UPLINK, 8080) == f"hello {gateway}"
    assert await host.ask(other.netns_path, gateway, 8080) == f"hello {gateway}"
    assert await host.ask(other.netns_path, own, 80) == f"hello {other.endpoints[0].ipv4_address}"
    assert await host.ask(opened.netns_path, UPLINK, 8080) == f"hello {gateway}"
    assert await host.ask(host.neighbour, own, 80) is None
    await networks.close_engine()


@in_fake_host
async def test_opening_is_fast(host: FakeHost) -> None:
    networks = await host.networks()
    await networks.settle()
    spent = []
    for number in range(20):
        bindings = {"80/tcp": (PortBinding(host_port=str(9000 + number)),)}
        request = host.request(f"c{number}", port_bindings=bindings)
        start = time.perf_counter()
        await networks.open(request)
        middle = time.perf_counter()
        await networks.close(request.container_id)
        spent.append((middle - start, time.perf_counter() - middle))
    opening, closing = sorted(s[0] for s in spent)[10], sorted(s[1] for s in spent)[10]
    print(f"open {opening * 1000:.2f} ms, close {closing * 1000:.2f} ms", spent)
    assert opening < 0.02
    assert closing < 0.02
    await networks.close_engine()
