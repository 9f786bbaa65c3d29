"""A policy of levels learned from groups of its own choices: PORAG's group-relative optimisation (GRPO), for replicas.

For every forecast a group of levels is drawn from the policy and each is rewarded by what came of it (the violation it
left, the replicas it took); its advantage is what it got beyond its group, over the group's spread. The policy moves by
the clipped ratio, held near a reference by an estimate of the Kullback-Leibler divergence. Reconstructed from the
abstract of arXiv 2504.01281 and the usual form of GRPO; here to be compared with the price rule, not shipped as one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forecasting.errors import UsageError
from forecasting.panel import FloatArray

__all__ = ["LevelPolicy", "advantages", "learn"]


@dataclass(frozen=True, slots=True)
class LevelPolicy:
    """A softmax over levels, linear in what is known of a forecast.

    Attributes:
        weights: (features, levels).
    """

    weights: FloatArray

    def log_shares(self, features: FloatArray) -> FloatArray:
        """Log probability of each level, (states, levels), of features (states, features)."""
        scores = features @ self.weights
        scores = scores - scores.max(axis=1, keepdims=True)
        log: FloatArray = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        return log

    def choose(self, features: FloatArray) -> npt.NDArray[np.intp]:
        """The likeliest level of each state, (states,)."""
        return np.asarray((features @ self.weights).argmax(axis=1))


def advantages(rewards: FloatArray, *, by_group: bool = True) -> FloatArray:
    """What each choice got beyond its group, over the spread; 0 where all got the same. (states, group).

    Args:
        rewards: of the choices of each state, (states, group).
        by_group: over the spread of its own group, as in GRPO; otherwise over the root mean square of all, so that
            groups with much at stake count for more.
    """
    apart = rewards - rewards.mean(axis=1, keepdims=True)
    spread = rewards.std(axis=1, keepdims=True)
    if not by_group:
        whole = float(np.sqrt((spread**2).mean()))
        return apart / whole if whole > 0 else np.zeros_like(apart)
    same = spread <= 1e-12 * np.abs(rewards).max(axis=1, keepdims=True)
    found: FloatArray = np.where(same, 0.0, apart / np.where(same, 1.0, spread))
    return found


def learn(
    features: FloatArray,
    rewards: FloatArray,
    *,
    group: int = 8,
    rounds: int = 60,
    passes: int = 4,
    clip: float = 0.2,
    divergence: float = 0.01,
    rate: float = 0.5,
    by_group: bool = True,
    seed: int = 0,
) -> LevelPolicy:
    """Learn a policy from what every level would have brought in every state.

    Args:
        features: of the states, (states, features); one that is always 1 lets levels differ everywhere alike.
        rewards: of every level in every state, (states, levels); only those of drawn levels are looked at.
        group: levels drawn of each state, with repeats.
        rounds: groups that are drawn; the policy that draws stays as it was within a round.
        passes: steps of ascent within a round.
        clip: how far the ratio of new to drawing policy counts.
        divergence: weight of the divergence from the reference, an even choice.
        rate: length of a step.
        by_group: see `advantages`.
        seed: of the draws.

    Raises:
        UsageError: shapes that do not fit, or values that are not finite.
    """
    if features.ndim != 2 or rewards.ndim != 2 or len(features) != len(rewards) or not len(features):
        raise UsageError(f"features {features.shape}, rewards {rewards.shape}: expected a row of both for each state")
    if not (np.isfinite(features).all() and np.isfinite(rewards).all()):
        raise UsageError("features and rewards: expected finite values only")
    rng = np.random.default_rng(seed)
    states, levels = rewards.shape
    policy = LevelPolicy(np.zeros((features.shape[1], levels)))
    reference = policy.log_shares(features)
    rows = np.arange(states)[:, None]
    for _ in range(rounds):
        drawn_by = policy.log_shares(features)
        noise = rng.gumbel(size=(states, group, levels))
        chosen = (drawn_by[:, None, :] + noise).argmax(axis=2)
        gain = advantages(rewards[rows, chosen], by_group=by_group)
        for _ in range(passes):
            log = policy.log_shares(features)
            ratio = np.exp(log[rows, chosen] - drawn_by[rows, chosen])
            inside = np.where(gain >= 0, ratio <= 1 + clip, ratio >= 1 - clip)
            away = np.exp(reference[rows, chosen] - log[rows, chosen])  # of r - log r - 1, r = reference / policy
            pull = np.where(inside, ratio * gain, 0.0) + divergence * (away - 1.0)
            slope = np.zeros((states, levels))
            np.add.at(slope, (np.broadcast_to(rows, chosen.shape), chosen), pull)
            slope -= pull.sum(axis=1, keepdims=True) * np.exp(log)
            policy = LevelPolicy(policy.weights + rate * features.T @ slope / (states * group))
    return policy
