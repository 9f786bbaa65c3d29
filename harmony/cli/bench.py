"""`harmony bench`: what this machine reaches."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kernels.bench import BenchRow, BenchSettings, Ceilings
    from kernels.lab.rows import RowFile

__all__ = ["bench_app"]

_TYPES = ("float32", "float64", "bfloat16", "float16")
_DEVICES = ("cpu", "cuda")
_LENGTHS = {"speed": "1024,4096,16384", "cab": "256,512,1024,2048,4096", "masks": "1024,4096"}
"""The studies, and the lengths that each takes by itself."""

bench_app = typer.Typer(name="bench", help="Measure what this machine reaches.", no_args_is_help=True)


@bench_app.callback()
def _bench() -> None:
    """Measure what this machine reaches."""


@bench_app.command("kernels")
def kernels(
    study: Annotated[
        str,
        typer.Option(
            help="speed; cab: what each method supports and from which length it is faster than dense attention; "
            "masks: the twelve masks of LongCA-bench."
        ),
    ] = "speed",
    methods: Annotated[
        str | None,
        typer.Option(
            help="Attention methods, with commas between; all windowed and linear ones if left out, for cab all."
        ),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            help="Sequence lengths, with commas between; 1024,4096,16384 if left out, for cab 256 to 4096, for masks "
            "1024,4096."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    batch: Annotated[int, typer.Option(min=1, help="Sequences.")] = 1,
    heads: Annotated[int, typer.Option(min=1, help="Heads.")] = 4,
    kv_heads: Annotated[
        int | None, typer.Option(min=1, help="Heads of keys and values (GQA); as many as of queries if left out.")
    ] = None,
    head_dim: Annotated[int, typer.Option(min=1, help="Size of a head.")] = 64,
    causal: Annotated[bool, typer.Option(help="Hide the keys after a query.")] = True,
    window: Annotated[int, typer.Option(min=1, help="Keys near a query, for windowed methods.")] = 256,
    power_block: Annotated[int, typer.Option(min=1, help="Side of the blocks of power; 1 is by tokens.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads on a CPU; PyTorch's choice if left out.")] = None,
    backward: Annotated[bool, typer.Option(help="Measure the backward pass too.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the inputs.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="File that rows are appended to as they are measured (JSON lines); what is in it is kept."),
    ] = None,
    predict: Annotated[bool, typer.Option(help="Predict each time by the cost model of this device, too.")] = True,
    fits: Annotated[
        Path | None,
        typer.Option(help="File of the cost model, made if it is not there; without one it is fitted anew each time."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Time, memory, achieved rates and error of attention methods, beside PyTorch's dense one in the same run.

    A row is printed as soon as it is measured. With --out it is appended to a file too; the same command then goes on
    where it was stopped, and rows of the same settings are not measured again.

    Examples:
    `harmony bench kernels --methods sliding_window,mala --lengths 4096,16384 --threads 2`

    `harmony bench kernels --heads 32 --kv-heads 4 --no-backward`

    `harmony bench kernels --lengths 1024,4096,16384 --out kernels.jsonl`

    `harmony bench kernels --study cab --out cab.jsonl`

    `harmony bench kernels --device cuda --dtype bfloat16 --json`
    """
    # PyTorch's record of allocations announces itself on stderr otherwise; it reads this when it is imported.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    import torch

    from forecasting.errors import UsageError
    from kernels import KernelError
    from kernels.bench import DEFAULT_METHODS, BenchSettings, check_causal
    from kernels.lab.kinetics import keep_fits_in
    from kernels.lab.rows import RowFile

    if _one_of("device", device, _DEVICES) == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device is cuda but PyTorch finds no such device here; expected cpu")
    settings = BenchSettings(
        methods=DEFAULT_METHODS if methods is None else _methods(methods),
        lengths=_lengths(_LENGTHS[_one_of("study", study, tuple(_LENGTHS))] if lengths is None else lengths),
        device=device,
        dtype=getattr(torch, _one_of("dtype", dtype, _TYPES)),
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        causal=causal,
        window=window,
        power_block=power_block,
        backward=backward,
        seed=seed,
        predict=predict,
    )
    if kv_heads is not None and heads % kv_heads and kv_heads % heads:
        raise UsageError(f"--kv-heads is {kv_heads}; expected a number that divides the {heads} --heads")
    _check_memory(batch * heads * max(settings.lengths) * head_dim)
    before = torch.get_num_threads()
    torch.set_num_threads(before if threads is None else threads)
    try:
        keep_fits_in(fits)
        if study == "speed":
            check_causal(settings.methods, causal)
            _speed(settings, RowFile(out), as_json)
        else:
            _study(study, settings, None if methods is None else settings.methods, RowFile(out), as_json)
    except KernelError as error:
        raise UsageError(str(error)) from error
    except torch.OutOfMemoryError as error:
        raise UsageError(f"not enough memory on {device}: {str(error).splitlines()[0]}") from error
    except KeyboardInterrupt:
        if out is None:
            raise
        print(f"harmony: interrupted; what was measured is in {out}, and the same command goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    finally:
        torch.set_num_threads(before)


def _speed(settings: BenchSettings, file: RowFile, as_json: bool) -> None:
    """The table of `BenchRow`s, a line as soon as it is known; or all of them as JSON."""
    from harmony.cli.showing import progress
    from kernels.bench import Ceilings, identity, measure_ceilings, measure_rows, planned

    # What a large product and a large copy reach does not depend on methods and shapes.
    asked = {name: identity(settings, 0, "")[name] for name in ("dtype", "device", "threads", "machine")}
    asked["study"] = "ceilings"
    reached = file.kept(asked)
    if reached is None:
        reached = asked | dataclasses.asdict(measure_ceilings(settings))
        file.append(reached)
    ceilings = Ceilings(**{field.name: reached[field.name] for field in dataclasses.fields(Ceilings)})
    rows = planned(settings)
    weights = [length for length, _ in rows]
    found: list[BenchRow] = []
    if not as_json:
        print("\n".join(heading(settings, ceilings)), flush=True)
    with progress("bench", estimate=True) as report:
        report(f"{rows[0][1]} at {rows[0][0]:,}", 0, sum(weights))
        for row in measure_rows(settings, ceilings, lambda asked: file.kept({"study": "speed", **asked})):
            found.append(row)
            line_of = {"study": "speed", **row.to_json()}
            if file.kept(line_of) is None:
                file.append(line_of)
            if not as_json:
                print(line(row), flush=True)
            done = len(found)
            if done < len(rows):
                report(f"{rows[done][1]} at {rows[done][0]:,}", sum(weights[:done]), sum(weights))
    if as_json:
        print(json.dumps([row.to_json() for row in found], indent=2, allow_nan=False))


def _study(study: str, settings: BenchSettings, methods: tuple[str, ...] | None, file: RowFile, as_json: bool) -> None:
    """The table of another study, a line as soon as it is known; or all rows as JSON."""
    from harmony.cli.bench_tables import TABLES
    from harmony.cli.showing import progress
    from kernels.lab import cab, masks
    from kernels.lab.studies import rows_of

    units = cab.units(settings, methods) if study == "cab" else masks.units(settings)
    table = TABLES[study]
    found = []
    if not as_json:
        print("\n".join([where(settings), "", *table.head]), flush=True)
    with progress(study, estimate=True) as report:
        for row in rows_of(units, file, report):
            found.append(row)
            if not as_json:
                print("\n".join(table.lines(row)), flush=True)
    if as_json:
        print(json.dumps(found, indent=2, allow_nan=False))


def _check_memory(numbers: int) -> None:
    """Raise `UsageError` if the inputs and the output of a call, of ``numbers`` each, exceed the memory here."""
    from forecasting.errors import UsageError

    held = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if 4 * 4 * numbers > held:
        raise UsageError(
            f"inputs and output would take {4 * 4 * numbers / 1e9:,.0f} GB of {held / 1e9:,.0f} GB here; "
            "expected smaller --lengths, --batch, --heads or --head-dim"
        )


def where(settings: BenchSettings) -> str:
    """What was measured, and on what."""
    import torch

    s = settings
    at = f"{s.device}, {torch.get_num_threads()} threads" if s.device == "cpu" else s.device
    dtype = str(s.dtype).removeprefix("torch.")
    shared = "" if s.kv_heads is None else f" ({s.kv_heads} of keys)"
    return f"{at}, {dtype}, batch {s.batch}, {s.heads} heads of {s.head_dim}{shared}, window {s.window}"


def heading(settings: BenchSettings, ceilings: Ceilings) -> list[str]:
    """What was measured, and the head of a Markdown table of `line`s."""
    product, copy = ceilings.flops_per_s / 1e9, ceilings.bytes_per_s / 1e9
    return [
        f"{where(settings)}, {'causal' if settings.causal else 'not causal'}; "
        f"a matrix product reaches {product:,.0f} GFLOP/s, a copy {copy:,.1f} GB/s",
        "",
        "| method | length | forward ms | predicted ms | backward ms | faster than SDPA | peak MB | of inputs "
        "| GFLOP/s | of ceiling | GB/s | of ceiling | error |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]


def line(row: BenchRow) -> str:
    """One row of the table; a dash is what was not measured."""
    back = "-" if row.backward_ms is None else f"{row.backward_ms:,.1f}"
    ratio = "-" if row.times_faster_than_sdpa is None else f"{row.times_faster_than_sdpa:.1f} x"
    cells = (
        f"`{row.method}`",
        f"{row.length:,}",
        f"{row.forward_ms:,.1f}",
        "-" if row.predicted_ms is None else f"{row.predicted_ms:,.1f}",
        back,
        ratio,
        f"{row.peak_bytes / 1e6:,.1f}",
        f"{row.peak_bytes / row.input_bytes:.2f} x",
        f"{row.flops_per_s / 1e9:,.0f}",
        f"{row.flops_of_ceiling:.0%}",
        f"{row.bytes_per_s / 1e9:,.2f}",
        f"{row.bytes_of_ceiling:.0%}",
        f"{row.rel_error:.1e}",
    )
    return f"| {' | '.join(cells)} |"


def _methods(text: str) -> tuple[str, ...]:
    """The methods in ``text``; `UsageError` naming near ones for the first that is none."""
    from forecasting.errors import UsageError, suggest
    from kernels.bench import known_methods

    known = known_methods()
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise UsageError(f"--methods is empty; known: {', '.join(known)}")
    for name in names:
        if name not in known:
            raise UsageError(f"no attention method {name!r} to measure; {suggest(name, known)}")
    return names


def _lengths(text: str) -> tuple[int, ...]:
    """The lengths in ``text``; `UsageError` for what is none."""
    from forecasting.errors import UsageError

    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--lengths is {text!r}; expected whole numbers of at least 1, such as 1024,16384")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _one_of(option: str, given: str, known: tuple[str, ...]) -> str:
    """``given`` if it is known, else `UsageError`."""
    from forecasting.errors import UsageError, suggest

    if given not in known:
        raise UsageError(f"--{option} is {given!r}; {suggest(given, known)}")
    return given
