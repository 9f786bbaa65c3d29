"""The table of `benchmarks/kernels_compiled.md`: `python -m benchmarks.kernels_compiled` (no GPU needed).

Every Triton kernel is compiled as the calls of `CASES` would launch it (B = 4, H = 16, 32,768 positions, causal) on
sm_80 and sm_90, and its registers, spills and matrix instructions are read from the machine code. By default each
kernel is compiled for one case that needs much of it; `--all` compiles it for every case. What was compiled before
comes from Triton's cache.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from kernels.engines.grid import Axis, plan_from_axes
from kernels.engines.rules import Call, Rule, full
from kernels.registry import mechanism
from kernels.triton.ahead import compiled_ahead
from kernels.triton.block_sparse import listed_attention, ruled_attention
from kernels.triton.partial import received_attention
from kernels.windows.power import power
from kernels.windows.sliding_window import sliding_window

CAPABILITIES = (80, 90)
SIZES = (64, 128)
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
PACKAGE = "kernels.triton"
SPILL_BAR = 64
"""Bytes of a thread."""
BATCH, HEADS, LENGTH = 4, 16, 32_768


@dataclass(frozen=True, slots=True)
class Row:
    """A kernel as one case launches it."""

    case: str
    kernel: str
    arch: str
    head: int
    dtype: str
    warps: int
    stages: int
    registers: int
    stack: int
    stored: int
    shared: int
    wgmma: int
    mma: int
    cp_async: int

    @property
    def spilled(self):
        return max(self.stack, self.stored)


def inputs(head, dtype):
    shape = (BATCH, HEADS, LENGTH, head)
    return [torch.empty(shape, dtype=dtype, device="meta", requires_grad=True) for _ in range(3)]


def call(heads=HEADS):
    """Lists of blocks are made of numbers, so that they are made on the CPU."""
    return Call(heads, LENGTH, LENGTH, True, torch.device("cpu"), 0)


def by_triton(method, q, k, v, **options):
    """The mechanism itself: `attention` tells the shapes of meta tensors and launches nothing."""
    return mechanism(method).triton(q, k, v, causal=True, key_mask=None, scale=q.shape[3] ** -0.5, **options)


def linear(method):
    return functools.partial(by_triton, method)


def learned_wersa(q, k, v):
    """wersa with gates that change in time, weights and a projection that want gradients."""
    gates = torch.empty(BATCH, LENGTH, 5, device="meta", requires_grad=True)
    projection = torch.empty(q.shape[3], 128, device="meta", requires_grad=True)
    return by_triton("wersa", q, k, v, gates=gates, projection=projection)


def ruled(rule, key_mask=False):
    mask = torch.empty(BATCH, LENGTH, dtype=torch.bool, device="meta") if key_mask else None
    return lambda q, k, v: ruled_attention(q, k, v, rule, call(), scale=0.1, key_mask=mask)[0]


def with_bits(q, k, v):
    """A rule without a form, each head its own, and a key mask."""
    known = sliding_window(call(), window=1024)
    return ruled(Rule(known.sees, known.spans, per_head=True), key_mask=True)(q, k, v)


def one_query(q, k, v):
    """The last query over all keys, each head by a rule of its own, and a key mask."""
    q, k, v = (x.detach() for x in (q[:, :, -1:], k, v))
    decoding = Call(HEADS, 1, LENGTH, True, torch.device("cpu"), LENGTH - 1)
    known = full(decoding)
    mask = torch.empty(BATCH, LENGTH, dtype=torch.bool, device="meta")
    rule = Rule(known.sees, known.spans, per_head=True)
    return ruled_attention(q, k, v, rule, decoding, scale=0.1, key_mask=mask)[0]


def listed(q, k, v):
    """Blocks of 64 with halos of 32 on a line, with a bias."""
    corner = torch.arange(0, LENGTH, 64)[:, None]
    keys = corner + torch.arange(-32, 96)
    axis = Axis(corner + torch.arange(64), torch.where((keys >= 0) & (keys < LENGTH), keys, -1))
    bias = torch.empty(HEADS, 64, 128, device="meta", requires_grad=True)
    plan = plan_from_axes([axis], [LENGTH])
    return listed_attention(q, k, v, plan=plan, sees=lambda h, i, j: j <= i, scale=0.1, bias=bias, offset=0)[0]


def received(q, k, v):
    lse = torch.empty(q.shape[:3], device="meta")
    return received_attention(q.detach(), k.detach(), lse, causal=True, scale=0.1)


CASES = {
    "lightning": linear("lightning"),
    "mala": linear("mala"),
    "wersa": linear("wersa"),
    "wersa, learned": learned_wersa,
    "sliding_window": ruled(sliding_window(call(), window=1024)),
    "power": ruled(power(call(), window=1024, block=64)),
    "all keys": ruled(full(call())),
    "bits": with_bits,
    "one query": one_query,
    "listed": listed,
    "received": received,
}
DEMANDING = ("mala", "wersa, learned", "bits", "one query", "listed", "received")
"""Cases that reach every kernel, with all that a case can have: features, counts, gates, masks, a bias."""


def compiled(case, head, dtype, capability, skip=()):
    """The rows of a case, forward and backward, less kernels in ``skip``; one that is launched twice alike has one."""
    with compiled_ahead(capability, skip={f"{PACKAGE}.{name}" for name in skip}) as built:
        out = CASES[case](*inputs(head, TYPES[dtype]))
        if out.requires_grad:
            out.backward(torch.empty_like(out))
    rows = []
    for made in built:
        ptx = made.ptx
        row = Row(
            case=case,
            kernel=f"{made.module.removeprefix(PACKAGE + '.')}.{made.name}",
            arch=f"sm_{capability}",
            head=head,
            dtype=dtype,
            warps=made.warps,
            stages=made.stages,
            registers=made.code.registers,
            stack=made.code.stack,
            stored=made.code.stored,
            shared=made.shared,
            wgmma=ptx.count("wgmma.mma_async"),
            mma=ptx.count("mma.sync"),
            cp_async=ptx.count("cp.async."),
        )
        if row not in rows:
            rows.append(row)
    return rows


def heading(flags=""):
    import triton

    yield "# Triton kernels as compiled for GPUs"
    yield ""
    yield f"`python -m benchmarks.kernels_compiled{flags}`, Triton {triton.__version__} and its ptxas; no GPU at hand."
    yield f"Calls of B = {BATCH}, H = {HEADS}, {LENGTH:,} positions, causal, forward and backward, as launched."
    yield "Spilled: bytes of a thread in memory for want of registers (its stack, or what it stores there if more)."
    yield "wgmma, mma and cp.async: such instructions in the assembly, each counted once however often a loop runs it."
    yield ""
    columns = "registers | spilled | shared KiB | wgmma | mma | cp.async"
    yield f"| case | kernel | arch | D | type | warps | stages | {columns} |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|---|"


def line(r):
    cells = f"{r.warps} | {r.stages} | {r.registers} | {r.spilled} | {r.shared / 1024:.0f}"
    cells += f" | {r.wgmma} | {r.mma} | {r.cp_async}"
    return f"| {r.case} | `{r.kernel}` | {r.arch} | {r.head} | {r.dtype} | {cells} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=DEMANDING)
    parser.add_argument("--all", action="store_true", help="every case in full, not each kernel for the first it is in")
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--dtypes", nargs="+", choices=TYPES, default=["bf16"])
    parser.add_argument("--capabilities", nargs="+", type=int, default=CAPABILITIES)
    parser.add_argument("--json", action="store_true", help="a line of JSON for each kernel, and no file")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    text = [] if args.json else list(heading(" --all" if args.all else ""))
    print(*text, sep="\n", end="" if args.json else "\n", flush=True)
    over = 0
    for dtype, head, capability in itertools.product(args.dtypes, args.sizes, args.capabilities):
        seen = set()
        for case in CASES if args.all else args.cases:
            rows = compiled(case, head, dtype, capability, skip=() if args.all else seen)
            seen |= {row.kernel for row in rows}
            for row in rows:
                over += row.spilled > SPILL_BAR
                text.append(json.dumps(asdict(row)) if args.json else line(row))
                print(text[-1], flush=True)
    if not args.json:
        text += ["", f"Kernels that spill more than {SPILL_BAR} bytes: {over} of {len(text) - len(list(heading()))}."]
        print(*text[-2:], sep="\n")
        args.out.write_text("\n".join(text) + "\n")
    return 0 if over == 0 or args.json else 1


if __name__ == "__main__":
    sys.exit(main())
