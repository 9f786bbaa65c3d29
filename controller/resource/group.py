"""Names of the API group, the kind and the annotations: their one home."""

from __future__ import annotations

from typing import Final

__all__ = [
    "API_VERSION",
    "CATEGORIES",
    "GROUP",
    "HPA_API_VERSION",
    "HPA_KIND",
    "KIND",
    "LIST_KIND",
    "PLURAL",
    "SCALED_OBJECT_API_VERSION",
    "SCALED_OBJECT_KIND",
    "SHORT_NAMES",
    "SINGULAR",
    "VERSION",
    "Annotation",
]

GROUP: Final = "autoscaling.harmony-autoscaler.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "GPUAutoscaler"
LIST_KIND: Final = "GPUAutoscalerList"
PLURAL: Final = "gpuautoscalers"
SINGULAR: Final = "gpuautoscaler"
SHORT_NAMES: Final = ("gpa",)
CATEGORIES: Final = ("autoscaling",)

HPA_KIND: Final = "HorizontalPodAutoscaler"
HPA_API_VERSION: Final = "autoscaling/v2"
SCALED_OBJECT_KIND: Final = "ScaledObject"
SCALED_OBJECT_API_VERSION: Final = "keda.sh/v1alpha1"


class Annotation:
    """Annotation keys (full names), grouped by who writes them."""

    # A person, on any object that HARMONY manages.
    PAUSED: Final = f"{GROUP}/paused"
    PAUSED_REPLICAS: Final = f"{GROUP}/paused-replicas"
    PAUSED_SCALE_IN: Final = f"{GROUP}/paused-scale-in"
    PAUSED_SCALE_OUT: Final = f"{GROUP}/paused-scale-out"

    # A person, on an existing HorizontalPodAutoscaler or ScaledObject.
    MANAGED: Final = f"{GROUP}/managed"
    MODE: Final = f"{GROUP}/mode"
    DEMAND_QUERY: Final = f"{GROUP}/demand-query"
    PER_REPLICA: Final = f"{GROUP}/per-replica"
    PRESET: Final = f"{GROUP}/preset"
    PRESET_MATCHERS: Final = f"{GROUP}/preset-matchers"
    EPSILON: Final = f"{GROUP}/epsilon"
    LEAD_TIME: Final = f"{GROUP}/lead-time"
    GPUS_PER_REPLICA: Final = f"{GROUP}/gpus-per-replica"
    PRICE_PER_GPU_HOUR: Final = f"{GROUP}/price-per-gpu-hour"
    PROMETHEUS_URL: Final = f"{GROUP}/prometheus-url"

    # HARMONY, on an existing HorizontalPodAutoscaler or ScaledObject.
    RECOMMENDED_REPLICAS: Final = f"{GROUP}/recommended-replicas"
    STATUS: Final = f"{GROUP}/status"
    LEARNED: Final = f"{GROUP}/learned"
    ORIGINAL_MIN_REPLICAS: Final = f"{GROUP}/original-min-replicas"
