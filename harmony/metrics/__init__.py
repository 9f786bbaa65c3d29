"""Every Prometheus metric of HARMONY: defined once (`catalogue`), kept per service (`series`), served by `Metrics`."""

from harmony.metrics.catalogue import CATALOGUE, Definition
from harmony.metrics.metrics import Metrics
from harmony.metrics.series import ServiceName

__all__ = ["CATALOGUE", "Definition", "Metrics", "ServiceName"]
