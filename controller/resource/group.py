"""Names of the API group, the kind and the annotations: their one home."""

from __future__ import annotations

from typing import Final

__all__ = [
    "ANNOTATION_MEANINGS",
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


USER, OPT_IN, OURS = "any managed object", "HorizontalPodAutoscaler or ScaledObject", "written by HARMONY"

# Where each annotation belongs and what it means; documentation is made of this.
ANNOTATION_MEANINGS: dict[str, tuple[str, str]] = {
    Annotation.PAUSED: (USER, 'hold the replica count; any value but "false" counts as true'),
    Annotation.PAUSED_REPLICAS: (
        USER,
        'put the replica count to this and hold it there, such as "5"; in modes up to Floor, which never move the '
        "count, it only holds, as paused does",
    ),
    Annotation.PAUSED_SCALE_IN: (USER, 'do not remove replicas; any value but "false" counts as true'),
    Annotation.PAUSED_SCALE_OUT: (USER, 'do not add replicas; any value but "false" counts as true'),
    Annotation.MANAGED: (OPT_IN, '"true" opts the object in; only "true" and "false" are accepted'),
    Annotation.MODE: (OPT_IN, "Observe, Recommend (default) or Floor; more authority needs a GPUAutoscaler"),
    Annotation.DEMAND_QUERY: (OPT_IN, "PromQL of the demand; needed without a preset"),
    Annotation.PER_REPLICA: (
        OPT_IN,
        'demand that one ready replica carries, in the demand\'s unit, such as "25"; needed',
    ),
    Annotation.PRESET: (OPT_IN, "as spec.preset"),
    Annotation.PRESET_MATCHERS: (OPT_IN, "as spec.presetMatchers"),
    Annotation.EPSILON: (OPT_IN, 'as spec.objective.epsilon, such as "0.01"'),
    Annotation.LEAD_TIME: (OPT_IN, 'first guess of the start-up time as a duration such as "90s", "5m" or "1h30m"'),
    Annotation.GPUS_PER_REPLICA: (OPT_IN, "as spec.cost.gpusPerReplica"),
    Annotation.PRICE_PER_GPU_HOUR: (OPT_IN, "as spec.cost.pricePerGPUHour"),
    Annotation.PROMETHEUS_URL: (OPT_IN, "as spec.prometheus.url"),
    Annotation.RECOMMENDED_REPLICAS: (OURS, "replicas that full authority would set"),
    Annotation.STATUS: (OURS, "short JSON: mode, reason, stated probability of a violation"),
    Annotation.LEARNED: (OURS, "JSON: what was learned; it is read back after a restart"),
    Annotation.ORIGINAL_MIN_REPLICAS: (OURS, "in mode Floor: the minimum its user had set, put back on detach"),
}
