"""What was learned, as it stands in an object: packed, and bound to what is measured."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib
from typing import Any

from controller.resource.settings import ServiceSettings

__all__ = ["demand_mark", "packed", "unpacked"]

VERSION = "1:"
MOST = 1 << 20  # bytes of what is unpacked


def demand_mark(settings: ServiceSettings) -> str:
    """A short name for what is measured: equal for equal demand queries, units and bounds."""
    demand, bound = settings.queries[0], settings.objective.bound
    text = f"{demand.promql}|{demand.indicator.unit}|{demand.indicator.kind}|{bound}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def packed(learned: dict[str, Any]) -> str:
    """What was learned as one short text: it is for the controller alone, and an object is read by people."""
    text = json.dumps(learned, separators=(",", ":"))
    return VERSION + base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def unpacked(text: object) -> object:
    """What `packed` was given, whatever stands there: what cannot be read comes back as it is."""
    if not isinstance(text, str) or not text.startswith(VERSION):
        return text
    try:
        unpacking = zlib.decompressobj()
        raw = unpacking.decompress(base64.b64decode(text.removeprefix(VERSION), validate=True), MOST)
        return text if unpacking.unconsumed_tail else json.loads(raw)
    except (binascii.Error, zlib.error, ValueError, RecursionError):
        return text
