"""Fit the replica model to real vLLM runs, and say how well it foretells runs that it has not seen.

    HARMONY_DATA=/path/to/traces python benchmarks/fit_replica.py

Reads `vllm_gpu_runs/*.csv.gz`: vLLM's own log twice a second (running and waiting requests, cache use, tokens/s) of 500
requests each on one 24 GiB GPU. Fitted by least squares of the logarithm of output tokens/s (soft L1) on the runs of
`FITTED`:

    output tokens/s = n / (a + b n) * (1 - prompt tokens/s / prefill)          n: running requests

and the size of the cache from cache use against running requests. Then each run's arrivals (what waits and runs more
than before, plus what was completed) go through the request-level world, tokens drawn with the runs' means and a
spread that is chosen on the fitted runs too, and queue and concurrency are compared. Prints the tables of
`docs/simulator.md`.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy.optimize import least_squares

from simulator.requests import RequestWorld, ServiceModel
from simulator.traces.request_trace import RequestTrace

FITTED = ("0100", "0400", "0700", "1000", "2000")
HELD_OUT = ("0200", "0500", "0800")
SLOTS = 256  # vLLM's default, and the most that ran
PROMPT, OUTPUT = 342.0, 715.0  # mean tokens of a request: tokens logged over requests
SPREADS = (0.1, 0.2, 0.3, 0.4, 0.6, 0.9)  # of the logarithm of a request's tokens: chosen on the fitted runs


@dataclass(frozen=True)
class Run:
    at_s: np.ndarray
    running: np.ndarray
    waiting: np.ndarray
    cache: np.ndarray
    prompt: np.ndarray
    output: np.ndarray
    done: np.ndarray


def read(folder: Path, name: str) -> Run:
    table = pl.read_csv(folder / f"scale{name}_500ms.csv.gz")
    columns = (
        "timestamp", "running_requests", "waiting_requests", "kv_cache_usage", "prompt_tokens_per_s",
        "output_tokens_per_s", "requests_logged",
    )  # fmt: skip
    return Run(*(table[c].to_numpy().astype(float) for c in columns))


def usable(run: Run) -> np.ndarray:
    """Rows in which the engine ran all the time and wrote something."""
    return (run.running >= 1) & (run.output > 50) & (run.prompt < 20_000) & (np.diff(run.at_s, prepend=-9.0) < 0.8)


def foretold(p: np.ndarray, run: Run, rows: np.ndarray) -> np.ndarray:
    a, b, prefill = np.exp(p)
    n = run.running[rows]
    return n / (a + b * n) * np.maximum(0.05, 1 - run.prompt[rows] / prefill)


def fit(runs: list[Run]) -> ServiceModel:
    def errors(p: np.ndarray) -> np.ndarray:
        return np.concatenate([np.log(foretold(p, r, k) / r.output[k]) for r in runs for k in [usable(r)]])

    found = least_squares(errors, np.log([0.007, 0.0004, 30_000.0]), loss="soft_l1", f_scale=0.2)
    a, b, prefill = np.exp(found.x)
    use = np.concatenate([r.cache[k] / 100 / r.running[k] for r in runs for k in [usable(r) & (r.running >= 20)]])
    held = PROMPT + OUTPUT / 2  # a running request has on average written half of its answer
    return ServiceModel(prefill, 1 / (a + b), 1 / b, SLOTS, held / float(np.median(use)))


def parameters(model: ServiceModel) -> np.ndarray:
    b = 1 / model.decode_limit_tokens_per_s
    return np.log([1 / model.decode_tokens_per_s - b, b, model.prefill_tokens_per_s])


def arrivals(run: Run) -> np.ndarray:
    """Times of arrival: spread evenly over each row's interval."""
    inside = run.running + run.waiting
    came = np.maximum(0, np.round(np.diff(inside, prepend=0.0) + run.done)).astype(int)
    before = np.concatenate([[0.0], run.at_s[:-1]])
    return np.sort(
        np.concatenate(
            [np.linspace(lo, hi, n, endpoint=False) for lo, hi, n in zip(before, run.at_s, came, strict=True)]
        )
    )


def simulated(run: Run, model: ServiceModel, spread: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Running and waiting requests at the run's times."""
    at = arrivals(run)
    rng = np.random.default_rng(seed)
    prompt, output = (
        np.maximum(1, mean * np.exp(spread * rng.standard_normal(at.size) - spread**2 / 2)) for mean in (PROMPT, OUTPUT)
    )
    world = RequestWorld(RequestTrace(at, prompt, output), model, 0.0)
    seen = [world.advance(float(t) + 1e-6, 1) for t in run.at_s]
    return np.array([s.running for s in seen]), np.array([s.queue_length for s in seen])


def main() -> None:
    folder = Path(os.environ["HARMONY_DATA"]) / "vllm_gpu_runs"
    runs = {name: read(folder, name) for name in (*FITTED, *HELD_OUT)}
    model = fit([runs[n] for n in FITTED])
    a, b, prefill = np.exp(parameters(model))
    print(
        f"step {1e3 * a:.2f} ms + {1e3 * b:.4f} ms a running request; alone {model.decode_tokens_per_s:.0f} tokens/s, "
        f"limit {model.decode_limit_tokens_per_s:.0f}; prompts {prefill:,.0f} tokens/s; "
        f"cache {model.kv_tokens:,.0f} tokens"
    )
    print("\n| running requests | rows | output tokens/s logged | the model says | error |\n|---|---:|---:|---:|---:|")
    edges = [1, 16, 32, 64, 128, 192, 257]
    rows = {n: usable(runs[n]) for n in HELD_OUT}
    n = np.concatenate([runs[k].running[rows[k]] for k in HELD_OUT])
    real = np.concatenate([runs[k].output[rows[k]] for k in HELD_OUT])
    said = np.concatenate([foretold(parameters(model), runs[k], rows[k]) for k in HELD_OUT])
    for lo, hi in itertools.pairwise(edges):
        part = (n >= lo) & (n < hi)
        x, y = np.median(real[part]), np.median(said[part])
        print(f"| {lo} to {hi - 1} | {part.sum()} | {x:,.0f} | {y:,.0f} | {100 * (y / x - 1):+.0f} % |")
    print(f"median error of a row {100 * np.median(np.abs(said / real - 1)):.0f} %")
    made = {
        (name, spread): np.median([_told(run, model, spread, seed) for seed in range(3)], axis=0)
        for name, run in runs.items() for spread in SPREADS
    }  # fmt: skip
    error = {s: sum(abs(np.log(made[n, s][0] / runs[n].running.mean())) for n in FITTED) for s in SPREADS}
    best = min(error, key=error.__getitem__)
    off = error[best] / len(FITTED)
    print(f"\nspread of tokens {best}; mean running requests of the fitted runs are off by {off:.0%}")
    print("\n| run | | mean running, logged / simulated | mean waiting | highest waiting |\n|---|---|---:|---:|---:|")
    for name, run in sorted(runs.items()):
        r, w, top = made[name, best]
        kind = "fitted" if name in FITTED else "held out"
        print(
            f"| {name} | {kind} | {run.running.mean():.0f} / {r:.0f} | {run.waiting.mean():.0f} / {w:.0f} "
            f"| {run.waiting.max():.0f} / {top:.0f} |"
        )


def _told(run: Run, model: ServiceModel, spread: float, seed: int) -> list[float]:
    running, waiting = simulated(run, model, spread, seed)
    return [running.mean(), waiting.mean(), waiting.max()]


if __name__ == "__main__":
    main()
