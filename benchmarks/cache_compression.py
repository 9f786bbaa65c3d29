"""How much of a forecaster's cache can go, on a CPU: `python -m benchmarks.cache_compression`.

A small causal forecaster (two layers, width 32, 4 heads) is trained on series with a daily pattern of their own and
rare bursts that come back a day later. It reads a history, its caches are cut to a share, and the next step is forecast
from what is left: CRPS of the Gaussian forecast against keeping all, and bytes, for CRITIC, SnapKV, the newest keys,
and Quest, which keeps all and reads a share. All comes from a seed; series judged are others than those trained on.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import nn

from kernels import attention
from kernels.caches.compress import critic_importance, kept, quest_attention, snap_importance, take

DAY, WIDTH, HEADS = 48, 32, 4


def series(count, length, g):
    """Series (count, length) with a daily pattern of their own, noise, and bursts that come back a day later."""
    t = torch.arange(length)
    phase, size = torch.rand(count, 1, generator=g) * DAY, 0.5 + torch.rand(count, 1, generator=g)
    x = size * torch.sin(2 * math.pi * (t - phase) / DAY) + 0.1 * torch.randn(count, length, generator=g)
    start = torch.rand(count, DAY, generator=g) < 0.08
    bursts = 2.5 * start[:, t % DAY].float() * (torch.rand(count, 1, generator=g) < 0.7)
    return x + bursts


class Layer(nn.Module):
    """Causal attention and a feed-forward part, each with a residual sum."""

    def __init__(self):
        super().__init__()
        self.norm, self.feed_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.feed = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def heads(self, x):
        return [y.unflatten(2, (HEADS, -1)).transpose(1, 2) for y in self.qkv(self.norm(x)).chunk(3, dim=-1)]

    def rest(self, x, mixed):
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.feed(self.feed_norm(x))


class Model(nn.Module):
    """Embeds a value, the one before and the time of day; gives mean and log deviation of the next value."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(2 + 16, WIDTH), nn.Linear(WIDTH, 2)
        self.layers = nn.ModuleList(Layer() for _ in range(2))

    def tokens(self, x):
        t = torch.arange(x.shape[1])[:, None] * torch.arange(1, 9) * (2 * math.pi / DAY)
        clock = torch.cat([t.sin(), t.cos()], dim=1).expand(len(x), -1, -1)
        before = nn.functional.pad(x, (1, 0))[:, :-1]
        return self.embed(torch.cat([x[..., None], before[..., None], clock], dim=-1))

    def forward(self, x):
        h = self.tokens(x)
        for layer in self.layers:
            h = layer.rest(h, attention(*layer.heads(h), causal=True))
        return self.head(h).unbind(-1)

    def last(self, x, how, share):
        """The forecast after the last value, whose caches of the values before it are cut; and bytes that are read."""
        h, size = self.tokens(x), 0
        for layer in self.layers:
            q, k, v = layer.heads(h)
            done = attention(q[:, :, :-1], k[:, :, :-1], v[:, :, :-1], causal=True)
            k_kept, v_kept = k[:, :, :-1], v[:, :, :-1]
            if how != "quest" and share < 1:
                recent = q[:, :, -17:-1]
                importance = {
                    "critic": lambda k=k_kept, v=v_kept, q=recent: critic_importance(q, k, v),
                    "snapkv": lambda k=k_kept, q=recent: snap_importance(q, k, pool=3),
                    "newest": lambda k=k_kept: torch.arange(k.shape[2]).float().expand(*k.shape[:3]),
                }[how]()
                # Half of what is kept are the newest, which any forecast reads.
                at = kept(importance, share, sinks=2, window=max(4, round(share * k_kept.shape[2] / 2)))
                k_kept, v_kept = take(k_kept, at), take(v_kept, at)
            both = [torch.cat([a, b[:, :, -1:]], dim=2) for a, b in ((k_kept, k), (v_kept, v))]
            if how == "quest":
                budget = max(4, round(share * both[0].shape[2]))
                one = quest_attention(q[:, :, -1:], *both, budget=budget, page=4)
                size += 2 * budget * WIDTH * 4
            else:
                one = attention(q[:, :, -1:], *both)
                size += sum(a[0].numel() * 4 for a in (k_kept, v_kept))
            h = layer.rest(h, torch.cat([done, one], dim=2))
        mean, log_sd = self.head(h[:, -1]).unbind(-1)
        return mean, log_sd, size


def crps(mean, log_sd, y):
    """CRPS of a Gaussian forecast, each."""
    sd = log_sd.exp()
    z = (y - mean) / sd
    pdf = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    cdf = 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    return sd * (z * (2 * cdf - 1) + 2 * pdf - 1 / math.sqrt(math.pi))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--history", type=int, default=240)
    parser.add_argument("--judged", type=int, default=2000)
    args = parser.parse_args()
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(1)
    model = Model()
    step = torch.optim.AdamW(model.parameters(), lr=3e-3)
    falls = torch.optim.lr_scheduler.CosineAnnealingLR(step, args.steps)
    for _ in range(args.steps):
        x = series(16, args.history + 1, g)
        mean, log_sd = model(x[:, :-1])
        loss = crps(mean, log_sd.clamp(-4, 2), x[:, 1:])[:, DAY:].mean()
        step.zero_grad()
        loss.backward()
        step.step()
        falls.step()
    x = series(args.judged, args.history + 1, g)
    with torch.no_grad():
        whole, all_bytes = None, None
        print("| kept | share | CRPS | worse by | bytes of all |")
        print("|---|---|---|---|---|")
        for how in ("all", "critic", "snapkv", "newest", "quest"):
            for share in (1.0,) if how == "all" else (0.5, 0.25, 0.1):
                mean, log_sd, size = model.last(x[:, :-1], how, share)
                score = float(crps(mean, log_sd, x[:, -1]).mean())
                whole, all_bytes = whole or score, all_bytes or size
                print(
                    f"| {how} | {share} | {score:.4f} | {score / whole - 1:+.1%} | {size / all_bytes:.0%} |", flush=True
                )


if __name__ == "__main__":
    main()
