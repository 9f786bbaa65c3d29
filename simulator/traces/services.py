"""What a synthetic service shows beside its demand: indicators of an LLM, a web and a batch GPU service.

Each function turns demand into the three levels of the hierarchy (1 demand, 2 resource, 3 system detail) with
first-order physics: Little's law for what runs, a fluid queue (Lindley) behind a fixed fleet, thermal lag for heat.
The couplings follow `vllm_gpu_runs` (running requests with KV-cache use: r = 0.95) and GenTD26 (request rate with GPU
duty: r = 0.93 at 57 s); they are plausible, not a model of one machine.
"""

from __future__ import annotations

import numpy as np

from forecasting.panel import FloatArray, Indicator
from simulator.traces.profiles import GeneratorOptions
from simulator.traces.signals import ar_noise, low_pass, pulses

__all__ = ["Columns", "batch_columns", "batch_jobs", "generic_columns", "llm_columns", "web_columns"]

Columns = list[tuple[Indicator, FloatArray]]


def _fluid_queue(
    rate: FloatArray, capacity: float, step_s: float, patience_s: float = 60.0
) -> tuple[FloatArray, FloatArray]:
    """(queue length at the end of each step, served rate) of a fluid queue; who would wait past the patience leaves."""
    queue = np.empty_like(rate)
    level, most = 0.0, patience_s * capacity
    for row, change in enumerate(((rate - capacity) * step_s).tolist()):
        level = min(max(level + change, 0.0), most)
        queue[row] = level
    before = np.concatenate([[0.0], queue[:-1]])
    return queue, np.minimum(rate + before / step_s, capacity)


def _totals(rng: np.random.Generator, count: FloatArray, mean: FloatArray, cv: float) -> FloatArray:
    """Sum of ``count`` independent Gamma draws per row, each with the given mean and coefficient of variation."""
    shape = np.maximum(count, 0.0) / cv**2
    return np.where(count > 0, rng.gamma(np.maximum(shape, 1e-9)) * cv**2 * mean, 0.0)


def llm_columns(
    rng: np.random.Generator, requests: FloatArray, fleet: float, step_s: float, opt: GeneratorOptions
) -> Columns:
    """Twelve indicators of an LLM service on a fixed fleet that carries ``fleet`` requests/s; (rows,) each."""
    rows = len(requests)
    rate = requests / step_s
    queue, served = _fluid_queue(rate, fleet, step_s)
    busy = served / fleet
    drift = ar_noise(rng, rows, cv=0.12, scale_s=7200.0, step_s=step_s)
    prompt = _totals(rng, requests, opt.prompt_tokens_mean * drift, opt.prompt_tokens_cv)
    output = _totals(rng, served * step_s, opt.output_tokens_mean * np.sqrt(drift), opt.output_tokens_cv)
    seconds = (0.3 + 0.02 * opt.output_tokens_mean) * (1.0 + 0.8 * busy) * np.sqrt(drift)
    running = rng.poisson(served * seconds).astype(np.float64)
    most = fleet * (0.3 + 0.02 * opt.output_tokens_mean) * 1.8
    kv_cache = np.minimum(0.9 * running / most * drift * rng.normal(1.0, 0.04, rows), 1.0)
    waiting = np.where(queue >= 0.5, queue, 0.0) + rng.poisson(0.6 * np.minimum(busy, 1.0) ** 4, rows)
    duty = np.clip(100.0 * (1.0 - np.exp(-2.2 * busy)) * rng.normal(1.0, 0.04, rows), 0.0, 100.0)
    ttft = (0.08 + opt.prompt_tokens_mean * drift / 25_000.0) * (1.0 + 1.5 * busy**3) + queue / fleet
    ttft = np.where(requests > 0, ttft * np.exp(rng.normal(0.0, 0.12, rows)), np.nan)
    gpus = max(1.0, np.ceil(fleet / opt.requests_per_gpu))
    power = (90.0 + 310.0 * duty / 100.0) * rng.normal(1.0, 0.015, rows)
    heat = 27.0 + 0.11 * low_pass(power, scale_s=240.0, step_s=step_s) + rng.normal(0.0, 0.3, rows)
    cpu = np.maximum(4.0 + 38.0 * busy + 6.0 * (ar_noise(rng, rows, cv=0.5, scale_s=900.0, step_s=step_s) - 1), 0.5)
    return [
        (Indicator("requests_per_second", "requests/s", 1, "rate"), rate),
        (Indicator("prompt_tokens_per_second", "tokens/s", 1, "rate"), prompt / step_s),
        (Indicator("output_tokens_per_second", "tokens/s", 1, "rate"), output / step_s),
        (Indicator("running_requests", "requests", 2), running),
        (Indicator("waiting_requests", "requests", 2), np.round(waiting)),
        (Indicator("kv_cache_usage", "fraction", 2), np.maximum(kv_cache, 0.0)),
        (Indicator("gpu_duty_percent", "percent", 2), duty),
        (Indicator("ttft_p95_seconds", "seconds", 3), ttft),
        (Indicator("batch_size", "requests", 3), running / gpus),
        (Indicator("gpu_power_watts", "watts", 3), power),
        (Indicator("gpu_temperature_celsius", "celsius", 3), heat),
        (Indicator("cpu_percent", "percent", 3), cpu),
    ]


