"""What a real Prometheus spends on many services: `python benchmarks/prometheus_load.py [--services 2000]`.

The same indicators, once asked for all services together and once alone (some of them, the sum extrapolated): CPU
seconds of the Prometheus process (Debian's) and bytes of the answers. Writes `benchmarks/prometheus_load.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from controller.prometheus.client import Prometheus
from controller.prometheus.freshness import within
from controller.resource.presets import PRESETS
from controller.resource.presets.base import Template, default_apart, default_matchers
from tests.prom.real import RealPrometheus, openmetrics

END = 1_760_000_040.0 // 60 * 60
STEP_S, ROWS, SHOWN_S = 60.0, 5, 180.0  # of a regular tick
PAST_ROWS = 12
NAMESPACES, PODS = 20, 3
BUCKETS = ("0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1", "2", "5", "10", "30", "+Inf")
GAUGES = ("vllm:num_requests_running", "vllm:num_requests_waiting")
COUNTER, HISTOGRAM = "vllm:prompt_tokens_total", "vllm:time_to_first_token_seconds_bucket"
SHOWN = ("requests", "prompt_token_rate", "ttft_p95")
ALONE = 40  # services asked alone
PRESET = PRESETS["vllm"]


def names(count: int) -> list[tuple[str, str]]:
    """Whole namespaces one after the other, so that the first services are all that their namespaces have."""
    return [(f"team-{i * NAMESPACES // count}", f"svc-{i}") for i in range(count)]


def samples(count: int) -> Iterator[tuple[str, float, str]]:
    """Gauges, a counter and a histogram of every pod, every minute."""
    rng = random.Random(0)
    for namespace, name in names(count):
        for k in range(PODS):
            pod = f"{name}-7d9f6c5b8-{''.join(rng.choices('bcdfghjklmnp', k=4))}{'bcd'[k]}"
            labels = f'namespace="{namespace}",pod="{pod}"'
            series = [f"{metric}{{{labels}}}" for metric in (*GAUGES, COUNTER)]
            series += [f'{HISTOGRAM}{{{labels},le="{le}"}}' for le in BUCKETS]
            for each, text in enumerate(series):
                for row in range(PAST_ROWS):
                    yield text, END - STEP_S * (PAST_ROWS - 1 - row), str(row * (1 + each % 7))


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def asked(client: Prometheus, promql: str) -> int:
    """Ask for the rows of a tick; returns the number of series."""
    limited = within(promql, SHOWN_S)
    return len(await client.query_range(limited, END - STEP_S * (ROWS - 1), END, STEP_S))


async def both(client: Prometheus, pid: int, template: Template, services: Sequence[tuple[str, str]]) -> list[float]:
    """CPU seconds of Prometheus for all of ``services`` together, and alone."""
    kin = [template.kin(default_apart(PRESET, namespace, "Deployment", name)) for namespace, name in services]
    began = cpu_s(pid)
    family = kin[0].family  # type: ignore[union-attr]
    found = await asked(client, family.query([k.member for k in kin if k is not None]))
    together = cpu_s(pid) - began
    assert found == len(services), (found, len(services))
    some = services[:: max(1, len(services) // ALONE)][:ALONE]
    began = cpu_s(pid)
    for namespace, name in some:
        await asked(client, template.fill(default_matchers(PRESET, namespace, "Deployment", name)))
    return [together, (cpu_s(pid) - began) / len(some) * len(services)]


async def measured(prometheus: RealPrometheus, count: int) -> list[str]:
    assert prometheus._process is not None
    templates = {t.indicator.name: t for t in PRESET.templates}
    lines = ["| services | indicator | together | alone |", "|---:|---|---:|---:|"]
    async with Prometheus(prometheus.url, timeout_s=120.0) as client:
        for size in (count // NAMESPACES, count // 4, count):
            for name in SHOWN:
                few, many = await both(client, prometheus._process.pid, templates[name], names(count)[:size])
                lines.append(f"| {size:,} | {name} | {few:.2f} s | {many:.1f} s |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=2_000)
    parser.add_argument("--out", default=str(Path(__file__).with_suffix(".md")), help="empty: print only")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prometheus = RealPrometheus(Path(folder))
        prometheus.load(openmetrics(samples(chosen.services)))
        with prometheus:
            lines = asyncio.run(measured(prometheus, chosen.services))
    text = "\n\n".join(
        [
            "# What a Prometheus spends on many services",
            f"`python benchmarks/prometheus_load.py --services {chosen.services}`: a real Prometheus with "
            f"{chosen.services:,} services of {PODS} pods in {NAMESPACES} namespaces, a histogram of {len(BUCKETS)} "
            f"buckets each. CPU seconds of its process for the {ROWS} rows of one tick: all services in one query, and "
            f"each in its own ({ALONE} asked, the sum extrapolated).",
            "\n".join(lines),
        ]
    )
    print(text)
    if chosen.out:
        Path(chosen.out).write_text(text + "\n")


if __name__ == "__main__":
    main()
