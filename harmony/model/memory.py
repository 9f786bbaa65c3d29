"""What deciding remembers from turn to turn: `GuardMemory` of the guards, `TurnMemory` of the whole turn."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["GuardMemory", "Marks", "TurnMemory"]

Marks = tuple[tuple[float, int], ...]  # (time in seconds, replicas), oldest first


@dataclass(frozen=True, slots=True)
class GuardMemory:
    """What the guards must remember between decisions; times in seconds, oldest first.

    `highs` and `lows` are past recommendations, thinned to those that can still be the highest (lowest) of a window;
    `ups` and `downs` are the replicas added and removed; `stage` is when the present stage of a staged scale-down
    began and from how many replicas, None outside of one.
    """

    highs: Marks = ()
    lows: Marks = ()
    ups: Marks = ()
    downs: Marks = ()
    stage: tuple[float, int] | None = None

    def at(self, now_s: float) -> GuardMemory:
        """With no mark later than ``now_s``: a clock that was set back must not make a hold outlast its window.

        Marks from the future are taken for the present: what they hold is held for one window from now. (A clock
        that is set forward looks like a pause of the same length: windows end early.)
        """
        lists = (self.highs, self.lows, self.ups, self.downs)
        stage_ahead = self.stage is not None and self.stage[0] > now_s
        if not stage_ahead and not any(marks and marks[-1][0] > now_s for marks in lists):
            return self
        highs, lows, ups, downs = (tuple((min(at, now_s), n) for at, n in marks) for marks in lists)
        stage = None if self.stage is None else (min(self.stage[0], now_s), self.stage[1])
        return GuardMemory(highs, lows, ups, downs, stage)

    def corrected(self, now_s: float, current: int, applied: int) -> GuardMemory:
        """With what was really applied at ``now_s`` (``current`` before) instead of what the guards had allowed."""
        ups = tuple(m for m in self.ups if m[0] != now_s)
        downs = tuple(m for m in self.downs if m[0] != now_s)
        limited = len(ups) < len(self.ups) or len(downs) < len(self.downs)
        if limited and applied > current:
            ups = (*ups, (now_s, applied - current))
        elif limited and applied < current:
            downs = (*downs, (now_s, current - applied))
        begun = self.stage is not None and self.stage[0] == now_s
        stage = None if begun and applied >= current else self.stage
        return GuardMemory(self.highs, self.lows, ups, downs, stage)


@dataclass(frozen=True, slots=True)
class TurnMemory:
    """All that a turn's decision depends on besides the observation and the policy.

    Attributes:
        guards: what stabilisation and rate limits remember.
        absent_turns: turns in a row in which demand or forecast were absent.
        forecast_seen: True once there was a forecast: its absence is a loss from then on, no longer a warm-up.
        expects_forecast: True where there is a forecaster at all.
        served: True once a replica was ready, since the count last was 0: without one, absent data are no outage but a
            cold start. (Records from before this was kept speak of services that served.)
        cap: most risk of one decision that the policy allows, as a multiple of epsilon. (Records from before this was
            kept were decided under 5.)
    """

    guards: GuardMemory = field(default_factory=GuardMemory)
    absent_turns: int = 0
    forecast_seen: bool = False
    expects_forecast: bool = True
    served: bool = True
    cap: float = 5.0