def web_columns(rng: np.random.Generator, requests: FloatArray, fleet: float, step_s: float) -> Columns:
    """Seven indicators of a web service on a fixed fleet that carries ``fleet`` requests/s; (rows,) each."""
    rows = len(requests)
    rate = requests / step_s
    queue, served = _fluid_queue(rate, fleet, step_s)
    busy = served / fleet
    sent = _totals(rng, requests, np.full(rows, 21_000.0), 2.5)
    latency = 0.04 * (1.0 + 2.0 * busy**3) * np.exp(rng.normal(0.0, 0.15, rows)) + queue / fleet
    memory = 35.0 + 8.0 * low_pass(busy, scale_s=3600.0, step_s=step_s) + rng.normal(0.0, 0.2, rows)
    return [
        (Indicator("requests_per_second", "requests/s", 1, "rate"), rate),
        (Indicator("sent_bytes_per_second", "bytes/s", 1, "rate"), sent / step_s),
        (Indicator("active_connections", "connections", 2), rng.poisson(served * 1.5 + 2.0).astype(np.float64)),
        (Indicator("cpu_percent", "percent", 2), np.clip(6 + 80 * busy * rng.normal(1.0, 0.05, rows), 0.0, 100.0)),
        (Indicator("memory_percent", "percent", 2), memory),
        (Indicator("latency_p95_seconds", "seconds", 3), np.where(requests > 0, latency, np.nan)),
        (Indicator("tcp_time_wait", "sockets", 3), rng.poisson(served * 4.0).astype(np.float64)),
    ]


