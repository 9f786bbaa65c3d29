"""The published series that are known by name: what their columns mean, in which unit, with which traps.

Counts in a period (BurstGPT an hour, NASA a minute, tweets five minutes, taxi half an hour) become rates per second, so
that a coarser step keeps their meaning. Times without a zone are taken as UTC.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from forecasting.panel import FloatArray, Panel
from forecasting.windows import DAY_S
from simulator.traces.table import Table
from simulator.traces.wide import SourceColumn, WideSource

__all__ = ["FISHER_RAW", "SOURCES"]

_ALIBABA = "https://github.com/alibaba/clusterdata"
_STUDY = "unclear (README: free for research or study)"
_HURRICANE_S = (807_303_180.0, 807_438_960.0)  # first and past-last minute of the zeros, 1995-08-01 14:53 -04:00 on


def _fisher_cpu_rate(values: FloatArray, panel: Panel) -> tuple[FloatArray, tuple[str, ...]]:
    """The cumulative CPU time as cores used, without the source's daily excursion.

    About once a day the counter jumps up by a day's use (mostly at midnight) and steps back by as much in the evening.
    Neither is use of the CPU, and the step back is no restart: both become absent. The jump is the largest rise
    since the step back before, if it is at midnight or at least half as large as the step back.
    """
    out = values.copy()
    at = panel.position(FISHER_CPU)
    rise = np.full(len(out), np.nan)
    rise[1:] = np.diff(values[:, at])
    back = np.flatnonzero(rise < 0)
    jumps = []
    for before, here in zip([0, *back], back, strict=False):
        between = np.nan_to_num(rise[before + 1 : here], nan=0.0)
        top = before + 1 + int(between.argmax()) if len(between) else here
        if rise[top] >= -rise[here] / 2.0 or (rise[top] > 0 and panel.times_s[top] % DAY_S == 0):
            jumps.append(top)
    rise[back] = np.nan
    rise[jumps] = np.nan
    out[:, at] = rise / panel.step_s
    edges = f"{len(back)} steps back of the counter and {len(jumps)} jumps ahead of them are absent"
    return out, (f"{FISHER_CPU} is read as cores used; {edges}",)


def _servegen_holes(table: Table) -> npt.NDArray[np.bool_]:
    """(rows,) ServeGen's windows with gap = 1, where every client is 0: a hole in the trace, not zero load."""
    return np.asarray(table.numbers(["gap"])[:, 0] == 1)


def _shutdown_is_absent(values: FloatArray, panel: Panel) -> tuple[FloatArray, tuple[str, ...]]:
    """NASA's server was shut for a hurricane, 1995-08-01 14:53 to 08-03 04:35 local time: absent."""
    shut = (panel.times_s >= _HURRICANE_S[0]) & (panel.times_s < _HURRICANE_S[1])
    if not shut.any():
        return values, ()
    out = np.where(shut[:, None], np.nan, values)
    return out, (f"{int(shut.sum())} minutes of the hurricane shutdown (1995-08-01 14:53 to 08-03 04:35) are absent",)


def _most_varying(panel: Panel) -> str:
    """DLRM's service and role whose number of instances varies most (standard deviation)."""
    size = np.nanmax(np.abs(panel.values), axis=0, initial=1.0)  # squares of large numbers would overflow
    with np.errstate(over="ignore"):
        return panel.names[int(np.nanargmax(np.nanstd(panel.values / size, axis=0) * size))]


def _is_nasa(header: tuple[str, ...], row: tuple[str, ...], _name: str) -> bool:
    return header == ("timestamp", "requests") and bool(row) and row[0].startswith(("1995-07", "1995-08"))


def _is_dlrm(header: tuple[str, ...], _row: tuple[str, ...], _name: str) -> bool:
    return len(header) > 1 and all(re.fullmatch(r"app_\d+_[CH]N", name) for name in header[1:])


FISHER_CPU = "container_cpu_usage_seconds_total"
_FISHER = (
    SourceColumn("load", "load average", 1),
    SourceColumn("blkio.throttle.io_service_bytes_Async", "bytes", 3),
    SourceColumn("blkio.throttle.io_service_bytes_Read", "bytes", 3),
    SourceColumn(FISHER_CPU, "cores", 2, "rate", 1e-9),
    SourceColumn("container_memory_active_file", "bytes", 2),
    SourceColumn("container_memory_hierarchical_memory_limit", "bytes", 2),
    SourceColumn("container_memory_rss", "bytes", 2),
    SourceColumn("container_network_tcp_TimeWait", "sockets", 3),
    SourceColumn("cpu.busy", "percent of a core", 2),
    SourceColumn("mem.memused", "percent", 2),
    SourceColumn("net.if.in.bytes", "bytes/s", 2, "rate"),
)


