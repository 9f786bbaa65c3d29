"""Hours at equal realised violation, untuned, on real traces: `python benchmarks/savings.py --data FOLDER`.

Every policy runs over the whole of each trace with nothing tuned; its last 40 % are scored. Beside it stand the rules
of thumb, each tuned *in hindsight* on the scored part itself to the violation that the policy realised: HPA (default
and tuned scale-down window), last value plus margin with a hold, sliding percentiles, a fixed count; about 3,000
settings. A replica carries a twentieth of the trace's mean demand; lead 5 minutes, or one step where that is longer.

Finished runs are kept in `--cache`: an interrupted table goes on where it stopped. Writes benchmarks/savings.md (with
`--epsilon 0.05` savings_5_percent.md).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np

from forecasting.panel import Indicator, Panel
from forecasting.specialists import LeadGrid
from harmony.decision.past.portfolio import ready_of
from harmony.decision.risk import ROUND
from harmony.model.objective import Objective
from harmony.policies.base import Policy
from harmony.policies.harmony import HarmonyPolicy
from simulator.hindsight import KINDS, RULES, Curve, Yardstick, at_level, foresight, rules, yardstick
from simulator.pool import StartUp
from simulator.replaying import ReplaySettings, replay
from simulator.sweep.cells import run_figures
from simulator.sweep.running import FIGURES as SWEPT
from simulator.traces.trace import Trace

RUNS = {  # name: file, column, lead in seconds, whether zeros are gaps, first row
    "nyc_taxi": ("nab/nyc_taxi.csv.gz", "value", 1800, False, 0),
    "fisher1": ("fisher/container1.csv.gz", "load", 600, False, 0),
    "fisher2": ("fisher/container2.csv.gz", "load", 600, False, 0),
    "fisher7": ("fisher/container7.csv.gz", "load", 600, False, 0),
    "fisher8": ("fisher/container8.csv.gz", "load", 600, False, 0),
    "gentd26": ("gpu_gentd26/service_57s.csv.gz", "generative_qps", 300, False, 0),
    "servegen_m-large": ("llm_servegen/m-large_rate_10min.csv.gz", "rate_rps", 600, True, 0),
    "servegen_m-mid": ("llm_servegen/m-mid_rate_10min.csv.gz", "rate_rps", 600, True, 0),
    "burstgpt_conv": ("llm_burstgpt/hourly_days00-39.csv.gz", "conversation_requests", 3600, False, 0),
    "burstgpt_all": ("llm_burstgpt/hourly_days00-39.csv.gz", "all_requests", 3600, False, 0),
    "google2019": ("cluster_google2019/usage_5min.csv.gz", "cpu_util", 300, False, 0),
    "tweets_IBM": ("nab/Twitter_volume_IBM.csv.gz", "value", 300, False, 0),
    "tweets_KO": ("nab/Twitter_volume_KO.csv.gz", "value", 300, False, 0),
    "tweets_FB": ("nab/Twitter_volume_FB.csv.gz", "value", 300, False, 0),
    "tweets_AAPL": ("nab/Twitter_volume_AAPL.csv.gz", "value", 300, False, 0),
    "alibaba2018": ("cluster_alibaba2018/usage_30s.csv.gz", "cpu_util_percent", 300, False, 0),
    "nasa_jul": ("web_nasa/jul1995_1min.csv.gz", "requests", 300, False, 0),
    "nasa_aug": ("web_nasa/aug1995_1min.csv.gz", "requests", 300, False, 3207),
    "helios_vc8Sj": ("gpu_helios_earth/vc8Sj_1min.csv.gz", "running_gpu_num", 300, False, 0),
    "helios_vccaA": ("gpu_helios_earth/vccaA_1min.csv.gz", "running_gpu_num", 300, False, 0),
    "helios_vchbv": ("gpu_helios_earth/vchbv_1min.csv.gz", "running_gpu_num", 300, False, 0),
    "helios_vcvlY": ("gpu_helios_earth/vcvlY_1min.csv.gz", "running_gpu_num", 300, False, 0),
    "helios_vcSoL": ("gpu_helios_earth/vcSoL_1min.csv.gz", "running_gpu_num", 300, False, 0),
}
ASIDE = ("burstgpt_all",)  # no rule keeps 1 % there at a sane cost; left out of the means
OWN: dict[str, Policy] = {  # policies for this comparison alone
    "levels": HarmonyPolicy(rule="quantile", name="levels"),  # `harmony` with levels of risk instead of prices
}
POLICIES = ("harmony", "levels", "quantile", "standin")
TEST = 0.4
MEAN_REPLICAS = 20.0
NOTES = {  # by objective: what a reader should know beside the figures
    0.01: (
        "These traces were in sight while the policy was built. Six were not until it stood (containers 3, 4, 5, 6, 9 "
        "and 10 of Fisher, run once): 0.873 in the mean, 1.046 at worst, 0.81 % of the time violated in the median and "
        "0.95 % at most; the fixed level has 1.030, 1.223, 0.89 % and 1.33 % there. On the 16 other NAB series "
        "(Twitter and machines), on which an earlier version had 0.91, 1.48 at worst and 2.54 % violated at most, and "
        "whose outliers were then mended: 0.852, 1.276 at worst (Twitter CVS), 0.85 % violated in the median, "
        "1.67 % at most.",
        "`burstgpt_all` (hourly, bursts of twenty times the mean) has no sane rule: whoever keeps 1 % there pays for "
        "hundreds of replicas at rest.",
        "`levels` is `harmony` with levels of risk instead of prices, chosen by the same replay: what the price rule "
        "does is the difference. `quantile` is one fixed level with feedback, chosen by nothing.",
    ),
    0.001: (
        "With a few thousand scored steps 0.1 % is a handful of violations, on the coarse traces one or two. What was "
        "realised (0.112 % in the median) is within chance of 0.1 % on twenty traces and less on two; the fixed level "
        "realises more than chance allows on eight. Hours are not saved against a rule that was tuned in hindsight; "
        "without gentd26, where two of 577 scored steps were violated and half a violation is allowed, it is 0.986.",
        "The room that is left and how long a past is remembered were chosen on rows between 30 and 60 % of these "
        "traces. On the scored part of 20 series that had not been looked at under this objective (the other "
        "containers of Fisher and series of NAB), replayed without the first weeks' fixed level, 0.098 % was realised "
        "in the median and 0.096 % of all steps (0.111 and 0.113 % before); hours 1.03 (1.04). "
        "A series of NAB that is idle but for single bursts is not among these: 26 times the hours and more, "
        "whatever the rule.",
    ),
}


def demand_of(folder: Path, name: str) -> tuple[np.ndarray, float, float]:
    """Demand (steps,), seconds a step, lead in seconds."""
    file, column, lead, gaps, first = RUNS[name]
    with gzip.open(folder / file, "rt") as lines:
        rows = list(csv.DictReader(lines))
    times = np.array([_seconds(r["timestamp"]) for r in rows])
    values = np.array([float(r[column]) if r[column] else np.nan for r in rows])
    keep = np.concatenate([[True], np.diff(times) > 0])
    times, values = times[keep], _filled(values[keep])
    values = values[first:]
    if gaps:
        values = _filled(np.where(values == 0, np.nan, values))
    return values, float(np.median(np.diff(times))), float(lead)


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return (
            float(np.datetime64(text.replace("Z", "").removesuffix("+00:00").replace(" ", "T"), "ms").astype(float))
            / 1000
        )


def _filled(values: np.ndarray) -> np.ndarray:
    at = np.arange(values.size)
    known = ~np.isnan(values)
    return np.interp(at, at[known], values[known])


# ---- rules of thumb in hindsight -----------------------------------------------------------------------------
Kinds = dict[str, list[list[list[float]]]]
Row = dict[str, Any]  # figures of one run by name
Rows = dict[str, Row]


def marks_of(yard: Yardstick) -> Kinds:
    """By kind: of every configuration, replica-steps and violated share of its settings on the scored part."""
    known = yard.known.sum()
    return {
        kind: [
            [o.sum(axis=0).tolist(), (m.sum(axis=0) / known).tolist()]
            for o, m in zip(yard.ordered[kind], yard.missed[kind], strict=True)
        ]
        for kind in yard.ordered
    }


def curves_of(marks: Kinds) -> dict[str, list[Curve]]:
    """The same as curves, with "rival" for the best rule of thumb."""
    made = {k: [Curve(np.asarray(h), np.asarray(v)) for h, v in kinds] for k, kinds in marks.items()}
    return {**made, "rival": [c for kind in RULES for c in made[kind]]}


def hpa_changes(load: np.ndarray, grid: LeadGrid, scored_from: int) -> list[list[float]]:
    """Violated share, replica-steps and changes of the count of every setting of the HPA with its default window."""
    counts = next(counts for kind, counts in rules(load, grid, scored_from) if kind == "hpa")
    ready = ready_of(counts, grid.lead_steps)[scored_from:]
    shares = (load[scored_from:, None] - ready > ROUND).mean(axis=0)
    changes = (np.diff(counts[scored_from - 1 :], axis=0) != 0).sum(axis=0)
    return [shares.tolist(), counts[scored_from:].sum(axis=0).tolist(), changes.tolist()]


def changes_at(marks: list[list[float]], share: float) -> float:
    """Changes of the cheapest setting that violates no more than ``share``; NaN where none does."""
    shares, hours, changes = (np.asarray(m) for m in marks)
    kept = np.flatnonzero(shares <= share + 1e-12)
    return float(changes[kept[np.argmin(hours[kept])]]) if kept.size else math.nan


# ---- one run -------------------------------------------------------------------------------------------------
def measure(folder: Path, name: str, policy: str, epsilon: float, cache: Path) -> Row:
    """One policy on one trace, from the cache if it was run before."""
    kept = kept_at(cache, name, policy, epsilon)
    if kept.exists():
        row: Row = json.loads(kept.read_text())
        return row
    demand, step_s, lead_s = demand_of(folder, name)
    capacity = float(demand.mean()) / MEAN_REPLICAS
    load, grid = demand / capacity, LeadGrid(step_s, max(1, math.ceil(lead_s / step_s - 1e-9)))
    scored = slice(math.floor(load.size * (1 - TEST) + 1e-9), load.size)
    marks = cache / f"{name}-rules.json"
    if not marks.exists():
        marks.write_text(json.dumps(marks_of(yardstick(demand, capacity, grid, scored.start))))
    curves = curves_of(json.loads(marks.read_text()))
    calm = cache / f"{name}-hpa-changes.json"
    if not calm.exists():
        calm.write_text(json.dumps(hpa_changes(load, grid, scored.start)))
    panel = Panel(name=name, values=demand[:, None], indicators=(Indicator("demand"),), start_s=1.6e9, step_s=step_s)
    settings = ReplaySettings(
        replica_capacity=capacity, start_up=StartUp(lead_s), objective=Objective(epsilon=epsilon),
        test_fraction=TEST,
    )  # fmt: skip
    began = time.process_time()
    result = replay(Trace(panel, "demand"), [OWN.get(policy, policy)], settings)
    run = result.policies[policy]
    figures = run_figures(result, run)
    ordered, share = figures.ordered.sum(), figures.violated
    days = (scored.stop - scored.start) * step_s / 86_400
    row = {
        "over_oracle": float(ordered / foresight(load, grid.lead_steps)[scored].sum()),
        "violated": share,
        **{kind: float(ordered / at_level(curves[kind], share)) for kind in KINDS},
        "stated": run.stated_risk if run.stated_risk is not None else math.nan,
        "longest_min": figures.longest_min,
        "worst_hour": figures.worst_hour,
        "unserved": figures.unserved,
        "changes_per_day": figures.changes_per_day,
        "hpa_changes_per_day": changes_at(json.loads(calm.read_text()), share) / days,
        "verdict": figures.verdict,
        "cpu_s": time.process_time() - began,
    }
    kept.write_text(json.dumps(row))
    return row


def kept_at(cache: Path, name: str, policy: str, epsilon: float) -> Path:
    """Where a finished run is kept."""
    return cache / f"{name}-{policy}-{epsilon:g}.json"


# ---- the table -----------------------------------------------------------------------------------------------
FIGURES = SWEPT | {"CPU seconds, sum": ("cpu_s", "sum", 1.0)}
TOGETHER = {"most": np.nanmax, "median": np.nanmedian, "mean": np.nanmean, "sum": np.nansum}
NAMES = {"oracle": "over_oracle"}  # the same figures under older keys of the cache


def page(found: dict[str, Rows], epsilon: float, command: str) -> str:
    """The page in Markdown; a policy that was not run on a trace has no cell there."""
    policies = list(found)
    names = [n for n in RUNS if any(n in rows for rows in found.values())]
    cells = {
        n: [
            f"{found[p][n]['rival']:.3f} ({100 * found[p][n]['violated']:.2f} %)" if n in found[p] else ""
            for p in policies
        ]
        for n in names
    }
    lines = [
        f"# Hours at equal violation, objective {100 * epsilon:g} %",
        "",
        f"`{command}`, seed 0. Nothing is tuned; the last 40 % of each trace are scored.",
        "Hours over the best rule of thumb tuned in hindsight on the scored part to the same realised violation "
        "(realised violation).",
        "",
        *(line for note in NOTES.get(epsilon, ()) for line in (*textwrap.wrap(note, 120, break_on_hyphens=False), "")),
        *table(["trace", *policies], cells),
        "",
        *joint_forecast(found),
        "All traces that a policy was run on, without " + ", ".join(ASIDE) + ":",
        "",
        *table(["", *policies], summary(found)),
        "",
        "Longest violation in minutes, most of any hour that was violated, demand not served, and whether the "
        "objective's share was realised (by blocks of one lead time, at 95 %):",
        "",
        *table(["trace", *policies], {n: [felt(found[p].get(n)) for p in policies] for n in names}),
        "",
        "Changes of the desired replicas a day over those of the HPA with its default window, at its cheapest target "
        "that violates no more; and hours over that HPA's at equal violation, which is what the changes buy (without a "
        "figure no target violates as little):",
        "",
        *table(["trace", *policies], {n: [calm(found[p].get(n)) for p in policies] for n in names}),
    ]
    common = [n for n in names if all(n in rows for rows in found.values())]
    if 0 < len(common) < len(names):
        shared = {p: {n: found[p][n] for n in common} for p in policies}
        lines += ["", "The traces that all were run on:", "", *table(["", *policies], summary(shared))]
    return "\n".join(lines) + "\n"


def joint_forecast(found: dict[str, Rows]) -> list[str]:
    """What the joint forecast brings: hours of `harmony` over those of `standin`, each at its own violation; lines."""
    if not all(found.get(p) for p in ("harmony", "standin")):
        return []
    with_it, without = found["harmony"], found["standin"]
    over = {n: with_it[n]["rival"] / without[n]["rival"] for n in RUNS if n in with_it and n in without}
    usual = [ratio for n, ratio in over.items() if n not in ASIDE]
    said = (
        "What the joint forecast brings under the price rule: hours at equal violation (over the best rule of thumb, "
        "as above) of `harmony` over those of `standin`, ridge and LightGBM without it (and without rules of thumb "
        f"among its settings). In the geometric mean of {len(usual)} traces **{_geometric(usual):.3f}**, of "
        f"{len(over)} with {', '.join(ASIDE)} {_geometric(list(over.values())):.3f};"
        f" in the median {np.median(usual):.3f}."
    )
    return [
        *textwrap.wrap(said, 120, break_on_hyphens=False),
        "",
        *table(["trace", "harmony over standin"], {n: [f"{ratio:.3f}"] for n, ratio in over.items()}),
        "",
    ]


def _geometric(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(values)))) if values else math.nan


def felt(row: Row | None) -> str:
    """What people feel of a run."""
    if row is None:
        return ""
    return f"{row['longest_min']:.3g} min, {row['worst_hour']:.2f}, {100 * row['unserved']:.2f} %, {row['verdict']}"


def calm(row: Row | None) -> str:
    """A run's changes beside those of the HPA."""
    if row is None:
        return ""
    if not math.isfinite(row["hpa_changes_per_day"]):
        return f"{row['changes_per_day']:.0f} over -"
    return f"{row['changes_per_day']:.0f} over {row['hpa_changes_per_day']:.0f}, {row['hpa']:.2f} of its hours"


