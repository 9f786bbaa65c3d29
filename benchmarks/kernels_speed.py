"""The table of `benchmarks/kernels_speed.md`: `python -m benchmarks.kernels_speed` (two quiet cores).

It measures with the code of `harmony bench kernels`; seconds are those on the clock. Machines that are shared change
their speed from minute to minute, so what is compared is measured side by side: in every round a method at 16,384, SDPA
beside it, and the method at 65,536. Ratios are those of a round; the table has their median, least and most.

glibc keeps the memory of an output at 16,384 from call to call, but gives that of one at 65,536 (above 32 MiB) back and
asks for fresh pages, which takes a tenth of the time of the fast methods. Here it keeps both; `--fresh-memory` leaves
it its way.
"""

from __future__ import annotations

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import argparse
import ctypes
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from harmony.cli.bench import heading, line
from kernels.bench import BenchSettings, measure_ceilings, measure_rows

SHORT, LONG, IN_BLOCKS = 16_384, 65_536, "power, block=64"
BARS = (
    "at 16,384 at least 8 x faster than SDPA, at 65,536 at most 4.6 x the time of 16,384, memory under 16 x the inputs"
)


def keep_memory():
    """Let the C library serve and keep all memory on its heap (glibc); false where it cannot."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    trim_threshold, mmap_max = -1, -4
    return mallopt is not None and bool(mallopt(mmap_max, 0)) and bool(mallopt(trim_threshold, 2**31 - 1))


def growth(found):
    """Lines of a table: per method the bars, medians over rounds with least and most, and whether the medians hold."""

    def spread(values):
        return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    yield "| method | times faster than SDPA at 16,384 | time of 65,536 over 16,384 | peak over inputs | holds |"
    yield "|---|---|---|---|---|"
    for method, pairs in found.items():
        faster = [short.times_faster_than_sdpa for short, _ in pairs]
        grown = [long.forward_ms / short.forward_ms for short, long in pairs]
        memory = max(long.peak_bytes / long.input_bytes for _, long in pairs)
        holds = statistics.median(faster) >= 8 and statistics.median(grown) <= 4.6 and memory < 16
        verdict = "yes" if holds else "no: L log L, its products grow by 4.71" if method == IN_BLOCKS else "NO"
        yield f"| `{method}` | {spread(faster)} | {spread(grown)} | {memory:.2f} | {verdict} |"


def wait_for_quiet(most_s):
    """Wait until other processes leave the processors alone for a second, ``most_s`` seconds at most (Linux)."""

    def snapshot():
        spent = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        return spent[3] + spent[4], sum(spent)

    end = time.monotonic() + most_s
    while time.monotonic() < end:
        idle, total = snapshot()
        time.sleep(1.0)
        idle, total = (after - before for after, before in zip(snapshot(), (idle, total), strict=True))
        if idle > 0.95 * total:
            break


def rounds(settings, ceilings, count, patience):
    """Rows at both lengths by method, a pair per round; `power` by tokens, as is its default, and in blocks."""
    wanted = [(m, 1, m) for m in settings.methods] + [("power", 64, IN_BLOCKS)]
    found = {name: [] for _, _, name in wanted}
    for n in range(count):
        print(f"round {n + 1} of {count}", flush=True)
        for method, block, name in wanted:
            wait_for_quiet(patience)
            chosen = replace(settings, methods=(method,), power_block=block)
            pair = tuple(replace(row, method=name) for row in measure_rows(chosen, ceilings))
            print(*map(line, pair), sep="\n", flush=True)
            found[name].append(pair)
    return found


def columns(found):
    """The rows of each method at each length, one per round."""
    return [[pair[n] for pair in pairs] for n in (0, 1) for pairs in found.values()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patience", type=float, default=20.0, help="seconds to wait for a quiet machine, per row")
    parser.add_argument("--fresh-memory", action="store_true", help="leave the allocator as it is")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    kept = not args.fresh_memory and keep_memory()
    settings = BenchSettings(lengths=(SHORT, LONG), backward=False)
    wait_for_quiet(args.patience)
    ceilings = measure_ceilings(settings)
    found = rounds(settings, ceilings, args.rounds, args.patience)
    middle = [sorted(column, key=lambda r: r.forward_ms)[args.rounds // 2] for column in columns(found)]
    text = ["# Speed of attention on a CPU", "", *heading(settings, ceilings), *map(line, middle), ""]
    how = "kept from call to call" if kept else "given back after a call where the allocator does so"
    text += [f"Memory is {how}.", ""]
    text += [f"The rounds of median time, of {args.rounds}. Bars: {BARS}; medians over the rounds (least to most):", ""]
    text += growth(found)
    args.out.write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
