"""`NodePool`: replicas on nodes of one or several GPU kinds: provisioning, image pulls, failed starts, lost nodes.

`GpuPool` knows one thing of a start: how long it takes. Here a replica first needs room: on a node that is there, or
on a new one of the first kind that is to be had (which takes time to come), else it waits. On a node without the
image that is pulled first, now and then slowly. Then it starts, and may fail and start again. Nodes may be taken away
(spot): their replicas are ordered anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from forecasting.errors import UsageError
from simulator.pool import StartUp

__all__ = ["Kind", "NodePool", "Supply"]

NONE = math.inf


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of GPU: replicas on it are `speed` times as fast and cost `price` times as much as the nominal ones.

    `nodes` there can be at most; `kv_tokens` of a replica's key-value cache, None for what the nominal replica has.
    """

    name: str
    speed: float = 1.0
    price: float = 1.0
    nodes: int = 1_000_000
    kv_tokens: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.speed) and self.speed > 0 and math.isfinite(self.price) and self.price >= 0):
            raise UsageError(f"kind {self.name!r}: speed must be positive and price 0 or more")
        if self.nodes < 0:
            raise UsageError(f"kind {self.name!r}: nodes = {self.nodes}, expected 0 or more")


@dataclass(frozen=True, slots=True)
class Supply:
    """Where replicas come from, and what may go wrong.

    Attributes:
        kinds: in the order in which they are taken.
        replicas_per_node: how many fit on one node.
        warm_nodes: nodes of the first kind that are there from the start and stay.
        node: time a further node takes to come; None: none.
        pull: time that pulling the image takes on a node that does not have it; None: none.
        slow_pull_share, slow_pull_factor: so many pulls take so many times as long.
        failed_share: of starts that fail at their end, and begin again.
        preempted_per_hour: rate at which a node is taken away.
    """

    kinds: tuple[Kind, ...] = (Kind("gpu"),)
    replicas_per_node: int = 1
    warm_nodes: int = 0
    node: StartUp | None = None
    pull: StartUp | None = None
    slow_pull_share: float = 0.0
    slow_pull_factor: float = 5.0
    failed_share: float = 0.0
    preempted_per_hour: float = 0.0

    def __post_init__(self) -> None:
        if not self.kinds or len({k.name for k in self.kinds}) != len(self.kinds):
            raise UsageError("supply: expected one kind of GPU or more, each with a name of its own")
        if self.replicas_per_node < 1 or self.warm_nodes < 0:
            raise UsageError("supply: expected 1 replica per node or more, and 0 warm nodes or more")
        if not (0 <= self.slow_pull_share <= 1 and 0 <= self.failed_share < 1):
            raise UsageError("supply: the shares of slow pulls and of failed starts lie between 0 and 1")
        if not (self.slow_pull_factor >= 1 and self.preempted_per_hour >= 0 and self.slow_pull_factor < NONE):
            raise UsageError("supply: a slow pull takes longer than others, and nodes are lost at a rate of 0 or more")

    def lead_s(self, start_up: StartUp) -> float:
        """What a start on a new node takes when all goes well: the medians, added up."""
        return start_up.median_s + sum(s.median_s for s in (self.node, self.pull) if s is not None)

    @property
    def is_plain(self) -> bool:
        """True where every start takes its start-up time and nothing else."""
        return self.node is None and self.pull is None and not (self.failed_share or self.preempted_per_hour)


@dataclass(eq=False, slots=True)
class _Node:
    kind: int
    up_at_s: float
    warm: bool = False
    image_at_s: float = NONE  # when the image is there; without end: nobody has asked for it yet
    replicas: int = 0


@dataclass(eq=False, slots=True)
class _Replica:
    ordered_s: float
    node: _Node | None = None
    ready_s: float = NONE
    ready: bool = False