def summary(found: dict[str, Rows]) -> dict[str, list[str]]:
    """Title: one cell a policy."""
    kept = {p: {n: r for n, r in rows.items() if n not in ASIDE} for p, rows in found.items()}
    out = {"traces": [str(len(rows)) for rows in kept.values()]}
    for title, (key, how, unit) in FIGURES.items():
        out[title] = []
        for rows in kept.values():
            values = np.array([r[NAMES.get(key, key)] for r in rows.values()], dtype=float) * unit
            if not np.isfinite(values).any():
                out[title].append("")
                continue
            number = np.exp(np.nanmean(np.log(values))) if how == "geometric" else TOGETHER[how](values)
            out[title].append(f"{number:.3f}" if key in ("rival", "hpa", "hpa_window") else f"{number:.3g}")
    for verdict in ("as stated", "more", "less"):
        out[f"realised {verdict}, traces"] = [
            str(sum(r["verdict"] == verdict for r in rows.values())) for rows in kept.values()
        ]
    more = {
        p: [r for r in rows.values() if r["changes_per_day"] > r["hpa_changes_per_day"]] for p, rows in kept.items()
    }
    out["more changes than HPA, traces"] = [str(len(rows)) for rows in more.values()]
    out["of these, fewer hours than HPA"] = [str(sum(r["hpa"] < 1.0 for r in rows)) for rows in more.values()]
    return out


