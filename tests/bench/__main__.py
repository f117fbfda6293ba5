"""Measure Wharf, and another engine in the same run, and say each figure as a ratio.

    python -m tests.bench [--host unix:///…] [--only run,life] [--rounds N] [--write]

The other engine is the one that `--host`, WHARF_TEST_HOST or DOCKER_HOST names; without one there
are no ratios. Wharf is started here, with folders of its own. The engines take turns in each round,
so that a machine that slows down slows both. Figures are medians; absolute ones are this machine's.
`--write` puts the table into RESULTS.md beside this file. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench import large
from tests.bench.measures import CROWD, GROWTH, IMAGE, MANY, MEASURES, PEAK, STREAM_MB, resident_mb
from tests.support import images
from tests.support.engine import HOST_VARIABLE, Engine, Wharf

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path(__file__).with_name("RESULTS.md")
COLD_STARTS = 5

# What each ratio to dockerd should be at most. Where podman is known to be faster than this it is
# the number to look at next.
RATIO_TARGETS = {
    "docker run --rm busybox true": 0.35,
    "create": 0.5,
    "start": 0.35,
    "exec true": 0.5,
    "kill and wait": 0.3,
    "rm": 1.0,
    "GET /containers/json, 60 running": 1.0,
    "MB a running container": 0.2,
    "network create and rm": 0.5,
    "network connect": 0.4,
    "a name looked up, 1000 a second": 1.0,
    f"{STREAM_MB} MB through a published port from the LAN": 1.0,
    f"{STREAM_MB} MB through a published port from the host, by its address": 1.0,
    f"{STREAM_MB} MB through a published port from the host, by 127.0.0.1": 1.0,
    f"GET /networks/…, {CROWD} containers on it": 1.0,
    f"pull of {large.LAYERS} layers, 600 MB": 0.5,
    f"load of {large.LAYERS} layers, 600 MB": 0.5,
    f"save of {large.LAYERS} layers, 600 MB": 1.0,
    f"push of {large.LAYERS} layers, 600 MB": 1.0,
    f"GET /images/json, {MANY} images": 1.0,
    f"docker images, {MANY} images": 1.0,
}
ABSOLUTE_TARGETS = {
    "MB of the daemon at rest": 80.0,
    "cold start to an answered ping": 1500.0,
    GROWTH: 150.0,
    PEAK: 150.0,
}

Figures = dict[str, list[float]]


def main() -> int:
    arguments = _arguments()
    host = arguments.host or os.environ.get(HOST_VARIABLE) or os.environ.get("DOCKER_HOST")
    with contextlib.ExitStack() as stack:
        wharf = stack.enter_context(contextlib.closing(Wharf()))
        own = _at_rest(wharf)
        stack.callback(wharf.stop)
        engines: dict[str, Engine] = {"Wharf": wharf}
        if host:
            other = stack.enter_context(contextlib.closing(Engine(host, Path("/dev/shm"))))
            engines[_name(other)] = other
        for engine in engines.values():
            engine.docker("load", input=images.docker_archive({IMAGE: images.busybox()}))
        figures = {name: Figures() for name in engines}
        for measure in arguments.only.split(",") if arguments.only else MEASURES:
            _measure(measure, engines, figures, arguments.rounds)
    table = _table({**figures, "Wharf": {**own, **figures["Wharf"]}})
    print(table, end="")
    if arguments.write:
        RESULTS.write_text(_page(table, arguments.rounds))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--host", help="the engine to compare with")
    parser.add_argument("--only", help=f"some of {', '.join(MEASURES)}")
    parser.add_argument("--rounds", type=int, help="rounds of each measure")
    parser.add_argument("--write", action="store_true", help="write RESULTS.md")
    return parser.parse_args()


def _name(engine: Engine) -> str:
    """What an engine calls itself: "Docker 28.5.2"."""
    version = engine.call("GET", "/version").json()
    platform_name = version.get("Platform", {}).get("Name") or "Docker"
    return f"{platform_name.split()[0]} {version['Version']}"


def _at_rest(wharf: Wharf) -> Figures:
    """Start the daemon a few times, the last one to stay: the times, and its memory at rest."""
    starts: list[float] = []
    for number in range(COLD_STARTS):
        if number:
            wharf.stop()
        before = time.perf_counter()
        wharf.start()
        starts.append((time.perf_counter() - before) * 1000)
    time.sleep(1)
    assert wharf.process is not None
    return {
        "cold start to an answered ping": starts,
        "MB of the daemon at rest": [resident_mb({wharf.process.pid})],
    }


def _measure(
    measure: str, engines: dict[str, Engine], figures: dict[str, Figures], rounds: int | None
) -> None:
    """Take turns; the first round warms up and is not counted."""
    ask, usual = MEASURES[measure]
    for number in range((rounds or usual) + 1):
        for name, engine in engines.items():
            print(f"{measure} {number} {name}", file=sys.stderr)
            sample = ask(engine)
            if number:
                for figure, value in sample.figures.items():
                    figures[name].setdefault(figure, []).append(value)


# The table


def _table(figures: dict[str, Figures]) -> str:
    names = list(figures)
    rows = list(dict.fromkeys(row for found in figures.values() for row in found))
    head = ["median", *names, "ratio", "at most"]
    lines = [_line(head), _line(["---", *["---:"] * (len(head) - 1)])]
    lines += [_line(_row(row, [figures[name].get(row, []) for name in names])) for row in rows]
    return "\n".join(lines) + "\n"


def _row(name: str, values: Sequence[list[float]]) -> list[str]:
    unit = "" if name.startswith("MB") else " ms"
    medians = [statistics.median(found) if found else None for found in values]
    shown = ["" if median is None else f"{median:.1f}{unit}" for median in medians]
    own, other = medians[0], medians[-1] if len(medians) > 1 else None
    ratio = f"{own / other:.2f}" if own is not None and other else ""
    target = RATIO_TARGETS.get(name)
    limit = f"{target:.2f}" if target else ""
    if name in ABSOLUTE_TARGETS:
        limit = f"{ABSOLUTE_TARGETS[name]:.0f}{unit}"
    return [name, *shown, ratio, limit]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _page(table: str, rounds: int | None) -> str:
    system = platform.uname()
    return (
        "# Results\n\n"
        "Written by `python -m tests.bench --write`. Both engines took turns in one run; a ratio\n"
        "is Wharf's figure over the other's, so below 1 is less time or less memory.\n\n"
        f"Rounds that were counted: {rounds or 'as many as measures.py says'}. "
        f"{os.cpu_count()} CPUs, {system.system} {system.release}, {system.machine}, "
        f"Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}.\n\n{table}"
    )


if __name__ == "__main__":
    sys.exit(main())
