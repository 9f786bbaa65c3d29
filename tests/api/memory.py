"""A journal in memory behind the port that the API reads: what routes are tested with, beside the real one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from forecasting.errors import HarmonyError
from harmony.journal.stored import ApiKey, AuditEntry, StoredDecision
from harmony.serving.points import Point
from harmony.serving.snapshot import Snapshot
from harmony.serving.views import decision_json


class MemoryJournal:
    """Keeps everything in lists; `broken` makes every call fail."""

    def __init__(self, now_s: float = 1_000_000.0) -> None:
        self.now_s = now_s
        self.broken = False
        self._decisions: dict[str, StoredDecision] = {}
        self._keys: dict[str, ApiKey] = {}
        self._audits: list[AuditEntry] = []
        self.key_reads = 0

    def _check(self) -> None:
        if self.broken:
            raise HarmonyError("journal somewhere: the disk is full")

    def append(self, snapshots: Sequence[Snapshot]) -> None:
        for s in snapshots:
            at = f"{round(s.at_s * 1e6):014x}-{s.service.replace('/', '.')}"
            self._decisions[at] = StoredDecision(at, s)

    def decisions(self, service: str, *, before: str | None, limit: int) -> Sequence[StoredDecision]:
        self._check()
        mine = [d for d in self._decisions.values() if d.snapshot.service == service]
        newest = sorted(mine, key=lambda d: d.id, reverse=True)
        return [d for d in newest if before is None or d.id < before][:limit]

    def points(self, service: str, first_s: float, last_s: float, every_s: float) -> Sequence[Point]:
        self._check()
        mine = [d.snapshot for d in self._decisions.values() if d.snapshot.service == service]
        found = [Point.of(s) for s in mine if first_s <= s.at_s < last_s]
        slots = {(p.at_s // every_s if every_s else p.at_s): p for p in found}
        return sorted(slots.values(), key=lambda p: p.at_s)

    def decision(self, decision_id: str) -> StoredDecision | None:
        self._check()
        return self._decisions.get(decision_id)

    def explain(self, decision_id: str) -> Mapping[str, Any] | None:
        self._check()
        found = self._decisions.get(decision_id)
        if found is None:
            return None
        told = {"id": decision_id, **decision_json(found.snapshot)}
        return {"id": decision_id, "same": True, "problem": "", "differences": [], "text": ["so"], "decision": told}

    def audit(self, actor: str, action: str, detail: Mapping[str, Any]) -> None:
        self._check()
        self._audits.append(AuditEntry(str(len(self._audits) + 1), self.now_s, actor, action, dict(detail)))

    def audits(self, *, before: str | None, limit: int, action: str | None = None) -> Sequence[AuditEntry]:
        self._check()
        found = [a for a in reversed(self._audits) if action is None or a.action == action]
        return [a for a in found if before is None or int(a.id) < int(before)][:limit]

    def add_key(self, record: ApiKey, /) -> None:
        self._check()
        self._keys[record.id] = record

    def keys(self) -> Sequence[ApiKey]:
        self._check()
        self.key_reads += 1
        return list(self._keys.values())

    def revoke_key(self, key_id: str) -> bool:
        self._check()
        record = self._keys.get(key_id)
        if record is None or record.revoked_s is not None:
            return False
        self._keys[key_id] = replace(record, revoked_s=self.now_s)
        return True