def _is_fisher(header: tuple[str, ...], _row: tuple[str, ...], _name: str) -> bool:
    return {"load", FISHER_CPU, "cpu.busy"} <= set(header)


_FISHER_META = ("unclear", "https://github.com/Floating-LY/HARMONY1")

FISHER_RAW = WideSource(
    "fisher",
    "Fisher containers, counters as recorded levels",
    *_FISHER_META,
    columns=tuple(
        replace(c, unit="nanoseconds", kind="gauge", scale=1.0) if c.name == FISHER_CPU else c for c in _FISHER
    ),
    matches=_is_fisher,
)
"""Fisher as the published evaluation protocol scores it: the cumulative CPU time is a level like any other."""

_NAB = "https://github.com/numenta/NAB"
_NAB_UNITS: tuple[tuple[str, SourceColumn], ...] = (
    ("Twitter_volume_", SourceColumn("value", "tweets/s", 1, "rate", 1 / 300)),
    ("nyc_taxi", SourceColumn("value", "passengers/s", 1, "rate", 1 / 1800)),
    ("ec2_cpu_", SourceColumn("value", "percent", 1)),
    ("rds_cpu_", SourceColumn("value", "percent", 1)),
    ("cpu_utilization_", SourceColumn("value", "percent", 1)),
    ("ec2_disk_", SourceColumn("value", "bytes", 1)),
    ("ec2_network_", SourceColumn("value", "bytes", 1)),
    ("iio_", SourceColumn("value", "bytes", 1)),
    ("elb_request_count_", SourceColumn("value", "requests/s", 1, "rate", 1 / 300)),
    ("ec2_request_latency_", SourceColumn("value", "", 1)),
    ("grok_asg_anomaly", SourceColumn("value", "", 1)),
    ("\0", SourceColumn("value", "", 1)),  # fits no name: for files read as this format because the user says so
)


def _nab_source(prefix: str, column: SourceColumn) -> WideSource:
    return WideSource(
        key="nab",
        title="Numenta Anomaly Benchmark",
        licence="MIT",
        address=_NAB,
        columns=(column,),
        matches=lambda header, _row, name: header == ("timestamp", "value") and name.startswith(prefix),
        tolerant=True,
    )


def _helios_rest(name: str) -> SourceColumn:
    return SourceColumn(name, "fraction" if "fraction" in name or "utilization" in name else "", 3)


def _gentd_rest(name: str) -> SourceColumn:
    unit = "milliseconds" if name.endswith("_ms") else "events" if name.endswith("_count") else ""
    return SourceColumn(name, unit, 3)


