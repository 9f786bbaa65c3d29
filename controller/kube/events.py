"""`Events`: tells in the cluster's own words what happened to an object, sparingly and without getting in the way."""

from __future__ import annotations

import asyncio
import logging
import platform
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from controller.kube.client import JSON, Kube
from controller.kube.errors import KubeError, NotFound
from controller.kube.resources import EVENTS
from controller.kube.times import micro_time

__all__ = ["Events"]

_log = logging.getLogger(__name__)
_SERIES_S = 600.0
_REFRESH_S = 60.0
_MOST_SERIES = 10_000
_QUEUE = 1000
_PER_S, _BURST = 10.0, 50.0
_DRAIN_S = 3.0
_NOTE_BYTES, _REASON = 1024, 128

_SeriesKey = tuple[str, str, str, str, str]


@dataclass(slots=True)
class _Series:
    """Events that are the same but for their time."""

    body: JSON
    last_s: float
    count: int = 1
    name: str = ""  # of the Event object; empty until it was written
    patched_s: float = float("-inf")
    queued: bool = False


class Events:
    """Writes events (events.k8s.io/v1) about objects in the background; `start` it, and `stop` it at the end.

    The same object, type, reason and note within ten minutes of the last is the same event once more: its count grows
    (written at most once a minute). At most one new event per object and cycle (`begin_cycle`), at most ten writes a
    second after a burst of 50. What cannot be written is counted in `dropped` and never raised; what a
    cycle had too much of is left out. `clock` gives seconds since the Unix epoch.
    """

    def __init__(
        self,
        kube: Kube,
        component: str,
        clock: Callable[[], float],
        *,
        instance: str = "",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.written = 0
        self.dropped = 0
        self._kube = kube
        self._component = component
        self._instance = (instance or f"{component}-{platform.node()}")[:_REASON]
        self._clock = clock
        self._monotonic = monotonic
        self._series: OrderedDict[_SeriesKey, _Series] = OrderedDict()
        self._told: set[tuple[str, str, str]] = set()
        self._queue: asyncio.Queue[_Series] = asyncio.Queue(_QUEUE)
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    def begin_cycle(self) -> None:
        """From now on every object may have one new event again."""
        self._told.clear()
        oldest_s = self._clock() - _SERIES_S
        while self._series and (
            len(self._series) > _MOST_SERIES or next(iter(self._series.values())).last_s < oldest_s
        ):
            self._series.popitem(last=False)

    def record(self, regarding: JSON, type: str, reason: str, note: str, *, action: str = "") -> None:
        """Tell about an object (or ObjectReference); `type` is Normal or Warning, `action` defaults to `reason`."""
        reference = _reference(regarding)
        place = (reference["kind"], reference["namespace"], reference["name"])
        key = (*place, type, f"{reason} {note}")
        now = self._clock()
        series = self._series.get(key)
        if series is not None and now - series.last_s <= _SERIES_S:
            series.count += 1
            series.last_s = now
            self._series.move_to_end(key)
            if series.count == 2 or now - series.patched_s >= _REFRESH_S:
                self._enqueue(series)
            return
        if place in self._told:
            return
        self._told.add(place)
        body = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"namespace": reference["namespace"] or "default"},
            "eventTime": micro_time(now),
            "reportingController": self._component,
            "reportingInstance": self._instance,
            "action": (action or reason)[:_REASON],
            "reason": reason[:_REASON],
            "regarding": {k: v for k, v in reference.items() if v},
            "note": note.encode()[:_NOTE_BYTES].decode(errors="ignore"),
            "type": type,
        }
        self._series[key] = _Series(body, now)
        self._series.move_to_end(key)
        self._enqueue(self._series[key])

    def _enqueue(self, series: _Series) -> None:
        """Have it written, once, as it is when its turn comes."""
        if series.queued:
            return
        try:
            self._queue.put_nowait(series)
        except asyncio.QueueFull:
            self.dropped += 1
            return
        series.queued = True

    async def start(self) -> None:
        """Begin to write."""
        if self._task is None:
            self._task = asyncio.create_task(self._write_all())

    async def stop(self) -> None:
        """Write what is waiting, for three seconds at most, and end."""
        if self._task is None:
            return
        drained = asyncio.create_task(self._queue.join())
        await asyncio.wait({drained, self._task}, timeout=_DRAIN_S, return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        self.dropped += self._queue.qsize()

    async def _write_all(self) -> None:
        """Write one after the other, not faster than allowed."""
        tokens, at_s = _BURST, self._monotonic()
        while True:
            series = await self._queue.get()
            try:
                now = self._monotonic()
                tokens, at_s = min(_BURST, tokens + (now - at_s) * _PER_S), now
                if tokens < 1.0:
                    await asyncio.sleep((1.0 - tokens) / _PER_S)
                tokens -= 1.0
                series.queued = False
                await self._write(series)
                self.written += 1
                self._failing = False
            except KubeError as error:
                self.dropped += 1
                if not self._failing:
                    _log.warning("an event was not written (further ones are only counted): %s", error)
                self._failing = True
            except asyncio.CancelledError:
                self.dropped += 1
                raise
            finally:
                self._queue.task_done()

    async def _write(self, series: _Series) -> None:
        """Make the event, or bring the count of the one that exists up to date."""
        namespace = series.body["metadata"]["namespace"]
        summary = {"count": series.count, "lastObservedTime": micro_time(series.last_s)}
        series.patched_s = series.last_s
        if series.name:
            try:
                await self._kube.patch(EVENTS, namespace, series.name, {"series": summary})
                return
            except NotFound:
                series.name = ""  # events live for an hour or so
        name = f"{series.body['regarding'].get('name', 'unknown')[:200]}.{uuid.uuid4().hex[:16]}"
        body = {**series.body, "metadata": {"name": name, "namespace": namespace}}
        if series.count > 1:
            body["series"] = summary
        await self._kube.create(EVENTS, body)
        series.name = name


def _reference(obj: JSON) -> dict[str, str]:
    """An ObjectReference to an object; one that is given as such stays."""
    metadata = obj.get("metadata")
    source = metadata if isinstance(metadata, dict) else obj
    return {
        "apiVersion": str(obj.get("apiVersion") or ""),
        "kind": str(obj.get("kind") or ""),
        "namespace": str(source.get("namespace") or ""),
        "name": str(source.get("name") or ""),
        "uid": str(source.get("uid") or ""),
    }