def batch_jobs(
    rng: np.random.Generator, edges_s: FloatArray, weight: FloatArray, opt: GeneratorOptions
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(GPUs asked for, jobs alive, jobs submitted) per row of a cluster whose jobs come as a modulated Poisson stream.

    ``weight`` (rows,) is the relative submission rate. Durations are lognormal; jobs from before the first row are
    included, so that the series starts near its stationary level.
    """
    span, step = float(edges_s[-1] - edges_s[0]), float(edges_s[1] - edges_s[0])
    sizes, odds = np.array([1.0, 2.0, 4.0, 8.0]), np.array([0.62, 0.14, 0.12, 0.12])
    longest = 3.0 * 86_400.0
    sample = np.exp(opt.job_log_mean + opt.job_log_sigma * np.linspace(-3.5, 3.5, 2001))
    density = np.exp(-(np.linspace(-3.5, 3.5, 2001) ** 2) / 2.0)
    mean_s = float((np.minimum(sample, longest) * density).sum() / density.sum())
    per_s = opt.mean / (mean_s * float(sizes @ odds))
    early = int(rng.poisson(per_s * longest))
    inside = rng.poisson(per_s * step * weight)
    begin = np.concatenate(
        [
            edges_s[0] - rng.uniform(0.0, longest, size=early),
            np.repeat(edges_s[:-1], inside) + rng.uniform(0.0, step, size=int(inside.sum())),
        ]
    )
    lasts = np.minimum(np.exp(rng.normal(opt.job_log_mean, opt.job_log_sigma, size=len(begin))), longest)
    gpus = rng.choice(sizes, size=len(begin), p=odds)
    stop = np.minimum(begin + lasts, edges_s[0] + span + step)
    alive = stop > edges_s[0]
    begin, stop, gpus = np.maximum(begin[alive], edges_s[0]), stop[alive], gpus[alive]
    # a GPU count is what stands at the end of the step: snap to the grid, as a sampler would see it
    start_row = np.ceil((begin - edges_s[0]) / step) * step + edges_s[0]
    stop_row = np.ceil((stop - edges_s[0]) / step) * step + edges_s[0]
    asked = np.round(pulses(edges_s, start_row, stop_row, gpus))
    jobs = np.round(pulses(edges_s, start_row, stop_row, np.ones_like(gpus)))
    return asked, jobs, inside.astype(np.float64)


def batch_columns(
    rng: np.random.Generator, asked: FloatArray, jobs: FloatArray, submitted: FloatArray, total: float, step_s: float
) -> Columns:
    """Seven indicators of a GPU cluster of ``total`` GPUs; demand is what the jobs ask for, running or queued."""
    rows = len(asked)
    running = np.minimum(asked, total)
    share = running / total
    efficiency = np.clip(0.55 * ar_noise(rng, rows, cv=0.15, scale_s=3600.0, step_s=step_s), 0.0, 1.0)
    duty = np.clip(100.0 * share * efficiency * rng.normal(1.0, 0.02, rows), 0.0, 100.0)
    power = total * (60.0 + 3.4 * duty) * rng.normal(1.0, 0.01, rows)
    return [
        (Indicator("requested_gpus", "GPUs", 1), asked),
        (Indicator("submitted_jobs_per_second", "jobs/s", 1, "rate"), submitted / step_s),
        (Indicator("running_gpus", "GPUs", 2), running),
        (Indicator("pending_gpus", "GPUs", 2), asked - running),
        (Indicator("alive_jobs", "jobs", 2), jobs),
        (Indicator("gpu_duty_percent", "percent", 3), duty),
        (Indicator("cluster_power_watts", "watts", 3), power),
    ]


def generic_columns(rng: np.random.Generator, level: FloatArray, step_s: float, mean: float) -> Columns:
    """Demand of a random kind and seven indicators that follow it, lead it, mirror it or have nothing to do with it."""
    rows = len(level)
    noisy = level * ar_noise(rng, rows, cv=float(rng.uniform(0.01, 0.3)), scale_s=step_s, step_s=step_s)
    kind = str(rng.choice(["load", "percent", "count"]))
    if kind == "load":
        demand = mean * low_pass(noisy, scale_s=float(rng.uniform(0.5, 6.0)) * step_s, step_s=step_s)
    elif kind == "percent":
        demand = 100.0 * noisy / (noisy + float(rng.uniform(0.3, 4.0)))
    else:
        smooth = low_pass(noisy, scale_s=float(rng.uniform(1.0, 20.0)) * step_s, step_s=step_s)
        demand = np.ceil(float(np.exp(rng.uniform(0.5, 4.5))) * smooth - 0.3)
    columns: Columns = [(Indicator(f"demand_{kind}", "", 1), np.maximum(demand, 0.0))]
    for number in range(1, 8):
        name, series = _relative_of(rng, level, step_s)
        size = float(np.exp(rng.uniform(-5.0, 15.0)))
        columns.append((Indicator(f"{name}_{number}", "", int(rng.integers(1, 4))), size * series))
    return columns


def _relative_of(rng: np.random.Generator, level: FloatArray, step_s: float) -> tuple[str, FloatArray]:
    """(kind, series) of one indicator with some relation, or none, to the demand level; (rows,), at least 0."""
    rows = len(level)
    kind = str(
        rng.choice(["follows", "leads", "mirrors", "unrelated", "nearly_constant"], p=[0.45, 0.2, 0.1, 0.15, 0.1])
    )
    noise = ar_noise(
        rng, rows, cv=float(rng.uniform(0.01, 0.4)), scale_s=float(rng.uniform(0.3, 60.0)) * step_s, step_s=step_s
    )
    if kind == "unrelated":
        return kind, noise
    if kind == "nearly_constant":
        jumps = rng.random(rows) < 3.0 / rows
        return kind, 1.0 + np.cumsum(jumps * rng.normal(0.0, 0.1, rows)) ** 2
    lag = int(rng.integers(0, 12)) * (-1 if kind == "leads" else 1)
    moved = level[np.clip(np.arange(rows) - lag, 0, rows - 1)]
    smooth = low_pass(moved, scale_s=float(rng.uniform(0.0, 10.0)) * step_s, step_s=step_s)
    bent = np.maximum(smooth, 0.0) ** float(rng.uniform(0.4, 1.6))
    if kind == "mirrors":
        bent = 1.0 / (1.0 + bent)
    return kind, float(rng.uniform(0.0, 1.0)) + bent * noise
