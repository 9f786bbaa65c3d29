"""Trace files of every format, bent in thousands of ways, and bombs: small files that ask for huge memory.

Each becomes a trace whose numbers are right (a grid of times, a demand of 0 or more), or is refused in one line.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import struct
import tempfile
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from forecasting.errors import HarmonyError
from simulator import load_trace
from simulator.traces.registry import list_traces
from tests.fuzz.tally import Tally

ROWS = 24
START_S = 1_767_571_200
SMALLEST = 2  # rows of a trace
WORDS = (
    b"", b"0", b"-1", b"1e308", b"1e-320", b"1e999", b"-1e18", b"nan", b"NaN", b"inf", b"-inf", b"null", b"None",
    b"True", b"9" * 400, b"0x10", b"1_000", b"1,5", b"1.2.3", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", "١٢".encode(),
    "\u22125".encode(), b"2026-02-30", b"9999-12-31T23:59:59Z", b"0001-01-01T00:00:00Z", b"2026-06-30T23:59:60Z",
    b"1767571200", b"1767571200000", b"1767571200000000000", b'"', b"'", b";", b"\t", b"\r", b"\n\n", b"=cmd()", b"{}",
    b"[]", b"<html>", b"time", b"timestamp",
)  # fmt: skip


def samples() -> dict[str, bytes]:
    """A good file of every format, by name."""
    times = [START_S + 60 * i for i in range(ROWS)]
    iso = [f"2026-01-05T{i // 60:02d}:{i % 60:02d}:00Z" for i in range(ROWS)]

    def csv(head: str, rows: list[list[Any]]) -> bytes:
        return (head + "\n" + "\n".join(",".join(map(str, row)) for row in rows) + "\n").encode()

    wide = [[t, 5 + i % 7, 50.5 + i, "" if i % 9 == 4 else i] for i, t in enumerate(iso)]
    long = [[t, name, i] for i, t in enumerate(iso) for name in ("rps", "gpu")]
    requests = [[13.7 * i, 100 + i, 10 + i] for i in range(ROWS)]
    azure = [[f"2023-11-16 18:{15 + i // 4}:{10 * (i % 4):02d}.6805900", 374 + i, 44] for i in range(ROWS)]
    burst = [[20 * i, "ChatGPT", 472, 18, 490, "API log"] for i in range(ROWS)]
    mooncake = "\n".join(
        json.dumps({"timestamp": 3000 * i, "input_length": 10, "output_length": 2, "hash_ids": [i]})
        for i in range(ROWS)
    )
    series = [
        {"metric": {"__name__": "queue", "pod": pod}, "values": [[t, str(i)] for i, t in enumerate(times)]}
        for pod in "ab"
    ]
    prometheus = json.dumps({"status": "success", "data": {"resultType": "matrix", "result": series}})
    fisher = "timestamp,load,container_cpu_usage_seconds_total,cpu.busy,mem.memused"
    nab = [[f"2014-02-14 {i // 12:02d}:{5 * (i % 12):02d}:00", i] for i in range(ROWS)]
    table = io.BytesIO()
    pl.DataFrame({"time": iso, "rps": np.arange(ROWS) * 1.5, "gpu": np.arange(ROWS)}).write_parquet(table)
    found = {
        "wide.csv": csv("time,rps,gpu,queue", wide),
        "semi.csv": csv("time,rps,gpu,queue", wide).replace(b",", b";"),
        "long.csv": csv("timestamp,indicator,value", long),
        "requests.csv": csv("timestamp,prompt_tokens,output_tokens", requests),
        "azure.csv": csv("TIMESTAMP,ContextTokens,GeneratedTokens", azure),
        "BurstGPT_1.csv": csv("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type", burst),
        "mooncake.jsonl": mooncake.encode(),
        "prometheus.json": prometheus.encode(),
        "container1.csv": csv(
            fisher, [[f"2018-07-24T{i // 6:02d}:{10 * (i % 6):02d}:00", 1.5, i * 1e12, 5, 29] for i in range(ROWS)]
        ),
        "hourly.csv": csv("timestamp,conversation_requests,api_requests", [[3600 * i, 36, i] for i in range(ROWS)]),
        "servegen.csv": csv(
            "timestamp,rate_rps,active_clients,gap", [[600 * i, 1.5, 3, int(i == 4)] for i in range(ROWS)]
        ),
        "ec2_cpu_utilization_1.csv": csv("timestamp,value", nab),
        "dlrm.csv": csv("timestamp,app_1_CN,app_1_HN", [[600 * i, i, 2] for i in range(ROWS)]),
        "table.parquet": table.getvalue(),
    }
    return found | {f"{name}.gz": gzip.compress(found[name]) for name in ("wide.csv", "prometheus.json")}


def run(cases: int, seed: int = 0, bombs: int = 30) -> Tally:
    """So many bent files, and bombs."""
    rng = np.random.default_rng([seed, 20])
    tally = Tally()
    good = samples()
    names = sorted(good)
    formats = [info.name for info in list_traces() if info.kind == "format"]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(cases):
            name = names[i % len(names)]
            data = good[name] if i < len(names) else _bent(good[name], name, rng)
            options: dict[str, Any] = {}
            if rng.random() < 0.15 and i >= len(names):
                options = [
                    {"format": str(rng.choice(formats))}, {"step_s": float(rng.choice([1e-9, 1, 120, 7, 1e12]))},
                    {"raw": True}, {"columns": ["rps=gpu:x:2:counter"]}, {"where": {"indicator": "rps"}},
                    {"demand": "gpu"}, {"time_column": "time"}, {"time_column": "rps"},
                ][int(rng.integers(8))]  # fmt: skip
            _load(Path(folder) / name, data, options, tally)
        for i in range(bombs):
            name, data = _bomb(i, rng)
            _load(Path(folder) / name, data, {}, tally)
    return tally


def _load(path: Path, data: bytes, options: dict[str, Any], tally: Tally) -> None:
    path.write_bytes(data)
    name = f"{path.name} {options} {data[:400]!r}"
    with tally.case(name, refusals=(HarmonyError,)):
        trace = load_trace(path, **options)
        panel = trace.panel
        demand = panel.column(trace.demand)
        seen = demand[~np.isnan(demand)]
        right = len(panel) >= SMALLEST and panel.step_s > 0 and math.isfinite(panel.step_s) and seen.size > 0
        if not (right and bool((seen >= 0).all()) and math.isfinite(panel.start_s)):
            tally.fault(name, f"{len(panel)} rows of {panel.step_s} s from {panel.start_s}, demand {demand[:5]}")
        if not bool(np.isfinite(panel.values[~np.isnan(panel.values)]).all()):
            tally.fault(name, "numbers that are infinite")
    path.unlink()


def _bent(data: bytes, name: str, rng: np.random.Generator) -> bytes:
    """One to three changes; packed files are bent inside or outside."""
    if name.endswith(".gz") and rng.random() < 0.7:
        return gzip.compress(_bent(gzip.decompress(data), name.removesuffix(".gz"), rng), 1)
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        data = _bent_once(data, name, rng)
    return data


def _bent_once(data: bytes, name: str, rng: np.random.Generator) -> bytes:
    if not data:
        return WORDS[int(rng.integers(len(WORDS)))]
    what = int(rng.integers(12))
    is_text = not name.endswith((".parquet", ".gz"))
    if what == 0:
        return data[: int(rng.integers(len(data)))]
    if what == 1:
        out = bytearray(data)
        for at in rng.integers(len(out), size=int(rng.integers(1, 6))):
            out[at] ^= 1 << int(rng.integers(8))
        return bytes(out)
    if what == 2:
        at = int(rng.integers(len(data)))
        return data[:at] + data[at:][: int(rng.integers(1, 50))] * int(rng.choice([2, 100])) + data[at:]
    if not is_text:
        at = int(rng.integers(len(data)))
        return data[:at] + bytes(rng.integers(0, 256, size=8).astype(np.uint8)) + data[at + 8 :]
    lines = data.split(b"\n")
    row = int(rng.integers(len(lines)))
    if what == 3:
        del lines[row]
    elif what == 4:
        lines.insert(row, lines[int(rng.integers(len(lines)))])
    elif what == 5:
        other = int(rng.integers(len(lines)))
        lines[row], lines[other] = lines[other], lines[row]
    else:
        sign = b"," if b"," in lines[row] else b";" if b";" in lines[row] else b":"
        cells = lines[row].split(sign)
        cell = int(rng.integers(len(cells)))
        if what == 6:
            del cells[cell]
        elif what == 7:
            cells.insert(cell, WORDS[int(rng.integers(len(WORDS)))])
        elif what == 8:
            cells[cell] = WORDS[int(rng.integers(len(WORDS)))]
        else:  # a cell of another row
            other = lines[int(rng.integers(len(lines)))].split(sign)
            cells[cell] = other[min(cell, len(other) - 1)]
        lines[row] = sign.join(cells)
    return b"\n".join(lines)


def _bomb(number: int, rng: np.random.Generator) -> tuple[str, bytes]:
    """A small file that asks for much: by a gap, by columns, by packing, by depth, by a claim of its own."""
    far = float(rng.choice([1e9, 1e12, 1e15, 1e300]))
    many = int(rng.integers(20, 60))
    head = b"timestamp," + b",".join(b"c%d" % i for i in range(many)) + b"\n"
    row = b"," + b",".join([b"1"] * many) + b"\n"
    kind = number % 15
    if kind == 0:
        return "requests.csv", b"timestamp,prompt_tokens,output_tokens\n0,1,1\n%r,1,1\n" % far
    if kind == 1:
        return "gap.csv", head + b"".join(b"%d" % t + row for t in (0, 1, 2, 3, int(min(far, 1e15))))
    if kind == 2:
        return "zeros.csv.gz", gzip.compress(b"0" * 150_000_000, 6)
    if kind == 3:
        packed = zlib.compressobj(9, zlib.DEFLATED, 31)
        return "rows.csv.gz", packed.compress(b"time,rps\n" + b"1,1\n" * 40_000_000) + packed.flush()
    if kind == 4:
        return "columns.csv", b"timestamp," + b",".join(
            b"c%d" % i for i in range(300_000)
        ) + b"\n0" + b",1" * 300_000 + b"\n"
    if kind == 5:
        return "deep.json", b"[" * 2_000_000
    if kind == 6:
        return "deeper.json", b'{"data":' * 400_000 + b"1" + b"}" * 400_000
    if kind == 7:
        values = [[START_S, "1"], [START_S + 15, "1"], [far, "1"]]
        result = [{"metric": {"__name__": "m", "pod": str(i)}, "values": values} for i in range(many)]
        return "far.json", json.dumps(
            {"status": "success", "data": {"resultType": "matrix", "result": result}}
        ).encode()
    if kind == 8:
        result = [
            {"metric": {"__name__": "m", "pod": str(i)}, "values": [[START_S + 7 * i, "1"]]} for i in range(12_000)
        ]
        return "series.json", json.dumps(
            {"status": "success", "data": {"resultType": "matrix", "result": result}}
        ).encode()
    if kind == 9:
        return "lines.jsonl", b"".join(
            b'{"timestamp": %d, "input_length": 1, "output_length": 1}\n' % t for t in (0, int(min(far, 1e15)))
        )
    if kind == 10:
        rows = b"".join(b"2026-01-05T00:%02d:00Z,n%d,1\n" % (i % 60, i) for i in range(30_000))
        return "long.csv", b"timestamp,indicator,value\n" + rows
    if kind == 11:
        table = io.BytesIO()
        pl.DataFrame(
            {"time": [0, 60, 120, int(min(far, 1e15))], **{f"c{i}": [1.0] * 4 for i in range(many)}}
        ).write_parquet(table)
        return "gap.parquet", table.getvalue()
    if kind == 12:
        table = io.BytesIO()
        pl.DataFrame(
            {"time": pl.int_range(0, 30_000_000, eager=True), "rps": pl.repeat(1.0, 30_000_000, eager=True)}
        ).write_parquet(table)
        return "rows.parquet", table.getvalue()
    if kind == 13:
        return "claim.parquet", b"PAR1" + struct.pack("<I", 2**31 - 1) * 50 + struct.pack("<I", 180) + b"PAR1"
    return "fine.csv", b"time,rps\n" + b"".join(b"%r,1\n" % (1e-9 * i) for i in range(5)) + b"%r,1\n" % far
