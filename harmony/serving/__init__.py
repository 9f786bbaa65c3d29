"""What is shown to people and machines: the newest `Snapshot` of every service, kept in a `Hub`."""

from harmony.serving.hub import Hub
from harmony.serving.snapshot import Snapshot
from harmony.serving.views import decision_json, forecast_json, history_json, summary_json, utc
from harmony.serving.words import sentence

__all__ = ["Hub", "Snapshot", "decision_json", "forecast_json", "history_json", "sentence", "summary_json", "utc"]
