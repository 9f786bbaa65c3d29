"""How long attention takes on this device: a model of compute and memory access, fitted to a few short runs.

After Kinetics (arXiv 2506.05333), which adds the time of products to that of bytes moved, as the two do not overlap
fully. The seconds of a call are here a sum with coefficients of at least 0 of what it computes and moves (`terms`): a
call at all, the FLOPs of products, the inputs and the output (bytes), scores on their way from one product to the next
(bytes), and rows, for what is done piece by piece. A coefficient is the inverse of a rate that this implementation
reaches on this device, found by least squares of the relative error over a calibration of short calls.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

from kernels.errors import KernelError
from kernels.lab.clock import interleaved
from kernels.lab.rows import machine

__all__ = ["TERMS", "Fit", "Fits", "Shape", "fit", "fits", "keep_fits_in", "terms"]

TERMS = ("calls", "flops", "bytes", "score_bytes", "rows")


@dataclass(frozen=True, slots=True)
class Shape:
    """The shapes of one call: q (batch, heads, lq, d), k (batch, heads, lk, d), v (batch, heads, lk, dv)."""

    batch: int
    heads: int
    lq: int
    lk: int
    d: int
    dv: int
    itemsize: int = 4

    @property
    def input_bytes(self) -> int:
        """Of q, k and v."""
        return self.itemsize * self.batch * self.heads * (self.lq * self.d + self.lk * (self.d + self.dv))

    def pairs(self, *, causal: bool) -> float:
        """Visible (query, key) pairs of all heads, without further masks; the last query sees all keys."""
        if not causal:
            return float(self.batch * self.heads * self.lq * self.lk)
        # Row i sees i + lk - lq + 1 keys, and none if that is negative.
        rows, most = min(self.lq, self.lk), self.lk
        return self.batch * self.heads * rows * (2 * most - rows + 1) / 2


def terms(shape: Shape, scores: float, state_flops: float = 0.0) -> tuple[float, ...]:
    """What a call that makes so many ``scores`` computes and moves, in the order of `TERMS`."""
    s = shape
    out_bytes = s.itemsize * s.batch * s.heads * s.lq * s.dv
    flops = 2.0 * scores * (s.d + s.dv) + state_flops
    return (1.0, flops, float(s.input_bytes + out_bytes), 4.0 * scores, float(s.lq))


@dataclass(frozen=True, slots=True)
class Fit:
    """Seconds for each unit of `TERMS`, and the median relative error over the calibration itself."""

    coefficients: tuple[float, ...]
    error: float

    def seconds(self, of: Sequence[float]) -> float:
        """Predicted seconds of a call with these `terms`."""
        return math.fsum(c * x for c, x in zip(self.coefficients, of, strict=True))

    def rates(self) -> dict[str, float]:
        """Units per second of the terms that take time."""
        return {name: 1 / c for name, c in zip(TERMS, self.coefficients, strict=True) if c > 0}


def fit(points: Sequence[tuple[Sequence[float], float]]) -> Fit:
    """The coefficients for (terms, seconds) of some calls with the least squares of relative errors."""
    a = np.array([of for of, _ in points], dtype=np.float64)
    t = np.array([took for _, took in points], dtype=np.float64)
    if not (t > 0).all():
        raise KernelError(f"times are {t.tolist()}, expected more than 0")
    relative = a / t[:, None]
    size = np.abs(relative).max(axis=0)
    size[size == 0] = 1.0
    found, _ = nnls(relative / size, np.ones(len(t)))
    coefficients = tuple(float(c) for c in found / size)
    errors = np.abs(a @ coefficients / t - 1.0)
    return Fit(coefficients, float(np.median(errors)))


class Fits:
    """Fits by what they are of; made when they are first wanted, and kept in memory and, with a path, in a file.

    Fits of a file from another machine or version of PyTorch are not used, and stay in it.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.remembered: dict[Any, Any] = {}
        """What was concluded from the fits, by what was asked."""
        self._found: dict[str, Fit] = {}
        if path is not None and path.exists():
            self._found = {key: Fit(tuple(x["coefficients"]), float(x["error"])) for key, x in _read(path).items()}
        self._kept = set(self._found)

    def of(
        self,
        what: str,
        device: str,
        calibration: Callable[[], Mapping[Sequence[float], Callable[[], object]]],
        *,
        kept: bool = True,
    ) -> Fit:
        """The fit of ``what`` on a device; ``calibration`` makes the calls to time, by their terms, if there is none.

        The number of threads is part of what a fit is of. One that is not to be ``kept`` stays in memory.
        """
        key = f"{what}, {torch.get_num_threads()} threads, {machine(device)}"
        if key not in self._found:
            took = interleaved(calibration(), device, rounds=5, least_s=5e-4)
            self._found[key] = fit(list(took.items()))
            if kept:
                self._kept.add(key)
            if self.path is not None and kept:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                text = json.dumps({key: asdict(self._found[key]) for key in sorted(self._kept)}, indent=1)
                self.path.write_text(text + "\n", encoding="utf-8")
        return self._found[key]

    def all(self) -> dict[str, Fit]:
        """What was fitted or read, by what it is of."""
        return dict(self._found)


_CURRENT = Fits()


def fits() -> Fits:
    """The fits that `attention(..., method="auto")` and `harmony bench kernels` go by."""
    return _CURRENT


def keep_fits_in(path: Path | str | None) -> Fits:
    """From now on go by the fits of a file and add to it; None is memory alone, and forgets.

    Raises:
        KernelError: for a file that holds something else.
    """
    global _CURRENT
    _CURRENT = Fits(None if path is None else Path(path))
    return _CURRENT


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The fits in a file, not yet checked one by one."""
    wrong = KernelError(f"{path} holds no fits; expected a file that keep_fits_in wrote, or a new name")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise wrong from error
    whole = isinstance(found, dict) and all(
        isinstance(x, dict) and isinstance(x.get("error"), float) and _numbers(x.get("coefficients"))
        for x in found.values()
    )
    if not whole:
        raise wrong
    return dict(found)


def _numbers(x: object) -> bool:
    return isinstance(x, list) and len(x) == len(TERMS) and all(isinstance(c, float) and c >= 0 for c in x)
