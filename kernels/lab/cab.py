"""What attention methods support, from which length they pay, and how they compare over many tasks.

After CAB, the Comprehensive Attention Benchmark (arXiv 2210.07661). Its four patterns are {not causal, causal} x {self,
cross}; causal cross attention sees all keys of another sequence, but its output may not depend on later queries. Its
script times a GPU without waiting for it, which is not copied.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.bench import BenchSettings, identity, inputs_of, known_methods, options_of
from kernels.dispatch import attention, attention_with_state
from kernels.errors import KernelError
from kernels.lab.clock import interleaved, peak_bytes
from kernels.lab.studies import Unit
from kernels.masks import MASKS
from kernels.registry import describe

__all__ = ["SUPPORTS", "compositional_index", "efficiency_length", "supports", "units"]

SUPPORTS = ("noncausal_self", "causal_self", "incremental", "noncausal_cross", "causal_cross")
"""The patterns; `incremental` is causal self-attention one position at a time, from a state."""
_LENGTH, _CROSS = 64, (50, 100)
_LEAK = 1e-4
_FLAT = 0.05
"""Share of the dense cost at the longest length below which its square term counts as none."""
_NOISE = 0.05
"""What a measured time must be shorter by to count as shorter."""
_TRIAL: Mapping[str, Mapping[str, Any]] = {
    "ape": {"contexts": (9, 20)},
    "block_prefix_query": {"block": 16},
    "dhsa": {"budget": 16, "local": 8, "first": 4, "block": 8},
    "elastic_window": {"alpha": 6.0, "beta": 0.1, "block": 4},
    "flexprefill": {"block": 8, "min_budget": 8, "coverage": 0.6},
    "halo": {"block": 8, "halo": 3},
    "hip": {"keys": 8, "window": 8, "sinks": 2, "block": 8, "stride": 2},
    "hyper": {"block": 8, "samples": 6, "bits": 4, "exact": 12},
    "landmark": {"block": 8, "top_k": 2},
    "masked": {"rule": MASKS["sliding_window"](6)},
    "power": {"window": 4, "sinks": 2},
    "routing": {"clusters": 3, "window": 20},
    "sliding_window": {"window": 6, "sinks": 2},
    "wersa": {"levels": 3, "features": 24},
}
"""Options by which a method is not dense at so short a length, so that the tests have something to find."""

Run = Callable[..., Tensor]


# ---- supports ---------------------------------------------------------------------------------------------------
def supports(run: Run, stateful: Callable[..., tuple[Tensor, Any]] | None = None, *, seed: int = 0) -> dict[str, str]:
    """What of `SUPPORTS` a method holds to: "yes", "no" (an output looks ahead) or "-" (it cannot be called so).

    `run(q, k, v, *, causal)` is called with float64 tensors (1, 2, L, 16); `stateful(q, k, v, *, state)` gives an
    output and the next state.
    """
    g = torch.Generator().manual_seed(seed)
    own = [torch.randn(1, 2, _LENGTH, 16, generator=g, dtype=torch.float64) for _ in range(3)]
    cross = [torch.randn(1, 2, n, 16, generator=g, dtype=torch.float64) for n in (_CROSS[0], _CROSS[1], _CROSS[1])]

    def runs(q: Tensor, k: Tensor, v: Tensor) -> bool:
        return run(q, k, v, causal=False).shape == v[:, :, :1].expand(-1, -1, q.shape[2], -1).shape

    def no_later_token() -> bool:
        return _alike(run(*own, causal=True), lambda n: run(*(x[:, :, :n] for x in own), causal=True))

    def no_later_query() -> bool:
        q, k, v = cross
        return _alike(run(q, k, v, causal=False), lambda n: run(q[:, :, :n], k, v, causal=False))

    def one_by_one() -> bool:
        if stateful is None:
            raise KernelError("it keeps no state")
        state, steps = None, []
        for at in range(_LENGTH):
            out, state = stateful(*(x[:, :, at : at + 1] for x in own), state=state)
            steps.append(out)
        return _near(torch.cat(steps, dim=2), run(*own, causal=True))

    tests: dict[str, Callable[[], bool]] = {
        "noncausal_self": lambda: runs(*own),
        "causal_self": no_later_token,
        "incremental": one_by_one,
        "noncausal_cross": lambda: runs(*cross),
        "causal_cross": no_later_query,
    }
    return {name: _verdict(tests[name]) for name in SUPPORTS}


def _verdict(test: Callable[[], bool]) -> str:
    try:
        return "yes" if test() else "no"
    except KernelError:
        return "-"


def _alike(whole: Tensor, part: Callable[[int], Tensor]) -> bool:
    """Whether the last output over the first n positions is that over all of them, for n of the second half."""
    length = whole.shape[2]
    return all(_near(part(n)[:, :, -1], whole[:, :, n - 1]) for n in range(length // 2 + 1, length + 1))


def _near(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().sum() < _LEAK)


def method_supports(method: str) -> dict[str, str]:
    """`supports` of a method of `kernels.available()`, with options that suit so short a length."""
    options: Any = _TRIAL.get(method, {})
    stateful = None
    if describe(method).stateful:
        stateful = partial(attention_with_state, method=method, **options)
    return supports(partial(attention, method=method, **options), stateful)


# ---- efficiency length ------------------------------------------------------------------------------------------
def efficiency_length(lengths: Sequence[int], dense: Sequence[float], method: Sequence[float]) -> float:
    """The length from which a method costs less than dense attention, by fits to what both cost at some lengths.

    The dense costs are fitted by a n^2 + b n + c, those of the method by d n + e without the shortest length, as in
    CAB; here by least squares of relative errors, so that short lengths count. 0 if the method costs less at every
    length, infinity if at none. The line is only for a method whose cost grows by less than half of the dense square
    term, and that square term has to be there: otherwise the answer is 0 or infinity, as measured at all lengths.
    """
    n, ours, theirs = (np.array(x, dtype=np.float64) for x in (lengths, method, dense))
    powers = np.stack([n**2, n, np.ones_like(n)], axis=1)
    a, b, c = _least_squares(powers, theirs)
    if a * n[-1] ** 2 <= _FLAT * theirs[-1] or _least_squares(powers, ours)[0] >= a / 2:
        return 0.0 if (ours < (1 - _NOISE) * theirs).all() else math.inf
    some = slice(1, None) if len(n) > 2 else slice(None)
    d, e = _least_squares(powers[some, 1:], ours[some])
    p, q, r = a, b - d, c - e
    inside = q * q - 4 * p * r
    return 0.0 if inside < 0 else max(0.0, (-q + math.sqrt(inside)) / (2 * p))


def _least_squares(terms: np.ndarray[Any, Any], cost: np.ndarray[Any, Any]) -> list[float]:
    """Coefficients with the least squares of relative errors."""
    found, *_ = np.linalg.lstsq(terms / cost[:, None], np.ones(len(cost)), rcond=None)
    return [float(x) for x in found]


# ---- compositional index ----------------------------------------------------------------------------------------
def compositional_index(
    scores: Mapping[str, Mapping[str, Mapping[str, float]]], *, lower_is_better: bool = True
) -> dict[str, float]:
    """How methods compare over many tasks: the mean over tasks of the mean over metrics of their z-scores.

    ``scores[task][metric][method]``; a z-score is the distance from the mean of the methods in their standard
    deviations, positive for the better ones. A metric in which all are alike counts 0.
    """
    methods = list(next(iter(next(iter(scores.values())).values())))
    by_task: dict[str, list[float]] = {method: [] for method in methods}
    for task, metrics in scores.items():
        zs: dict[str, list[float]] = {method: [] for method in methods}
        for metric, found in metrics.items():
            if set(found) != set(methods):
                raise KernelError(f"metric {metric!r} of {task!r} has {sorted(found)}, expected {sorted(methods)}")
            middle, spread = statistics.fmean(found.values()), statistics.pstdev(found.values())
            for method in methods:
                z = 0.0 if spread == 0 else (found[method] - middle) / spread
                zs[method].append(-z if lower_is_better else z)
        for method in methods:
            by_task[method].append(statistics.fmean(zs[method]))
    return {method: statistics.fmean(found) for method, found in by_task.items()}


# ---- the study --------------------------------------------------------------------------------------------------
def units(settings: BenchSettings, methods: Sequence[str] | None = None) -> list[Unit]:
    """A row for each method (all that can be called, if None): the truth table and the efficiency length.

    Lengths are those of the settings, at least 3; time and memory are those of a forward pass, of the method and of
    `sdpa` in turn.
    """
    lengths = tuple(sorted(settings.lengths))
    if len(lengths) < 3:
        raise KernelError(f"efficiency lengths are fitted to 3 lengths or more, not {list(lengths)}")
    chosen = known_methods() if methods is None else tuple(methods)
    found = []
    for method in chosen:
        asked = {"study": "cab", **identity(settings, lengths[-1], method), "lengths": list(lengths)}
        asked["causal"] = _causal(method)
        del asked["length"], asked["backward"]
        found.append(Unit(method, 1.0, asked, partial(_measured, method, settings, lengths)))
    return found


def _causal(method: str) -> bool:
    """Whether it is timed in causal calls: where it has any with the options that it is timed with."""
    few = torch.zeros(1, 1, 16, 8)
    options: Any = {name: x for name, x in _TRIAL.get(method, {}).items() if name == "rule"}
    try:
        attention(few, few, few, method=method, causal=True, **options)
    except KernelError:
        return False
    return True


def _measured(method: str, settings: BenchSettings, lengths: Sequence[int]) -> dict[str, Any]:
    causal, device = _causal(method), settings.device
    row: dict[str, Any] = {"supports": method_supports(method)}
    times: dict[str, list[float]] = {"sdpa": [], method: []}
    memory: dict[str, list[float]] = {"sdpa": [], method: []}
    with torch.no_grad():
        for length in lengths:
            qkv = inputs_of(settings, length, settings.dtype)
            options: Any = options_of(method, settings, length)
            runs: dict[str, Callable[[], object]] = {"sdpa": partial(attention, *qkv, causal=causal)}
            if method != "sdpa":
                runs[method] = partial(attention, *qkv, method=method, causal=causal, **options)
            for name, took in interleaved(runs, device, rounds=5, least_s=1e-3).items():
                times[name].append(took)
            for name, run in runs.items():
                memory[name].append(float(peak_bytes(run, device)))
    row |= {"ms": [1e3 * t for t in times[method]], "sdpa_ms": [1e3 * t for t in times["sdpa"]]}
    row |= {"peak_bytes": memory[method], "sdpa_peak_bytes": memory["sdpa"]}
    row["faster_from"] = _faster_from(lengths, times["sdpa"], times[method])
    for what, of in (("time", times), ("memory", memory)):
        at = math.inf if method == "sdpa" else efficiency_length(lengths, of["sdpa"], of[method])
        row[f"efficiency_length_{what}"] = None if math.isinf(at) else at
    return row


def _faster_from(lengths: Sequence[int], dense: Sequence[float], method: Sequence[float]) -> int | None:
    """The shortest measured length from which on the method is clearly faster; None if it is not at the longest."""
    found = None
    for length, a, b in zip(reversed(lengths), reversed(dense), reversed(method), strict=True):
        if b >= (1 - _NOISE) * a:
            break
        found = length
    return found
