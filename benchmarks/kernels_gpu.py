"""The table of `benchmarks/kernels_gpu.md`: `python -m benchmarks.kernels_gpu` (one CUDA GPU, nobody else on it).

It measures with the code of `harmony bench kernels`. `--dry-run` runs every step of it on tiny inputs in Triton's
interpreter, without bars and without writing a file, on a machine without a GPU.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("KINETO_LOG_LEVEL", "99")
if "--dry-run" in sys.argv:
    # Triton looks once, when it is imported, and PyTorch may import it.
    os.environ["TRITON_INTERPRET"] = "1"

import argparse
import contextlib
import functools
import subprocess
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from harmony.cli.bench import heading, line
from kernels.bench import BenchSettings, measure_ceilings, measure_rows
from kernels.engines.rules import Call
from kernels.lab.clock import seconds
from kernels.triton.linear_work import features_work, scan_work
from kernels.triton.support import installed
from kernels.windows.power import power
from kernels.windows.sliding_window import sliding_window

LINEAR = ("lightning", "mala", "wersa")
POWER_BLOCK = 64  # the form that suits the tiles of a GPU
WINDOWED = {"sliding_window": sliding_window, "power": functools.partial(power, block=POWER_BLOCK)}
FEATURES, LEVELS = 128, 4  # the defaults of wersa
REAL = BenchSettings(
    methods=(*LINEAR, *WINDOWED),
    lengths=(32_768,),
    device="cuda",
    dtype=torch.bfloat16,
    power_block=POWER_BLOCK,
    batch=4,
    heads=16,
    window=1024,
)
TINY = replace(REAL, lengths=(64,), device="cpu", dtype=torch.float32, batch=1, heads=2, head_dim=16, window=16)
ROOFLINE, OF_FLEX, OVER_SDPA = 0.6, 0.7, {**dict.fromkeys(LINEAR, 5.0), **dict.fromkeys(WINDOWED, 3.0)}


def work_of(method, s):
    """What the Triton kernels of a linear mechanism compute and move in a causal call."""
    shape = (s.batch, s.heads, s.lengths[0], s.head_dim)
    x = torch.empty(shape, dtype=s.dtype, device="meta")
    if method != "wersa":
        return scan_work(x, x, x, causal=True, normalised=method == "mala")
    f = torch.empty(*shape[:3], FEATURES, dtype=s.dtype, device="meta")
    made = features_work(x, FEATURES, LEVELS, causal=True)
    return made + made + scan_work(f, f, x, causal=True, normalised=True)


def rooflines(rows, s, ceilings, judged):
    """Lines of a table: how near to what the GPU can do the linear mechanisms come."""
    yield f"Linear mechanisms forward, causal. Bar: at least {ROOFLINE:.0%} of the roofline of their own count."
    yield ""
    yield "| method | ms | own GFLOP | own GB | least ms by own count | share | inputs and output once | holds |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in (r for r in rows if r.method in LINEAR):
        work = work_of(row.method, s)
        least = 1e3 * work.least_seconds(ceilings.flops_per_s, ceilings.bytes_per_s)
        share = least / row.forward_ms
        cells = f"{row.forward_ms:.3f} | {work.flops / 1e9:.1f} | {work.bytes / 1e9:.2f} | {least:.3f} | {share:.0%}"
        yield f"| `{row.method}` | {cells} | {row.bytes_of_ceiling:.0%} | {judged(share >= ROOFLINE)} |"


def flexes(rows, s, judged):
    """Lines of a table: the windowed mechanisms beside flex_attention with the same mask."""
    yield f"Windowed mechanisms forward beside compiled flex_attention. Bar: at least {OF_FLEX:.0%} of its FLOP/s."
    yield ""
    yield "| method | ms | flex_attention ms | share | holds |"
    yield "|---|---|---|---|---|"
    for row in (r for r in rows if r.method in WINDOWED):
        flex = 1e3 * flex_seconds(row.method, s)
        share = flex / row.forward_ms
        yield f"| `{row.method}` | {row.forward_ms:.3f} | {flex:.3f} | {share:.0%} | {judged(share >= OF_FLEX)} |"


def flex_seconds(method, s):
    """Seconds of flex_attention, compiled on a GPU, with the mask of a method; making the mask is not counted."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    length = s.lengths[0]
    call = Call(heads=1, lq=length, lk=length, causal=s.causal, device=torch.device(s.device), offset=0)
    rule = WINDOWED[method](call, window=s.window)
    compiled = torch.compile if s.device == "cuda" else lambda run, **_: run
    mask = compiled(create_block_mask)(
        lambda b, h, i, j: rule.sees(h, i, j), None, None, length, length, device=s.device
    )
    run = compiled(flex_attention, dynamic=False)
    g = torch.Generator().manual_seed(s.seed)
    shape = (s.batch, s.heads, length, s.head_dim)
    q, k, v = (torch.randn(shape, generator=g).to(s.device, s.dtype) for _ in range(3))
    with warnings.catch_warnings():
        # A dry run takes the uncompiled one, which says so.
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile", UserWarning)
        return seconds(lambda: run(q, k, v, block_mask=mask), s.device)


