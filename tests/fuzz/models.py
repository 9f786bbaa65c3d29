"""Model folders with valid checksums and bad content: each loads and forecasts, or is refused in one line."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from forecasting.artefact import _canonical
from forecasting.config import ModelConfig
from forecasting.forecaster import Forecaster
from forecasting.network import ForecastNet
from forecasting.panel import Indicator
from forecasting.temporal import methods
from forecasting.windows import WindowBatch
from kernels import describe
from tests.fuzz.tally import Tally

SMALL = {
    "lookback": 24, "horizon": 4, "width": 8, "heads": 2, "patch": 6, "quantiles": 4, "free": 3, "functionals": 4,
    "anchors": 2, "step_width": 8, "copula_rank": 2,
}  # fmt: skip
DEEP: Any = 1
for _ in range(3000):
    DEEP = [DEEP]
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 7, 10**6, 10**9, 10**18, 10**400, 0.5, -0.5, 1e308, "", "x", "float:nan",
    "float:inf",
    "float:x", "\ud800", "x" * 100_000, [], {}, [1, 2, 3], {"a": 1}, [[]], [None], ["x", "x"], DEEP,
)  # fmt: skip
METHODS = (*methods(), "nothing")
OPTIONS = sorted({option for name in methods() for option in describe(name).options} | {"dim"})


def run(cases: int, seed: int = 0) -> Tally:
    """So many folders."""
    rng = np.random.default_rng([seed, 23])
    torch.manual_seed(seed)
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        meta, tensors = _whole()
        for i in range(cases):
            _case(Path(folder) / "model", copy.deepcopy(meta), dict(tensors), rng, tally, i)
    return tally


def _whole() -> tuple[dict[str, Any], dict[str, Tensor]]:
    nets = [ForecastNet(ModelConfig(**SMALL), ["requests"]) for _ in range(2)]
    made = Forecaster.of_networks(nets)
    artefact = made._artefact()
    meta: dict[str, Any] = dict(artefact.meta)
    numbers = {"window_spread": 1.0, "spread": 2.0, "centre": 5.0, "low": 0.0, "high": 9.0}
    meta["stats"] = {"requests": numbers, "gpu": {**numbers, "spread": 0.0}}
    meta["widths"] = {"requests": [0.9, 1.1]}
    return json.loads(json.dumps(meta)), {name: t.clone() for name, t in artefact.tensors.items()}


def _case(
    folder: Path, meta: dict[str, Any], tensors: dict[str, Tensor], rng: np.random.Generator, tally: Tally, number: int
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    body: dict[str, Any] = {"format": "harmony-forecaster", "format_version": 1, "meta": meta}
    kind = number % 5
    name = "unchanged"
    if number == 0:
        pass
    elif kind in (0, 1):
        name = _change_values(body, rng)
    elif kind == 2:
        name = _change_tensors(tensors, rng)
    elif kind == 3:
        name = _change_settings(meta, rng)
    weights = save({n: t.contiguous() for n, t in tensors.items()})
    if kind == 4:
        name, weights = _change_bytes(weights, rng)
    body.setdefault("weights_sha256", hashlib.sha256(weights).hexdigest())
    try:
        body["sha256"] = hashlib.sha256(_canonical(body)).hexdigest()
        text = json.dumps(body)
    except (ValueError, RecursionError):
        text = '{"format": "harmony-forecaster", "format_version": 1, "meta": ' + rng.choice(
            ["[" * 100_000, '{"a":' * 50_000, "1e999", "NaN", "9" * 10_000]
        )
    (folder / "model.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    (folder / "weights.safetensors").write_bytes(weights)
    with tally.case(name):
        model = Forecaster.load(folder)
        indicators = (Indicator("requests", "1/s"), Indicator("gpu", "%", 2), Indicator("new", "", 3))
        values = np.abs(np.sin(np.arange(90.0))).reshape(1, 30, 3)
        windows = WindowBatch(values, indicators, np.array([1.8e9]), 60.0)
        made = model.predict(windows, int(rng.integers(1, 12)), samples=8)
        assert made.paths.shape[0] == 1
        assert math.isfinite(made.step_s)
        assert model.version


def _change_values(body: dict[str, Any], rng: np.random.Generator) -> str:
    """One value anywhere becomes another, leaves, or is joined by one of a wrong name."""
    holder: Any = body
    path = []
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            return "nothing"
        key = keys[int(rng.integers(len(keys)))]
        path.append(str(key))
        if isinstance(holder[key], (dict, list)) and holder[key] and rng.random() < 0.85:
            holder = holder[key]
            continue
        break
    if isinstance(holder, dict) and rng.random() < 0.15:
        del holder[key]
        return f"without {'.'.join(path)}"
    if isinstance(holder, dict) and rng.random() < 0.1:
        holder["surprise" * int(rng.integers(1, 500))] = 1
        return f"with a surprise beside {'.'.join(path)}"
    value = VALUES[int(rng.integers(len(VALUES)))]
    holder[key] = value
    return f"{'.'.join(path)} = {repr(value)[:40] if value is not DEEP else 'deep'}"


def _change_settings(meta: dict[str, Any], rng: np.random.Generator) -> str:
    """Sizes that fit together by themselves, but not with the weights; attention methods with any options."""
    model = meta["model"]
    for name in rng.choice(list(SMALL), size=2, replace=False):
        model[str(name)] = int(rng.choice([1, 2, 3, 4, 8, 16, 64, 1024, 100_000, 1_000_000]))
    if rng.random() < 0.4:
        model["temporal_attention"] = str(rng.choice(METHODS))
        option = str(rng.choice(OPTIONS))
        model["temporal_options"] = {option: VALUES[int(rng.integers(len(VALUES) - 1))]} if rng.random() < 0.7 else {}
        model["temporal_mixers"] = int(rng.choice([1, 2, 60]))
    return f"model = { ({k: model[k] for k in model if model[k] != SMALL.get(k)}) }"[:300]


def _change_tensors(tensors: dict[str, Tensor], rng: np.random.Generator) -> str:
    name = str(rng.choice(sorted(tensors)))
    old = tensors[name]
    change = str(
        rng.choice(["nan", "inf", "huge", "gone", "int", "half", "double", "empty", "flat", "more", "bool", "f8"])
    )
    if change in ("nan", "inf", "huge"):
        new = old.clone()
        new.view(-1)[0] = {"nan": math.nan, "inf": -math.inf, "huge": 3e38}[change]
        tensors[name] = new
    elif change == "gone":
        del tensors[name]
    elif change == "more":
        tensors[str(rng.choice(["net9.x", "net", "", "net0.", "net0.mix.0.norm.weight", "x" * 5000]))] = old.clone()
    elif change == "double":
        tensors[name] = old.double() * 1e300
    elif change == "empty":
        tensors[name] = torch.zeros(0, *old.shape[1:])
    elif change == "flat":
        tensors[name] = old.reshape(-1)[: max(1, old.numel() // 2)].clone()
    else:
        kinds = {"int": torch.int32, "half": torch.float16, "bool": torch.bool, "f8": torch.float8_e4m3fn}
        tensors[name] = old.to(kinds[change])
    return f"weights {name[:60]} {change}"


def _change_bytes(weights: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """The file of weights itself, under a checksum that is right."""
    size = int.from_bytes(weights[:8], "little")
    head = weights[8 : 8 + size]
    change = str(rng.choice(["cut", "length", "flip", "shape", "dtype", "offsets", "none", "text", "overlap"]))
    if change == "cut":
        return change, weights[: int(rng.integers(len(weights)))]
    if change == "length":
        return change, int(rng.choice([0, 1, 2**31, 2**62])).to_bytes(8, "little") + weights[8:]
    if change == "none":
        return change, b""
    if change == "text":
        return change, b"PK\x03\x04 not weights" * 50
    data = bytearray(head)
    if change == "flip":
        for at in rng.integers(len(data), size=4):
            data[at] ^= 1 << int(rng.integers(8))
    else:
        about = json.loads(head)
        name = str(rng.choice([n for n in about if n != "__metadata__"]))
        if change == "shape":
            about[name]["shape"] = [2**40, 2**40]
        elif change == "dtype":
            about[name]["dtype"] = str(rng.choice(["F64", "I64", "U8", "BOOL", "F8_E5M2", "X", ""]))
        elif change == "offsets":
            about[name]["data_offsets"] = [0, 2**50]
        else:
            about[name]["data_offsets"] = [0, 4]
        data = bytearray(json.dumps(about).encode())
    return change, len(data).to_bytes(8, "little") + bytes(data) + weights[8 + size :]