def table(head: list[str], rows: dict[str, list[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [
        "| " + " | ".join(head) + " |",
        "|---|" + "---:|" * (len(head) - 1),
        *(f"| {title} | " + " | ".join(cells) + " |" for title, cells in rows.items()),
    ]


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", type=Path, required=True, help="folder of the shared traces")
    ap.add_argument("--only", nargs="*", default=list(RUNS))
    ap.add_argument("--policies", nargs="*", default=list(POLICIES))
    ap.add_argument("--epsilon", type=float, default=0.01)
    ap.add_argument("--finished", action="store_true", help="run nothing more; only what the cache holds")
    ap.add_argument("--cache", type=Path, default=Path("out/savings"))
    ap.add_argument("--out", type=Path, help="where to write; benchmarks/savings.md at 1 %")
    args = ap.parse_args()
    if args.out is None:
        level = "" if args.epsilon == 0.01 else f"_{100 * args.epsilon:g}_percent"
        args.out = Path(__file__).with_name(f"savings{level}.md")
    args.cache.mkdir(parents=True, exist_ok=True)
    found: dict[str, Rows] = {p: {} for p in args.policies}
    for name in args.only:
        for policy in args.policies:
            if args.finished and not kept_at(args.cache, name, policy, args.epsilon).exists():
                continue
            row = found[policy][name] = measure(args.data, name, policy, args.epsilon, args.cache)
            print(
                f"{name:18s} {policy:14s} {row['rival']:.3f} x rival at {100 * row['violated']:.2f} %",
                file=sys.stderr,
                flush=True,
            )
    command = "python benchmarks/savings.py --data FOLDER" + (
        f" --epsilon {args.epsilon:g}" if args.epsilon != 0.01 else ""
    )
    if tuple(args.policies) != POLICIES:
        command += f" --policies {' '.join(args.policies)}"
    text = page(found, args.epsilon, command)
    args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
