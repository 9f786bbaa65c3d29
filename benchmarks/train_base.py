"""Train a base model: `python benchmarks/train_base.py [--data FOLDER] [--out FOLDER] [--steps N] [--synthetic SHARE]`.

It learns from services of `simulator.traces.generate` and, with `--data`, from the first 55 % of public traces whose
licences allow it: Azure LLM 2023 (CC-BY), BurstGPT (CC-BY-4.0), Mooncake (Apache-2.0), ServeGen (Apache-2.0), Helios
(CC-BY-4.0), NAB (MIT) and Google 2019 (CC-BY-4.0). The rest of those traces, and every other trace, stay unseen. With
`--synthetic 0.6` three windows in five come from `forecasting.synthetic`. The bundled model is that of `--data` alone.

The same arguments give the same weights on the same machine, also when training goes on from a `--checkpoint`.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from forecasting.config import ModelConfig, TrainingConfig
from forecasting.features import series_stats
from forecasting.forecaster import Forecaster
from forecasting.network import ForecastNet
from forecasting.panel import Indicator, Panel
from forecasting.synthetic import synthetic_services
from forecasting.training import Examples, examples_of, train
from simulator.traces.generate import PROFILES, generate, random_panel

LEARN = 0.55
HELD_OUT = 0.1
LOOKBACKS = (144, 144, 96, 72, 48, 30)
SHORT_TOO = (144, 144, 144, 96, 72, 48, 36, 24, 12, 6)
EACH = 32  # windows of a synthetic service
CHECK_EVERY = 250
HELIOS = {
    "running_gpu_num": 1,
    "pending_gpu_num": 1,
    "running_job_num": 2,
    "pending_job_num": 2,
    "gpu_allocated_fraction": 3,
}
GOOGLE = {"cpu_util": 1, "mem_util": 2, "assigned_mem": 3, "cycles_per_instruction": 3}


def read_columns(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray], bool]:
    """(times in seconds, columns by name, whether the times are dates) of one compact trace file."""
    with gzip.open(path, "rt") as lines:
        rows = list(csv.DictReader(lines))
    dated = "T" in rows[0]["timestamp"]

    def seconds(text: str) -> float:
        if not dated:
            return float(text)
        stamp = datetime.fromisoformat(text)
        return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp()

    def number(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            return float("nan")

    names = [n for n in rows[0] if n != "timestamp"]
    times = np.array([seconds(r["timestamp"]) for r in rows])
    return times, {n: np.array([number(r[n]) for r in rows]) for n in names}, dated


def gridded(times: np.ndarray, columns: dict[str, np.ndarray], levels: dict[str, int], dated: bool, name: str) -> Panel:
    """A panel on the uniform grid of the median step; steps without a row are absent."""
    step = float(np.median(np.diff(times)))
    at = np.round((times - times[0]) / step).astype(int)
    values = np.full((at[-1] + 1, len(levels)), np.nan)
    for c, column in enumerate(levels):
        values[at, c] = columns[column]
    indicators = tuple(Indicator(f"{name}.{c}", level=v) for c, v in levels.items())
    return Panel(values, indicators, times[0], step, name=name, calendar=dated)


def counted(times: np.ndarray, extra: dict[str, np.ndarray], step: float, name: str) -> Panel:
    """Requests and tokens per step of a request log."""
    at = ((times - times[0]) // step).astype(int)
    columns = {"requests": np.bincount(at).astype(float)}
    columns |= {n: np.bincount(at, weights=x) for n, x in extra.items()}
    values = np.stack(list(columns.values()), axis=1)[:-1]
    indicators = tuple(Indicator(f"{name}.{c}", level=1 if c == "requests" else 2) for c in columns)
    return Panel(values, indicators, 0.0, step, name=name, calendar=False)


def real_panels(folder: Path) -> Iterator[Panel]:
    """The licensed traces, whole."""
    for path in sorted(folder.glob("gpu_helios_earth/*.csv.gz")):
        times, columns, dated = read_columns(path)
        yield gridded(times, columns, HELIOS, dated, path.name.split(".")[0])
    times, columns, dated = read_columns(folder / "cluster_google2019/usage_5min.csv.gz")
    yield gridded(times, columns, GOOGLE, dated, "google2019")
    for path in sorted(folder.glob("nab/*.csv.gz")):
        times, columns, dated = read_columns(path)
        yield gridded(times, columns, {"value": 1}, dated, path.name.split(".")[0])
    times, columns, dated = read_columns(folder / "llm_burstgpt/hourly_days00-39.csv.gz")
    burst = {"all_requests": 1, "conversation_requests": 1, "api_requests": 1}
    yield gridded(times, columns, burst, dated, "burstgpt")
    for log in ("llm_azure2023/code", "llm_mooncake/conversation", "llm_mooncake/synthetic"):
        path = folder / f"{log}_requests.csv.gz"
        times, columns, _ = read_columns(path)
        tokens = {n: columns[n] for n in ("prompt_tokens", "output_tokens")}
        for step in (5.0, 15.0):
            yield counted(times, tokens, step, log.replace("/", "."))
    yield from servegen(folder / "llm_servegen")


def servegen(folder: Path) -> Iterator[Panel]:
    """Rates of whole models and of their larger clients."""
    for model in ("m-large", "m-mid", "deepseek-r1"):
        times, columns, dated = read_columns(folder / f"{model}_rate_10min.csv.gz")
        yield gridded(times, columns, {"rate_rps": 1, "active_clients": 2}, dated, f"servegen.{model}")
        span = times[-1]
        times, columns, dated = read_columns(folder / f"{model}_clients_10min.csv.gz")
        for client in np.unique(columns["client_id"])[:40]:
            mine = columns["client_id"] == client
            if mine.sum() < 0.25 * span / 600:
                continue
            at = np.round(times[mine] / 600).astype(int)
            values = np.zeros((round(span / 600) + 1, 1))
            values[at[at < len(values)], 0] = columns["rate_rps"][mine][at < len(values)]
            yield Panel(values, (Indicator("rate"),), 0.0, 600.0, name=f"servegen.{model}.{client:.0f}", calendar=False)


def coarser(panel: Panel, rng: np.random.Generator, tries: int) -> Iterator[Panel]:
    """The panel and some coarser versions of it, long enough to learn from."""
    yield panel
    for factor in rng.permutation([2, 3, 5, 6, 10, 15, 30, 60])[:tries]:
        if panel.step_s * factor <= 3600 and len(panel) // factor > 250:
            yield panel.coarsened(int(factor))


def known_panels(data: Path | None, count: int, seed: int) -> Iterator[tuple[Panel, int]]:
    """(panel, windows to take): of `simulator.traces.generate`, and the first 55 % of real ones."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        yield random_panel(1000 + number), 48
    for profile in PROFILES:
        for number, step in enumerate((15.0, 30.0, 60.0, 300.0, 900.0)):
            days = min(60.0, 6000 * step / 86_400)
            yield generate(profile=profile, days=days, step_s=step, seed=100 + number), 64
    if data is None:
        return
    for whole in real_panels(data):
        panel = whole.rows(0, int(LEARN * len(whole)))
        share = 0.5 if panel.name.startswith(("vc", "servegen.m-mid.", "servegen.m-large.")) else 1.0
        for version in coarser(panel, rng, 3 if len(panel) > 3000 else 1):
            yield version, round(160 * share)


