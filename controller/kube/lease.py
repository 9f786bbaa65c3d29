"""`LeaseElection`: one controller acts, others stand by, and never two at once.

Written by hand because the official client's election measures durations with the wall clock: when that steps
forward, a standby believes that a lease has expired which is being renewed, and when it steps back, a leader that
cannot renew believes that it still may act. Here all expiry is judged by a monotonic clock and by when *we* saw the
record change, as client-go does (k8s.io/client-go/tools/leaderelection); the times in the record are for people. See
docs/decisions/0001-own-lease-election.md.

Why two never act: a leader stops acting `renew_deadline_s` after it *sent* its last successful renewal; another takes
over no sooner than `duration_s` after it *saw* that renewal, which is later; and the write that takes over carries the
resourceVersion of what was seen, so that of two who try only one succeeds. This needs clocks that run at the same
rate to within a third, not clocks that agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np

from controller.kube.client import JSON, Kube
from controller.kube.errors import Conflict, KubeError, NotFound, Unavailable
from controller.kube.resources import LEASES
from controller.kube.times import boot_s, micro_time

__all__ = ["LeaseElection"]

_log = logging.getLogger(__name__)
_REQUEST_S = 5.0
_RELEASE_S = 3.0
_JITTER = 0.2


class LeaseElection:
    """Takes part in the election that the Lease `namespace/name` holds, under the name `identity` (unique per process).

    `run` once; `may_act` says at any moment, without waiting, whether this process may write. Times are seconds; the
    defaults are those of kube-controller-manager.
    """

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        name: str,
        identity: str,
        *,
        duration_s: float = 15.0,
        renew_deadline_s: float = 10.0,
        retry_s: float = 2.0,
        monotonic: Callable[[], float] = boot_s,
        wall: Callable[[], float] | None = None,
        jitter: np.random.Generator | None = None,
    ) -> None:
        if not retry_s * (1 + _JITTER) < renew_deadline_s < duration_s:
            raise ValueError("a lease needs retry_s (with jitter) < renew_deadline_s < duration_s")
        self.identity = identity
        self.last_error: KubeError | None = None
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._duration_s = duration_s
        self._deadline_s = renew_deadline_s
        self._retry_s = retry_s
        self._monotonic = monotonic
        self._wall = wall or time.time  # noqa: TID251  (for people who read the record; nothing is judged by it)
        self._jitter = np.random.default_rng() if jitter is None else jitter
        self._lease: JSON | None = None  # as last seen
        self._seen_s = 0.0  # when it was first seen like that
        self._renewed_s: float | None = None  # when our last successful renewal was sent; None: we do not lead
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()
        self._grace_s = 0.0

    # ---- asking

    def may_act(self) -> bool:
        """Whether this process leads for certain; turns False by itself when renewals fail, before another may lead."""
        return self._renewed_s is not None and self._monotonic() - self._renewed_s < self._deadline_s

    @property
    def holder(self) -> str:
        """Who held the lease when it was last seen; empty if nobody did."""
        return str(self._spec.get("holderIdentity") or "")

    @property
    def transitions(self) -> int:
        """How often the lease changed hands, as last seen."""
        return _whole(self._spec.get("leaseTransitions"), 0)

    def leader_is_alive(self) -> bool:
        """Whether anybody, we or another, was seen to hold the lease within its time."""
        return self.may_act() or (bool(self.holder) and not self._has_expired())

    # ---- taking part

    async def run(
        self, on_lead: Callable[[], Coroutine[Any, Any, object]], on_lost: Callable[[], Coroutine[Any, Any, object]]
    ) -> None:
        """Take part until `stop`: whenever we lead, run `on_lead`; cancel it and call `on_lost` if we lose the lease.

        Returns, with the lease released, after `stop`, or when `on_lead` ends by itself (its exception is raised).
        """
        self._ended.clear()
        try:
            while not self._stopping.is_set():
                if not await self._attempt(self._deadline_s):
                    await self._pause(self._retry_s)
                elif await self._lead(on_lead):
                    return
                else:
                    await on_lost()
        finally:
            await self._release()
            self._ended.set()

    async def stop(self, *, grace_s: float = 10.0) -> None:
        """End: leave `on_lead` that long to end by itself (the lease is renewed meanwhile), release, return."""
        self._grace_s = grace_s
        self._stopping.set()
        await self._ended.wait()

    async def _lead(self, on_lead: Callable[[], Coroutine[Any, Any, object]]) -> bool:
        """Work and renew until one of them ends; False if the lease was lost."""
        _log.info("%s leads (%s/%s)", self.identity, self._namespace, self._name)
        work = asyncio.create_task(on_lead())
        keeper = asyncio.create_task(self._keep())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({work, keeper, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                await asyncio.wait({work, keeper}, timeout=self._grace_s, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            return work.done() or stopping.done()
        finally:
            if not work.done() and not self._stopping.is_set():
                _log.warning("%s lost the lease %s/%s", self.identity, self._namespace, self._name)
            # The work is over before anything else happens to the lease; the keeper goes on until then.
            work.cancel()
            await asyncio.wait({work})
            keeper.cancel()
            stopping.cancel()
            await asyncio.gather(keeper, stopping, return_exceptions=True)

    async def _keep(self) -> None:
        """Renew until the lease is lost: held by another, or not renewed in time."""
        while self.may_act():
            await asyncio.sleep(min(self._spread(self._retry_s), max(0.0, self._left_s())))
            if not await self._attempt(self._left_s()) and self.holder != self.identity:
                return

    def _left_s(self) -> float:
        """Seconds until we must not act any more."""
        return 0.0 if self._renewed_s is None else self._renewed_s + self._deadline_s - self._monotonic()

    async def _pause(self, seconds: float) -> None:
        """Wait about that long, or less when stopped."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), self._spread(seconds))

    def _spread(self, seconds: float) -> float:
        return seconds * (1.0 + float(self._jitter.uniform(-_JITTER, _JITTER)))

    # ---- the record

    async def _attempt(self, within_s: float) -> bool:
        """Take or renew the lease; True if that was written. Failures are kept in `last_error`, not raised."""
        if within_s <= 0.0:
            return False
        try:
            async with asyncio.timeout(min(_REQUEST_S, within_s)):
                done = await self._take_or_renew()
        except (KubeError, TimeoutError) as error:
            failed = error if isinstance(error, KubeError) else Unavailable(f"lease {self._name}", "no answer in time")
            if self.last_error is None:
                _log.warning("%s", failed)
            self.last_error = failed
            return False
        self.last_error = None
        return done

    async def _take_or_renew(self) -> bool:
        """Write ourselves into the record if it is ours, free, or expired; False if it is another's."""
        known = self._lease is not None and self.holder == self.identity
        for _ in range(2):
            if not known and not await self._look():
                return False
            try:
                if self._lease is None:
                    return await self._create()
                return await self._write(self.identity, self._duration_s)
            except (Conflict, NotFound):
                known = False  # another was faster, or an earlier write of ours took effect unanswered: look
        return False

    async def _look(self) -> bool:
        """Read the record; whether we may write ourselves into it."""
        try:
            self._see(await self._kube.get(LEASES, self._namespace, self._name))
        except NotFound:
            # Deleting the record deposes nobody before the time that it promised.
            if self.holder not in ("", self.identity) and not self._has_expired():
                return False
            self._lease = None
            return True
        if self.holder in ("", self.identity):
            return True
        self._renewed_s = None
        return self._has_expired()

    async def _create(self) -> bool:
        """Make the record, ours from the start."""
        sent_s, now = self._monotonic(), micro_time(self._wall())
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": _seconds(self._duration_s),
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": 0,
        }
        metadata = {"name": self._name, "namespace": self._namespace}
        body = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}
        self._see(await self._kube.create(LEASES, body))
        self._renewed_s = sent_s
        return True

    async def _write(self, holder: str, duration_s: float) -> bool:
        """Put a new record in place of the very one that we saw; raises Conflict if that has changed."""
        assert self._lease is not None
        sent_s, now = self._monotonic(), micro_time(self._wall())
        spec = {**self._spec, "renewTime": now, "leaseDurationSeconds": _seconds(duration_s), "holderIdentity": holder}
        if holder and self.holder != holder:
            spec |= {"acquireTime": now, "leaseTransitions": self.transitions + 1}
        self._see(await self._kube.replace(LEASES, {**self._lease, "spec": spec}))
        if holder:
            self._renewed_s = sent_s
        return True

    async def _release(self) -> None:
        """Let another take over at once; if that fails, it will in `duration_s`."""
        led, self._renewed_s = self._renewed_s is not None, None
        if not led:
            return
        try:
            async with asyncio.timeout(_RELEASE_S):
                while self.holder == self.identity:
                    try:
                        await self._write("", 1.0)
                    except Conflict:  # an earlier renewal took effect unanswered
                        await self._look()
        except (KubeError, TimeoutError) as error:
            _log.warning("the lease %s/%s was not released: %s", self._namespace, self._name, error or "no answer")

    @property
    def _spec(self) -> dict[str, Any]:
        spec = (self._lease or {}).get("spec")
        return spec if isinstance(spec, dict) else {}

    def _see(self, lease: JSON) -> None:
        """Remember the record, and since when it has been what it is."""
        if self._lease is None or _version(lease) != _version(self._lease):
            self._seen_s = self._monotonic()
        self._lease = lease

    def _has_expired(self) -> bool:
        """Whether the record has not changed for as long as it says it holds."""
        held_s = _whole(self._spec.get("leaseDurationSeconds"), 0) or self._duration_s
        return self._monotonic() - self._seen_s >= held_s


def _version(lease: JSON) -> Any:  # noqa: ANN401
    return (lease.get("metadata") or {}).get("resourceVersion")


def _seconds(duration_s: float) -> int:
    """Whole seconds, as the record has them; rounded up, so that nobody takes over early."""
    return max(1, int(-(-duration_s // 1)))


def _whole(value: object, default: int) -> int:
    """A number out of a record that anybody may have written."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default