SOURCES: tuple[WideSource, ...] = (
    WideSource(
        "fisher",
        "Fisher containers: load and ten indicators, 10 min",
        *_FISHER_META,
        columns=_FISHER,
        matches=_is_fisher,
        clean=_fisher_cpu_rate,
    ),
    WideSource(
        "burstgpt-hourly",
        "BurstGPT requests an hour (read as requests/s)",
        "CC-BY-4.0",
        "https://github.com/HPMLL/BurstGPT",
        columns=tuple(
            SourceColumn(f"{part}_requests", "requests/s", 1, "rate", 1 / 3600)
            for part in ("conversation", "api", "all")
        ),
        matches=lambda header, _row, _name: {"conversation_requests", "api_requests"} <= set(header),
    ),
    WideSource(
        "servegen",
        "ServeGen request rate, 10 min windows",
        "Apache-2.0",
        "https://github.com/alibaba/ServeGen",
        columns=(
            SourceColumn("rate_rps", "requests/s", 1, "rate"),
            SourceColumn("active_clients", "clients", 1),
            SourceColumn("top_client_share", "fraction", 1),
            SourceColumn("client_iat_cv_rate_weighted", "", 1),
        ),
        matches=lambda header, _row, _name: {"rate_rps", "active_clients", "gap"} <= set(header),
        holes=_servegen_holes,
    ),
    WideSource(
        "nasa",
        "NASA Kennedy web server 1995, requests a minute (read as requests/s)",
        "counts without licence file; the original log may be freely redistributed",
        "https://github.com/reconfigurable-ml-pipeline/web-service-datasets",
        columns=(SourceColumn("requests", "requests/s", 1, "rate", 1 / 60),),
        matches=_is_nasa,
        clean=_shutdown_is_absent,
    ),
    *(_nab_source(prefix, column) for prefix, column in _NAB_UNITS),
    WideSource(
        "google2019",
        "Google cluster 2019, mean over a cell, 5 min",
        "BSD (packagers); Google's trace CC-BY-4.0",
        "https://github.com/alejandrofdez-us/DataCenter-Traces-Datasets",
        columns=(
            SourceColumn("cpu_util", "fraction", 1),
            SourceColumn("mem_util", "fraction", 2),
            SourceColumn("assigned_mem", "fraction", 2),
            SourceColumn("cycles_per_instruction", "cycles", 3),
        ),
        matches=lambda header, _row, _name: {"cpu_util", "assigned_mem", "cycles_per_instruction"} <= set(header),
    ),
    WideSource(
        "alibaba2018",
        "Alibaba cluster 2018, mean over machines, 30 s",
        "BSD (packagers); Alibaba's data free for research or study",
        "https://github.com/alejandrofdez-us/DataCenter-Traces-Datasets",
        columns=(
            SourceColumn("cpu_util_percent", "percent", 1),
            SourceColumn("mem_util_percent", "percent", 2),
            SourceColumn("net_in", "normalised 0-100", 3),
            SourceColumn("net_out", "normalised 0-100", 3),
            SourceColumn("disk_io_percent", "percent", 3),
        ),
        matches=lambda header, _row, _name: {"cpu_util_percent", "net_in", "disk_io_percent"} <= set(header),
    ),
    WideSource(
        "helios",
        "Helios Earth: GPUs of a virtual cluster, 1 min",
        "MIT (artefact); Helios data CC-BY-4.0",
        "https://github.com/S-Lab-System-Group/HeliosArtifact",
        columns=(
            SourceColumn("running_gpu_num", "GPUs", 1),
            SourceColumn("pending_gpu_num", "GPUs", 1),
            SourceColumn("total_gpu_num", "GPUs", 2),
            SourceColumn("idle_gpu_num", "GPUs", 2),
            SourceColumn("gpu_allocated_fraction", "fraction", 2),
            *(SourceColumn(f"{state}_job_num", "jobs", 3) for state in ("total", "running", "pending")),
            *(SourceColumn(f"{state}_gpujob_num", "jobs", 3) for state in ("running", "pending")),
        ),
        matches=lambda header, _row, _name: {"running_gpu_num", "pending_gpu_num"} <= set(header),
        rest=_helios_rest,
    ),
    WideSource(
        "gentd26",
        "GenTD26 image-generation service, totals a tick of 57 s",
        _STUDY,
        _ALIBABA + " cluster-trace-v2026-GenAI",
        columns=(
            SourceColumn("generative_qps", "requests/s (anonymised scale)", 1, "rate"),
            SourceColumn("api_qps_system", "requests/s (anonymised scale)", 1, "rate"),
            SourceColumn("queue_size_system", "requests", 2),
            SourceColumn("gpu_containers", "containers", 2),
            SourceColumn("gpu_duty_mean_pct", "percent", 2),
            SourceColumn("gpu_duty_p95_pct", "percent", 2),
            SourceColumn("gpu_busy_containers", "containers", 2),
            SourceColumn("gpu_mem_used_mean_bytes", "bytes", 2),
            SourceColumn("gpu_mem_used_sum_bytes", "bytes", 2),
            SourceColumn("host_mem_util_mean", "fraction", 2),
        ),
        matches=lambda header, _row, _name: {"generative_qps", "gpu_duty_mean_pct"} <= set(header),
        rest=_gentd_rest,
    ),
    WideSource(
        "dlrm",
        "Alibaba DLRM 2025: instances alive, a column a service and role, 10 min",
        _STUDY,
        _ALIBABA + " cluster-trace-gpu-v2025",
        columns=(),
        matches=_is_dlrm,
        rest=lambda name: SourceColumn(name, "instances", 1),
        demand=_most_varying,
    ),
)