@dataclass(eq=False, slots=True)
class NodePool:
    """Replicas on nodes; time is in seconds since the world began, on a grid of ``step_s``.

    As `GpuPool`: an order is ready after one step at the earliest, a drop acts at once and takes the newest first, and
    `ordered` replicas are those that were asked for, placed or not. ``ready_by_kind`` and ``lost_by_kind`` (since the
    last `advance`) follow the order of the supply's kinds.
    """

    initial: int
    start_up: StartUp
    supply: Supply
    step_s: float
    rng: np.random.Generator
    nodes: list[_Node] = field(default_factory=list)
    replicas: list[_Replica] = field(default_factory=list)  # oldest order first
    lost_by_kind: list[int] = field(default_factory=list)
    _took: list[tuple[float, str]] = field(default_factory=list)
    _failed: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.nodes = [_Node(0, 0.0, warm=True) for _ in range(min(self.supply.warm_nodes, self.supply.kinds[0].nodes))]
        self.lost_by_kind = [0] * len(self.supply.kinds)
        self.begin(self.initial)

    # ---- what is there --------------------------------------------------------------------------------------
    @property
    def ordered(self) -> int:
        """Replicas that were asked for."""
        return len(self.replicas)

    @property
    def ready(self) -> int:
        """Replicas that serve."""
        return sum(r.ready for r in self.replicas)

    @property
    def ready_by_kind(self) -> list[int]:
        """Replicas that serve, a kind."""
        out = [0] * len(self.supply.kinds)
        for r in self.replicas:
            if r.ready and r.node is not None:
                out[r.node.kind] += 1
        return out

    @property
    def price(self) -> float:
        """What all placed replicas cost, in nominal replicas; one that has no node costs nothing."""
        return sum(self.supply.kinds[r.node.kind].price for r in self.replicas if r.node is not None)

    def started(self) -> Sequence[tuple[float, str]]:
        """Starts that finished since the last call: seconds each took (failed tries included), and its kind's name."""
        took, self._took = self._took, []
        return took

    def failed(self) -> tuple[float, ...]:
        """Ages in seconds of starts that failed since the last call."""
        failed, self._failed = tuple(self._failed), []
        return failed

    def pending_s(self, step: int) -> tuple[float, ...]:
        """Ages in seconds of the replicas that do not serve yet."""
        return tuple(step * self.step_s - r.ordered_s for r in self.replicas if not r.ready)

    # ---- time and orders ------------------------------------------------------------------------------------
    def begin(self, replicas: int) -> None:
        """Start the world with ``replicas`` that serve already, as far as there are nodes for them."""
        self.replicas = []
        for node in self.nodes:
            node.replicas = 0
        for _ in range(replicas):
            replica = _Replica(0.0)
            self._place(replica, 0.0)
            if replica.node is not None:
                replica.node.up_at_s = replica.node.image_at_s = replica.ready_s = 0.0
                replica.ready = True
            self.replicas.append(replica)

    def advance(self, step: int) -> None:
        """Move to ``step``: nodes are lost, who waited is placed, and what has finished starting serves or fails."""
        now = step * self.step_s
        self.lost_by_kind = [0] * len(self.supply.kinds)
        if self.supply.preempted_per_hour:
            self._lose(now)
        for replica in self.replicas:
            if replica.ready:
                continue
            if replica.node is None:
                self._place(replica, now)
            elif replica.ready_s <= now + 1e-9:
                self._end_start(replica, replica.node, now)

    def scale(self, step: int, replicas: int) -> None:
        """Order ``replicas`` in ``step``: start the difference, or drop the newest: those that start, then others."""
        now = step * self.step_s
        for _ in range(replicas - self.ordered):
            replica = _Replica(now)
            self.replicas.append(replica)
            self._place(replica, now)
        surplus = self.ordered - replicas
        if surplus > 0:
            newest = sorted(range(self.ordered), key=lambda i: (self.replicas[i].ready, -i))[:surplus]
            for i in sorted(newest, reverse=True):
                self._leave(self.replicas.pop(i))
            self.nodes = [n for n in self.nodes if n.warm or n.replicas]

    # ---- nodes ----------------------------------------------------------------------------------------------
    def _place(self, replica: _Replica, now: float) -> None:
        """Find room, on a node that is there or a new one; without any the replica waits."""
        room = [n for n in self.nodes if n.replicas < self.supply.replicas_per_node]
        node = min(room, key=lambda n: (max(n.up_at_s, now), n.kind), default=None)
        if node is None:
            for kind, about in enumerate(self.supply.kinds):
                if sum(n.kind == kind for n in self.nodes) < about.nodes:
                    node = _Node(kind, now + self._draw(self.supply.node))
                    self.nodes.append(node)
                    break
        if node is None:
            return
        node.replicas += 1
        if node.image_at_s == NONE:
            slow = self.supply.slow_pull_share > 0 and self.rng.random() < self.supply.slow_pull_share
            pull_s = self._draw(self.supply.pull) * (self.supply.slow_pull_factor if slow else 1.0)
            node.image_at_s = max(node.up_at_s, now) + pull_s
        replica.node = node
        replica.ready_s = self._on_grid(now, max(node.image_at_s, now) + self._draw(self.start_up))

    def _draw(self, distribution: StartUp | None) -> float:
        return 0.0 if distribution is None else distribution.draw_s(1, self.rng)[0]

    def _on_grid(self, now: float, ready_s: float) -> float:
        """The step in which it serves: the next one at the earliest."""
        return max(now + self.step_s, math.ceil(round(ready_s / self.step_s, 9)) * self.step_s)

    def _end_start(self, replica: _Replica, node: _Node, now: float) -> None:
        if self.supply.failed_share and self.rng.random() < self.supply.failed_share:
            self._failed.append(now - replica.ordered_s)
            replica.ready_s = self._on_grid(now, now + self._draw(self.start_up))
            return
        replica.ready = True
        self._took.append((now - replica.ordered_s, self.supply.kinds[node.kind].name))

    def _leave(self, replica: _Replica) -> None:
        if replica.node is not None:
            replica.node.replicas -= 1

    def _lose(self, now: float) -> None:
        """Take nodes away; their replicas are ordered anew, now."""
        odds = 1.0 - math.exp(-self.supply.preempted_per_hour * self.step_s / 3600.0)
        gone = [n for n in self.nodes if n.up_at_s <= now and self.rng.random() < odds]
        if not gone:
            return
        for replica in self.replicas:
            if replica.node in gone:
                self.lost_by_kind[replica.node.kind] += replica.ready
                replica.node, replica.ready, replica.ready_s, replica.ordered_s = None, False, NONE, now
        warm = [_Node(n.kind, now + self._draw(self.supply.node), warm=True) for n in gone if n.warm]
        self.nodes = [n for n in self.nodes if n not in gone] + warm
        self.replicas.sort(key=lambda r: r.ordered_s)  # stable: who lost a node is as new as a new order