def gather(
    config: ModelConfig,
    panels: Iterable[tuple[Panel, int]],
    rng: np.random.Generator,
    held_out: float,
    lookbacks: Sequence[int] = LOOKBACKS,
) -> tuple[list[Examples], list[Examples]]:
    """Learning and validation examples; whole stretches at the end of every panel are held out."""
    learn, judge = [], []
    for panel, count in panels:
        lookback = int(rng.choice(lookbacks))
        horizon = config.horizon
        cut = round((1 - held_out) * len(panel))
        if cut < lookback + 2 * horizon:
            continue
        known = series_stats([panel.rows(0, cut)], lookback)
        stats = known if rng.random() < 0.4 else {}
        common = {"lookback": lookback, "horizon": horizon, "stats": stats}
        learn.append(examples_of(panel.rows(0, cut), config, limit=count, **common))
        late = panel.rows(max(0, cut - 2016), len(panel))
        first = cut - max(0, cut - 2016) + horizon
        judge.append(examples_of(late, config, limit=max(2, count // 16), first=first, **common))
    return [e for e in learn if e], [e for e in judge if e]


def synthetic_examples(
    config: ModelConfig, windows: int, seed: int, held_out: float, lookbacks: Sequence[int]
) -> tuple[list[Examples], list[Examples]]:
    """Examples of about so many windows of synthetic services, `EACH` a service."""
    services = synthetic_services(seed, round(windows / EACH))
    panels = ((service.panel, EACH) for service in services)
    return gather(config, panels, np.random.default_rng(seed + 1), held_out, lookbacks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, help="folder of the shared traces")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "forecasting/models/base")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--panels", type=int, default=500, help="services of the simulator's generator")
    parser.add_argument(
        "--synthetic", type=float, default=0.0, metavar="SHARE",
        help="share of the windows, 0 to 0.95, that comes from synthetic services",
    )  # fmt: skip
    parser.add_argument("--short", action="store_true", help="some windows are as short as 6 rows, not 30 at least")
    parser.add_argument("--start", default=None, metavar="MODEL", help="go on from this model instead of from scratch")
    parser.add_argument("--rate", type=float, default=2e-3, help="peak of the learning rate")
    parser.add_argument("--checkpoint", type=Path, default=None, help="file to go on from after an interruption")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not 0 <= args.synthetic <= 0.95:
        parser.error(f"--synthetic {args.synthetic}: expected a share of 0 to 0.95")
    torch.set_num_threads(1)
    start = None if args.start is None else Forecaster.load(args.start)
    model = ModelConfig(lookback=144, horizon=24, dropout=0.05) if start is None else start.config
    training = TrainingConfig(
        steps=args.steps, batch=16, batches_per_step=4, learning_rate=args.rate, warm_up=200, averaging=0.998,
        check_every=CHECK_EVERY, patience=100, hide_seasons=0.3, weight_decay=0.01,
    )  # fmt: skip
    rng = np.random.default_rng(args.seed)
    began = time.process_time()
    lookbacks = SHORT_TOO if args.short else LOOKBACKS
    learn, judge = gather(model, known_panels(args.data, args.panels, args.seed), rng, HELD_OUT, lookbacks)
    if args.short or args.synthetic:
        judge = judge[::4]  # a look at all of them takes as long as 200 steps
    windows = sum(len(e) for e in learn)
    told(f"{len(learn)} panels, {windows} windows", began)
    if args.synthetic:
        wanted = round(windows * args.synthetic / (1 - args.synthetic))
        more, judged = synthetic_examples(model, wanted, args.seed, HELD_OUT, lookbacks)
        learn, judge = [*learn, *more], [*judge, *judged[::6]]
        told(f"{len(more)} synthetic services, {sum(len(e) for e in more)} windows", began)
    torch.manual_seed(args.seed)
    net = ForecastNet(model) if start is None else start.networks[0]
    print(sum(p.numel() for p in net.parameters()), "weights", flush=True)

    def show(step: int, scores: tuple[float, float, float, float]) -> None:
        loss, nll, copula, crps = scores
        told(f"{step} loss {loss:.4f} nll {nll:.4f} copula {copula:.4f} crps {crps:.4f}", began)

    fitted = train(
        net, learn, judge, training, seed=args.seed, keep_start=start is not None, on_check=show,
        checkpoint=args.checkpoint,
    )  # fmt: skip
    made = Forecaster.of_networks([fitted.net])
    print("wrote", made.save(args.out), "version", made.version, "of step", fitted.steps)


def told(text: str, began: float) -> None:
    """Print what has been done, and the processor seconds that it has taken."""
    print(f"{text}, {time.process_time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
