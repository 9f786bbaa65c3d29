"""The preset of the DCGM exporter.

DCGM exporter: etc/default-counters.csv and dcp-metrics-included.csv (3.x, 4.x). The profiling metrics (0..1) also
work under MIG and need a data-centre GPU; DCGM_FI_DEV_GPU_UTIL (percent) is always there. Without honorLabels, as in
its chart and in the GPU operator, Prometheus calls the workload's labels exported_namespace and exported_pod. Busy
GPUs cannot exceed the GPUs there are: as demand this only works with room to spare (per replica well below
gpusPerReplica), so an own request indicator is better and, being listed first, wins.
"""

from __future__ import annotations

from controller.resource.presets.base import MATCHERS, Preset, query, reporting
from forecasting.panel import Level

__all__ = ["PRESET"]

PRESET = Preset(
    "dcgm",
    (
        query(
            "busy_gpus",
            "GPUs",
            Level.DEMAND,
            f"sum(DCGM_FI_PROF_GR_ENGINE_ACTIVE{{{MATCHERS}}} or DCGM_FI_DEV_GPU_UTIL{{{MATCHERS}}} / 100)",
        ),
        query(
            "gpu_utilization",
            "1",
            Level.RESOURCE,
            f"avg(DCGM_FI_PROF_GR_ENGINE_ACTIVE{{{MATCHERS}}} or DCGM_FI_DEV_GPU_UTIL{{{MATCHERS}}} / 100)",
        ),
        query("gpu_memory_used", "bytes", Level.RESOURCE, f"sum(DCGM_FI_DEV_FB_USED{{{MATCHERS}}}) * 1048576"),
        query("tensor_active", "1", Level.SYSTEM, f"avg(DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{{{MATCHERS}}})"),
        query("memory_active", "1", Level.SYSTEM, f"avg(DCGM_FI_PROF_DRAM_ACTIVE{{{MATCHERS}}})"),
        query("power", "W", Level.SYSTEM, f"sum(DCGM_FI_DEV_POWER_USAGE{{{MATCHERS}}})"),
    ),
    demand="busy_gpus",
    service_level="gpu_utilization",
    reporting=reporting("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "DCGM_FI_DEV_GPU_UTIL", label="exported_pod"),
    per_replica=0.5,
    labels=("exported_namespace", "exported_pod"),
)
