"""The data sets that forecasts are proved on: which files, which series of them, which indicators.

The rule by which series were chosen: of each public source, the very series that the savings are measured on
(`benchmarks/savings.py`, which names them), at most five; a file with several services gives several. The demand comes
first and is what the savings count replicas for. Beside it stand the other indicators of the same service where the
source has any that are read by themselves: all of Fisher (as its published protocol has it) and Google, what waits
beside what runs on Helios, queue and GPUs of GenTD26; the others have none, or only figures made of the demand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from forecasting.base import LOOKBACK
from forecasting.errors import DataError, UsageError, suggest
from forecasting.panel import Panel

__all__ = ["ALL", "DATASETS", "DataSet", "chosen", "read_dataset"]

ALL = "all"


@dataclass(frozen=True)
class Source:
    """One series: a file below the folder of all data, its demand, and the indicators beside it; none for all."""

    file: str
    demand: str
    beside: tuple[str, ...] | None = ()


@dataclass(frozen=True)
class DataSet:
    """Series that are scored together.

    Attributes:
        name: what it is called on the command line.
        title: what it is, for people.
        series: by name.
        protocol: name in `forecasting.evaluation.PROTOCOLS`.
        lookback: rows that a forecast reads unless something else is asked for.
        raw: counters stay levels, as recorded.
    """

    name: str
    title: str
    series: Mapping[str, Source]
    protocol: str = "split"
    lookback: int = LOOKBACK
    raw: bool = False


def _each(folder: str, names: Sequence[str], suffix: str, demand: str, *beside: str) -> dict[str, Source]:
    return {name: Source(f"{folder}/{name}{suffix}.csv.gz", demand, beside) for name in names}


DATASETS: dict[str, DataSet] = {
    d.name: d
    for d in (
        DataSet(
            "fisher",
            "Fisher containers, eleven indicators, 10 min",
            {f"container{i}": Source(f"fisher/container{i}.csv.gz", "load", None) for i in (1, 2, 7, 8)},
            protocol="fisher-paper",
            lookback=72,
            raw=True,
        ),
        DataSet(
            "nasa",
            "NASA web server 1995, requests, 1 min",
            _each("web_nasa", ["jul1995", "aug1995"], "_1min", "requests"),
        ),
        DataSet(
            "google",
            "Google cluster 2019, a cell's CPU, memory, cycles, 5 min",
            {"cell": Source("cluster_google2019/usage_5min.csv.gz", "cpu_util", None)},
        ),
        DataSet(
            "servegen",
            "ServeGen, request rates of language models, 10 min",
            _each("llm_servegen", ["m-large", "m-mid"], "_rate_10min", "rate_rps"),
        ),
        DataSet(
            "helios",
            "Helios, GPUs of virtual clusters running and asked for, 1 min",
            _each(
                "gpu_helios_earth",
                ["vc8Sj", "vccaA", "vchbv", "vcvlY", "vcSoL"],
                "_1min",
                "running_gpu_num",
                "pending_gpu_num",
            ),
        ),
        DataSet(
            "gentd26",
            "GenTD26, an image-generation service, requests, queue, GPUs, 57 s",
            {
                "service": Source(
                    "gpu_gentd26/service_57s.csv.gz",
                    "generative_qps",
                    ("queue_size_system", "gpu_duty_mean_pct", "gpu_busy_containers", "gpu_mem_used_sum_bytes"),
                )
            },
        ),
        DataSet(
            "burstgpt",
            "BurstGPT, requests of chat and of all, 1 h",
            {
                part: Source("llm_burstgpt/hourly_days00-39.csv.gz", f"{part}_requests")
                for part in ("conversation", "all")
            },
        ),
        DataSet(
            "nab",
            "Numenta benchmark, taxi passengers (30 min) and tweets (5 min)",
            _each(
                "nab",
                ["nyc_taxi", "Twitter_volume_IBM", "Twitter_volume_KO", "Twitter_volume_FB", "Twitter_volume_AAPL"],
                "",
                "value",
            ),
        ),
    )
}


def chosen(names: Sequence[str]) -> list[DataSet]:
    """The data sets of these names, ``all`` for every one; `UsageError` for an unknown name."""
    for name in names:
        if name != ALL and name not in DATASETS:
            raise UsageError(f"no data set {name!r}; {suggest(name, [*DATASETS, ALL])}")
    return list(DATASETS.values()) if ALL in names else [DATASETS[name] for name in dict.fromkeys(names)]


def read_dataset(dataset: DataSet, folder: Path, only: Sequence[str] = ()) -> dict[str, Panel]:
    """Its series by name, from files below ``folder``; with ``only``, those of these names, maybe none.

    Raises `DataError` for a file that is missing (all files that are expected are named) or cannot be read.
    """
    from simulator.traces.registry import load_trace

    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected the folder of all data sets")
    wanted = {name: source for name, source in dataset.series.items() if not only or name in only}
    absent = [source.file for source in wanted.values() if not (folder / source.file).is_file()]
    if absent:
        expected = ", ".join(dict.fromkeys(source.file for source in dataset.series.values()))
        raise DataError(f"{folder / absent[0]}: no such file; {dataset.name} is read from {expected}")
    panels = {}
    for name, source in wanted.items():
        panel = load_trace(folder / source.file, demand=source.demand, raw=dataset.raw).panel
        kept = panel.names if source.beside is None else (source.demand, *source.beside)
        panels[name] = panel.select(kept).replace(name=f"{dataset.name}/{name}")
    return panels
