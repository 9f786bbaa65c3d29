"""The table of `benchmarks/kernels_gpu.md`: `python -m benchmarks.kernels_gpu` (one CUDA GPU, nobody else on it).

First whether output and gradients are right, then how fast they come, in at most `--minutes` (8): what there is no time
for is named. It measures with the code of `harmony bench kernels`. `--dry-run` runs every step of it on tiny inputs in
Triton's interpreter, without bars and without writing a file, on a machine without a GPU.
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
import importlib
import importlib.util
import subprocess
import time
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from harmony.cli.bench import heading, line
from kernels import attention
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
SIZES = (64, 128)
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
TINY = replace(
    REAL, lengths=(64,), device="cpu", dtype=torch.float32, batch=1, heads=2, head_dim=16, window=16, backward=False
)
COMPULSORY = {"lightning": 0.55, "mala": 0.45, "wersa": 0.40}
"""Least share of the time that a copy takes for inputs and output, each moved once, to the time of a forward call."""
OF_FLA, OF_FLEX, OVER_SDPA = 1.0, 0.9, {**dict.fromkeys(LINEAR, 5.0), **dict.fromkeys(WINDOWED, 3.0)}
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
"""Largest error of output and gradients against the definition in float64."""


class Budget:
    """What is left of the minutes that the script may take; steps that no time is left for are named."""

    def __init__(self, minutes):
        self.end, self.begun, self.left_out = time.monotonic() + 60.0 * minutes, time.monotonic(), []

    def allows(self, step, needs_s):
        """Whether a step that takes about so many seconds is begun."""
        enough = time.monotonic() + needs_s < self.end
        if not enough:
            self.left_out.append(step)
        return enough

    def closing(self):
        yield f"{(time.monotonic() - self.begun) / 60:.1f} minutes."
        if self.left_out:
            yield f"Not done, as the time was over: {', '.join(self.left_out)}."


def options_of(method, s):
    """The options of a windowed method."""
    return {} if method in LINEAR else {"window": s.window} | ({"block": POWER_BLOCK} if method == "power" else {})


def leaves(shape, s, dtype):
    """Standard normal q, k and v that want gradients."""
    g = torch.Generator().manual_seed(s.seed)
    return [torch.randn(shape, generator=g).to(s.device, dtype).requires_grad_() for _ in range(3)]


def correctness(s, sizes, budget, judged):
    """Lines of a table: output and gradients against the definition in float64, at a length off every tile."""
    dtypes = (torch.float32,) if s.device == "cpu" else tuple(CLOSE)
    length = 2040 if s.device == "cuda" else s.lengths[0] // 2 + 5
    yield f"Output and gradients against the definition in float64 at {length:,} positions: the largest error."
    yield ""
    yield "| method | D | type | error | bar | holds |"
    yield "|---|---|---|---|---|---|"
    for method in s.methods:
        for size in sizes:
            for dtype in dtypes:
                if budget.allows(f"correctness of {method}, D = {size}, {dtype}", 10):
                    found = error_of(method, (2, 2, length, size), s, dtype)
                    cells = f"{found:.1e} | {CLOSE[dtype]:.0e} | {judged(found <= CLOSE[dtype])}"
                    yield f"| `{method}` | {size} | {str(dtype).removeprefix('torch.')} | {cells} |"


def error_of(method, shape, s, dtype):
    """The largest relative error of output and gradients, those of the gradients in the size of the largest one."""
    given = leaves(shape, s, dtype)
    results = []
    for backend, inputs in (("triton", given), ("reference", [x.detach().double().requires_grad_() for x in given])):
        out = attention(*inputs, method=method, causal=True, backend=backend, **options_of(method, s))
        results.append([out.detach(), *torch.autograd.grad(out.double().square().sum(), inputs)])
    got, want = results
    beside = max(float(x.norm()) for x in want[1:])
    sizes = [float(want[0].norm()), *[beside] * 3]
    return max(float((a.double() - b).norm()) / n for a, b, n in zip(got, want, sizes, strict=True))


def graphs(s, sizes, budget, judged):
    """Lines of a table: a call captured as a CUDA graph, replayed on other inputs, beside the call itself."""
    yield "Forward calls captured as CUDA graphs and replayed on other inputs, beside the calls themselves."
    yield ""
    yield "| method | D | ms | ms replayed | holds |"
    yield "|---|---|---|---|---|"
    for method in s.methods:
        for size in sizes:
            if budget.allows(f"graph of {method}, D = {size}", 10):
                shape = (s.batch, s.heads, min(s.lengths[0], 4096), size)
                q, k, v = (x.detach() for x in leaves(shape, s, s.dtype))
                run = functools.partial(
                    attention, q, k, v, method=method, causal=True, backend="triton", **options_of(method, s)
                )
                eager, replay, kept = run, run, None
                if s.device == "cuda":
                    run()
                    graph = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(graph):
                        kept = run()
                    replay = graph.replay
                q.mul_(0.5)
                want = run()
                replay()
                same = kept is None or bool(torch.equal(kept, want))
                times = [1e3 * seconds(f, s.device) for f in (eager, replay)]
                yield f"| `{method}` | {size} | {times[0]:.3f} | {times[1]:.3f} | {judged(same)} |"


def work_of(method, s):
    """What the Triton kernels of a linear mechanism compute and move in a causal call."""
    shape = (s.batch, s.heads, s.lengths[0], s.head_dim)
    x = torch.empty(shape, dtype=s.dtype, device="meta")
    if method != "wersa":
        return scan_work(x, x, x, causal=True, normalised=method == "mala")
    f = torch.empty(*shape[:3], FEATURES, dtype=s.dtype, device="meta")
    made = features_work(x, FEATURES, LEVELS, causal=True)
    return made + made + scan_work(f, f, x, causal=True, normalised=True)


def limits(rows, s, ceilings, judged):
    """Lines of a table: how near to moving inputs and output once, and to what the kernels themselves move."""
    yield "Linear mechanisms forward, causal: the share of the speed at which inputs and output could be moved once."
    yield ""
    yield "| method | D | ms | share of compulsory bytes | bar | own GFLOP | own GB | share of own count | holds |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for size, row in ((n, r) for n, found in rows.items() for r in found if r.method in LINEAR):
        work, share, bar = work_of(row.method, replace(s, head_dim=size)), row.bytes_of_ceiling, COMPULSORY[row.method]
        own = 1e3 * work.least_seconds(ceilings.flops_per_s, ceilings.bytes_per_s) / row.forward_ms
        cells = f"{share:.0%} | {bar:.0%} | {work.flops / 1e9:.1f} | {work.bytes / 1e9:.2f} | {own:.0%}"
        yield f"| `{row.method}` | {size} | {row.forward_ms:.3f} | {cells} | {judged(share >= bar)} |"


def of_fla(rows, s, budget, judged):
    """Lines of a table: beside the chunked kernels of flash-linear-attention, for mala and wersa the nearest."""
    yield f"Beside flash-linear-attention (its layout, no transposing counted). Bar: {OF_FLA:.1f} x its speed."
    yield ""
    if s.device != "cuda" or importlib.util.find_spec("fla") is None:
        why = "a dry run" if s.device != "cuda" else "the package flash-linear-attention is not installed"
        yield f"Not measured: {why}."
        return
    lightning = importlib.import_module("fla.ops.lightning_attn").chunk_lightning_attn
    plain = importlib.import_module("fla.ops.linear_attn").chunk_linear_attn
    runs = {
        "lightning": functools.partial(lightning, layer_idx=0, num_layers=1),
        "mala": functools.partial(plain, normalize=True),
        "wersa": functools.partial(plain, normalize=True),
    }
    yield "| method | D | ms | fla | its ms | times as fast | holds |"
    yield "|---|---|---|---|---|---|---|"
    for size, row in ((n, r) for n, found in rows.items() for r in found if r.method in runs):
        if budget.allows(f"fla beside {row.method}, D = {size}", 20):
            shape = (s.batch, s.lengths[0], s.heads, size)
            q, k, v = (x.detach().abs() for x in leaves(shape, s, s.dtype))
            run = functools.partial(runs[row.method], q, k, v)
            theirs = 1e3 * seconds(run, s.device)
            times, name = theirs / row.forward_ms, run.func.__name__
            cells = f"{row.forward_ms:.3f} | `{name}` | {theirs:.3f} | {times:.2f} x"
            yield f"| `{row.method}` | {size} | {cells} | {judged(times >= OF_FLA)} |"


def flexes(rows, s, budget, judged):
    """Lines of a table: the windowed mechanisms beside flex_attention with the same mask."""
    yield f"Windowed mechanisms forward beside compiled flex_attention. Bar: at least {OF_FLEX:.0%} of its FLOP/s."
    yield ""
    yield "| method | D | ms | flex_attention ms | share | holds |"
    yield "|---|---|---|---|---|---|"
    for size, row in ((n, r) for n, found in rows.items() for r in found if r.method in WINDOWED):
        if budget.allows(f"flex_attention beside {row.method}, D = {size}", 60):
            flex = 1e3 * flex_seconds(row.method, replace(s, head_dim=size))
            share = flex / row.forward_ms
            cells = f"{row.forward_ms:.3f} | {flex:.3f} | {share:.0%} | {judged(share >= OF_FLEX)}"
            yield f"| `{row.method}` | {size} | {cells} |"


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
    yield "| method | D | times faster | error against the definition | holds |"
    yield "|---|---|---|---|---|"
    for size, row in ((n, r) for n, found in rows.items() for r in found):
        times = row.times_faster_than_sdpa
        cells = f"{times:.1f} x | {row.rel_error:.1e} at {row.rel_error_length}"
        yield f"| `{row.method}` | {size} | {cells} | {judged(times >= OVER_SDPA[row.method])} |"


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


def report(s, sizes, budget, judged):
    """The text line by line, printed as it comes: whether it is right first, then how fast it is."""
    found = torch.cuda.get_device_name() if s.device == "cuda" else "none: a dry run, whose figures mean nothing"
    yield "# Speed of attention on a GPU"
    yield ""
    yield f"GPU: {found}. `python -m benchmarks.kernels_gpu`"
    yield ""
    yield from correctness(s, sizes, budget, judged)
    ceilings = measure_ceilings(s)
    rows = {}
    for size in sizes:
        one = replace(s, head_dim=size)
        yield ""
        yield from heading(one, ceilings)
        rows[size] = []
        with flash(s.device):
            for method in s.methods:
                if budget.allows(f"{method}, D = {size}", 30):
                    for row in measure_rows(replace(one, methods=(method,)), ceilings):
                        rows[size].append(row)
                        yield line(row)
    parts = (limits(rows, s, ceilings, judged), ratios(rows, judged), of_fla(rows, s, budget, judged))
    for part in (*parts, graphs(s, sizes, budget, judged), flexes(rows, s, budget, judged), budget.closing()):
        yield ""
        yield from part


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--minutes", type=float, default=8.0, help="a step that would go beyond is left out, and named")
    parser.add_argument("--tests", action="store_true", help="also run the tests that need a GPU (minutes more)")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    lacking = None if args.dry_run else missing()
    if lacking is not None:
        print(lacking, file=sys.stderr)
        return 2
    settings, sizes = (replace(TINY, backend="triton"), (TINY.head_dim,)) if args.dry_run else (REAL, SIZES)
    held = []

    def judged(holds):
        held.append(holds)
        return "-" if args.dry_run else "yes" if holds else "NO"

    text = []
    for row in report(settings, sizes, Budget(args.minutes), judged):
        text.append(row)
        print(row, flush=True)
    passed = True
    if args.tests and not args.dry_run:
        passed, last = tested()
        text += ["", f"Tests on this GPU (`pytest tests/kernels/triton -m gpu`): {last}"]
        print(text[-1])
    if not args.dry_run:
        text += ["", f"Bars that hold: {sum(held)} of {len(held)}."]
        print(text[-1])
        args.out.write_text("\n".join(text) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