def ratios(rows, judged):
    """Lines of a table: how much faster than dense attention."""
    yield "Forward beside PyTorch's dense attention (flash). Bars: 5 x for linear mechanisms, 3 x for windows."
    yield ""
    yield "| method | times faster | error against the definition | holds |"
    yield "|---|---|---|---|"
    for row in rows:
        times = row.times_faster_than_sdpa
        cells = f"{times:.1f} x | {row.rel_error:.1e} at {row.rel_error_length}"
        yield f"| `{row.method}` | {cells} | {judged(times >= OVER_SDPA[row.method])} |"


def tested():
    """Whether the tests that need a GPU pass, and pytest's last line."""
    command = [sys.executable, "-m", "pytest", "tests/kernels/triton", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode == 0, (done.stdout.strip().splitlines() or [done.stderr.strip()])[-1]


def flash(device):
    """PyTorch's flash attention and nothing else, on a GPU."""
    if device != "cuda":
        return contextlib.nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.FLASH_ATTENTION)


def missing():
    """What this machine lacks, in one line; None if nothing."""
    if not torch.cuda.is_available():
        return "a CUDA GPU is missing (PyTorch finds none); --dry-run runs the script without one"
    if not installed():
        return "the package triton is missing: pip install 'harmony-autoscaler[gpu]'"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "TRITON_INTERPRET=1 is set, so that Triton would not use the GPU"
    return None


def report(s, judged):
    """The text line by line, printed as it comes."""
    ceilings = measure_ceilings(s)
    found = torch.cuda.get_device_name() if s.device == "cuda" else "none: a dry run, whose figures mean nothing"
    yield "# Speed of attention on a GPU"
    yield ""
    yield f"GPU: {found}. `python -m benchmarks.kernels_gpu`"
    yield ""
    yield from heading(s, ceilings)
    rows = []
    with flash(s.device):
        for row in measure_rows(s, ceilings):
            rows.append(row)
            yield line(row)
    for part in (rooflines(rows, s, ceilings, judged), flexes(rows, s, judged), ratios(rows, judged)):
        yield ""
        yield from part


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--no-tests", action="store_true", help="leave out the tests that need a GPU")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    lacking = None if args.dry_run else missing()
    if lacking is not None:
        print(lacking, file=sys.stderr)
        return 2
    settings = replace(TINY, backend="triton") if args.dry_run else REAL
    text = []
    for row in report(settings, (lambda holds: "-") if args.dry_run else (lambda holds: "yes" if holds else "NO")):
        text.append(row)
        print(row, flush=True)
    passed = True
    if not (args.dry_run or args.no_tests):
        passed, last = tested()
        text += ["", f"Tests on this GPU (`pytest tests/kernels/triton -m gpu`): {last}"]
        print(text[-1])
    if not args.dry_run:
        args.out.write_text("\n".join(text) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
