"""The network: windows in, parameters of the joint flow out. Only maths; training and packaging live elsewhere.

    window of an indicator --attention over time--> token --cascade across levels--> token
    token + step + calendar + season --head--> mixture (marginal of the cell) and dependence between cells

The mixture's components are pointers into the window: some sit on its quantiles (a plateau is copied exactly, and
"the window as the distribution" is the starting point), some around learned linear functionals (last value, averages,
lags), one each on the newest value and on the values of the seasons before, and a wide one catches surprises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forecasting.attention import CascadeBlock, TimeBlock, level_ranks
from forecasting.config import ModelConfig
from forecasting.features import CALENDAR, SEASONAL, SUMMARY, NetworkInputs
from forecasting.flow import FlowContext
from forecasting.temporal import MixBlock
from forecasting.windows import SEASONS_S

__all__ = ["EXPERTS", "ForecastNet", "head_sizes"]

_SEASONS = len(SEASONS_S)
_STEP_EMBEDDING = 16
_DECAYS = (0.0, 0.15, 0.7, 5.0)
_SCALE_FLOOR = 2e-3
_WIDE_SHARE = 1e-3
_KINDS = 4  # levels 1..3 and "any"
EXPERTS = ("window quantiles", "newest value", "day before", "week before", "learned averages", "wide surprise")
"""What components of the mixture point to, in order; `ForecastNet.expert_sizes` says how many components each has."""


class ForecastNet(nn.Module):
    """Maps `NetworkInputs` to the `FlowContext` of every window.

    ``names`` are the indicators whose identity the network knows (it learned an embedding for each); others are read
    by their level and numbers alone.
    """

    def __init__(self, config: ModelConfig, names: Sequence[str] = ()) -> None:
        super().__init__()
        c = self.config = config
        self.names: dict[str, int] = {name: i + 1 for i, name in enumerate(names)}
        self.level = nn.Embedding(_KINDS, c.width)
        self.identity = nn.Embedding(len(self.names) + 1, c.width, padding_idx=0)
        nn.init.zeros_(self.identity.weight)
        nn.init.normal_(self.level.weight, std=0.1)
        self.read = nn.Linear(2 * c.patch, c.width)
        self.place = nn.Parameter(0.1 * torch.randn(-(-c.lookback // c.patch), c.width))
        self.summary = nn.Sequential(
            nn.Linear(SUMMARY, 2 * c.width), nn.GELU(), nn.Dropout(c.dropout), nn.Linear(2 * c.width, c.width)
        )
        self.mix = nn.ModuleList(
            MixBlock(c.width, c.heads, c.dropout, method=c.temporal_attention, options=c.temporal_options)
            for _ in range(c.temporal_mixers)
            if c.temporal_attention is not None
        )
        self.over_time = nn.ModuleList(TimeBlock(c.width, c.heads, c.dropout) for _ in range(c.temporal_layers))
        self.across = nn.ModuleList(
            CascadeBlock(c.width, c.heads, c.dropout, zero_mask=c.compat_zero_mask) for _ in range(c.cascade_layers)
        )
        self.functionals = nn.Parameter(_first_functionals(c.functionals, c.near(c.lookback)))
        self.step = nn.Parameter(_first_steps(c.horizon))
        self.token_norm = nn.LayerNorm(c.width)
        wide_in = c.width + _STEP_EMBEDDING + CALENDAR + SEASONAL * _SEASONS + c.functionals
        self.head_in = nn.Sequential(nn.Linear(wide_in, c.step_width), nn.GELU(), nn.Dropout(c.dropout))
        self.head_mid = nn.Sequential(nn.Linear(c.step_width, c.step_width), nn.GELU(), nn.Dropout(c.dropout))
        self.head = nn.Linear(c.step_width, sum(self._sizes().values()))
        self._first_head()
        self.cross_to = nn.Linear(c.width, len(_DECAYS) * c.copula_rank)
        self.cross_from = nn.Linear(c.width, len(_DECAYS) * c.copula_rank)
        self.own = nn.Linear(c.width, 2)
        for layer in (self.cross_to, self.own):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def spikes(self) -> int:
        """How many of the first mixture components are narrow by construction."""
        return self.config.quantiles + 1 + _SEASONS

    @property
    def expert_sizes(self) -> tuple[int, ...]:
        """How many components of the mixture belong to each of `EXPERTS`."""
        return (self.config.quantiles, 1, *([1] * _SEASONS), self.config.free, 1)

    def _sizes(self) -> dict[str, int]:
        """Length of every part of the head's output, in order."""
        return head_sizes(self.config)

    def _first_head(self) -> None:
        """Begin as a half-and-half mix of the window's quantiles and of spreads around the newest values."""
        c, sizes = self.config, self._sizes()
        nn.init.normal_(self.head.weight, std=0.02)
        parts = {name: torch.zeros(size) for name, size in sizes.items()}
        logits = parts["logits"]
        logits[: c.quantiles] = math.log(0.5 / c.quantiles)
        logits[c.quantiles : c.quantiles + 1 + _SEASONS] = math.log(0.02)
        logits[c.quantiles + 1 + _SEASONS : -1] = math.log(0.45 / c.free)
        logits[-1] = math.log(0.003)
        anchor = parts["anchor"].view(c.anchors, c.functionals + 2 * _SEASONS)
        for a in range(c.anchors):
            anchor[a, a % c.functionals] = 1.0
        ladder = torch.linspace(0, 1, c.free)
        parts["free_scale"] = -1.2 + 2.0 * ladder[torch.randperm(c.free, generator=torch.Generator().manual_seed(0))]
        parts["link_q"][:] = 0.1
        self.head.bias.data.copy_(torch.cat(list(parts.values())))

    # ---- tokens ---------------------------------------------------------------------------------------------
    def tokens(self, x: NetworkInputs) -> Tensor:
        """(B, N, width): every indicator's window read over time, then in a cascade across levels."""
        h, key_mask = self._read(x)
        for i, block in enumerate(self.over_time):
            h = block(h, key_mask, only_last=i + 1 == len(self.over_time))
        token = h.view(*x.values.shape[:2], -1)
        ranks = level_ranks(x.levels)
        for block in self.across:
            token = block(token, ranks, x.present)
        out: Tensor = self.token_norm(token)
        return out

    def looks(self, x: NetworkInputs) -> Tensor:
        """(B, N, T) how an indicator's token shares its attention among the T patches of its window, oldest first.

        Of the last layer over time; sums to 1, or to 0 where nothing was read. What goes to the window's summary is
        left out.
        """
        h, key_mask = self._read(x)
        for block in list(self.over_time)[:-1]:
            h = block(h, key_mask)
        last = self.over_time[-1]
        assert isinstance(last, TimeBlock)  # a list of modules does not say what it holds
        weights = last.looks(h, key_mask)[:, :-1]
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
        return weights.view(*x.values.shape[:2], -1)

    def _read(self, x: NetworkInputs) -> tuple[Tensor, Tensor]:
        """Tokens (B N, T + 1, width) of every indicator's patches, its summary last, and which of them to look at."""
        b, n, length = x.values.shape
        c = self.config
        pad = -length % c.patch
        series = torch.stack([F.pad(x.values, (pad, 0)), F.pad(x.mask, (pad, 0))], dim=-1)
        patches = series.view(b * n, -1, 2 * c.patch)
        seen = patches[..., 1::2].any(-1)
        embedded = self.read(patches) + self.place[-patches.shape[1] :]
        whole = bool(seen.all())
        for mixer in self.mix:
            embedded = mixer(embedded, None if whole else seen)
        own = torch.tensor([self.names.get(name, 0) for name in x.names], device=x.values.device)
        levels = torch.tensor([level if 0 < level < _KINDS else 0 for level in x.levels], device=x.values.device)
        token = self.summary(x.summary) + self.level(levels) + self.identity(own)
        h = torch.cat([embedded, token.view(b * n, 1, -1)], dim=1)
        return h, F.pad(seen, (0, 1), value=True)

    # ---- flow parameters ------------------------------------------------------------------------------------
    def forward(self, x: NetworkInputs, wanted: Sequence[int] | None = None) -> FlowContext:
        """The flow's parameters for all cells (indicator-major, steps within), or those of the ``wanted`` positions.

        With ``wanted`` the factor keeps rows of those alone and columns of all positions up to the last of them.
        """
        token = self.tokens(x)
        n = len(x.names)
        picks = list(range(n)) if wanted is None else list(wanted)
        known = max(picks) + 1
        if picks != list(range(n)):
            upto = list(range(known))
            x, token = x.columns(upto), token[:, :known]
        hidden, linear = self._hidden(x, token)
        raw = self.head(hidden)
        parts = dict(zip(self._sizes(), raw.split(list(self._sizes().values()), dim=-1), strict=True))
        factor = self._factor(token, parts["link_q"], parts["link_k"], x.ahead)
        if picks != list(range(known)):
            at = torch.tensor(picks)
            x, linear = x.columns(picks), linear[:, at]
            parts = {name: p[:, at] for name, p in parts.items()}
            steps = hidden.shape[2]
            rows = (at[:, None] * steps + torch.arange(steps)).flatten()
            factor = factor[:, rows]
        log_weights, means, scales = self._mixture(x, parts, linear)
        return FlowContext(log_weights.flatten(1, 2), means.flatten(1, 2), scales.flatten(1, 2), factor)

    def _hidden(self, x: NetworkInputs, token: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden state of every cell (B, N, S, step_width), and the window's linear functionals (B, N, R)."""
        b, n, length = x.values.shape
        steps = x.calendar.shape[1]
        near = self.config.near(length)
        linear = x.values[..., length - near :] @ self.functionals[:, -near:].T
        parts = [
            token[:, :, None].expand(-1, -1, steps, -1),
            self.step[x.ahead - 1].expand(b, n, -1, -1),
            x.calendar[:, None].expand(-1, n, -1, -1),
            x.seasonal,
            (linear / (1 + 0.2 * linear.abs()))[:, :, None].expand(-1, -1, steps, -1),
        ]
        h = self.head_in(torch.cat(parts, dim=-1))
        return h + self.head_mid(h), linear

    def _mixture(self, x: NetworkInputs, parts: Mapping[str, Tensor], linear: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights, means and scales, (B, N, S, K) each; components: quantiles, newest, seasons, free, wide."""
        c = self.config
        steps = x.calendar.shape[1]
        pace = (x.pace + 0.01)[:, :, None, None]
        last = x.values[..., -1][:, :, None, None].expand(-1, -1, steps, 1)
        season, season_seen = x.seasonal[..., 0::SEASONAL], x.seasonal[..., 3::SEASONAL]
        rise = x.seasonal[..., 1::SEASONAL]
        basis = torch.cat([linear[:, :, None].expand(-1, -1, steps, -1), season, rise], dim=-1)
        gates = parts["anchor"].reshape(*parts["anchor"].shape[:-1], c.anchors, -1)
        anchors = (gates @ basis[..., None])[..., 0]
        around = anchors[..., torch.arange(c.free, device=anchors.device) % c.anchors]
        free = around + parts["offset"] * pace
        atoms = x.atoms[:, :, None].expand(-1, -1, steps, -1) + parts["drift"] * pace
        gap = F.pad(x.atoms.diff(dim=-1), (1, 1), mode="replicate")
        gap = torch.minimum(gap[..., 1:], gap[..., :-1])[:, :, None].expand(-1, -1, steps, -1)
        narrow = F.softplus(parts["atom_scale"])
        scales = torch.cat(
            [
                _SCALE_FLOOR + gap * narrow[..., :1],
                _SCALE_FLOOR * (1 + narrow[..., 1:2]),
                (_SCALE_FLOOR + 0.3 * pace * narrow[..., 2:]).expand(*season.shape),
                _SCALE_FLOOR + pace * torch.exp(parts["free_scale"].clamp(-6.0, 4.0)),
                1.0 + pace + F.softplus(parts["wide"]),
            ],
            dim=-1,
        )
        means = torch.cat([atoms, last, season, free, anchors[..., :1]], dim=-1)
        logits = parts["logits"]
        first = c.quantiles + 1
        blocked = F.pad((1 - season_seen) * -30.0, (first, c.free + 1))
        log_weights = torch.log_softmax(logits + blocked, dim=-1)
        wide = F.pad(log_weights.new_full((1,), math.log(_WIDE_SHARE)), (means.shape[-1] - 1, 0), value=-torch.inf)
        return torch.logaddexp(log_weights + math.log1p(-_WIDE_SHARE), wide), means, scales

    def _factor(self, token: Tensor, q: Tensor, k: Tensor, ahead: Tensor) -> Tensor:
        """(B, N*S, N*S) lower triangular with rows of unit length: how the cells hang together."""
        b, n, steps, _ = q.shape
        h = ahead.to(q.dtype)
        apart = (h[:, None] - h[None, :]).abs()
        decay = torch.exp(-apart * apart.new_tensor(_DECAYS)[:, None, None])
        rank = self.config.copula_rank
        to = self.cross_to(token).view(b, n, len(_DECAYS), rank)
        fro = self.cross_from(token).view(b, n, len(_DECAYS), rank)
        cross = torch.einsum("bidr,bjdr->bijd", to, fro) / rank
        raw = torch.einsum("bijd,dst->bisjt", cross, decay)
        gain, rate = self.own(token).unbind(-1)
        own = (0.6 + gain)[..., None, None] * torch.exp(-0.15 * F.softplus(rate)[..., None, None] * apart)
        own = own + torch.einsum("bnsr,bntr->bnst", q, k) / rank
        own = torch.tril(own, diagonal=-1) + torch.eye(steps, dtype=q.dtype, device=q.device)
        earlier = torch.ones(n, n, dtype=q.dtype, device=q.device).tril(-1)
        raw = raw * earlier[:, None, :, None]
        i = torch.arange(n, device=q.device)
        raw[:, i, :, i, :] = own.transpose(0, 1)
        raw = raw.reshape(b, n * steps, n * steps)
        factor: Tensor = raw / torch.linalg.vector_norm(raw, dim=-1, keepdim=True)
        return factor


def head_sizes(config: ModelConfig) -> dict[str, int]:
    """Length of every part of the head's output, in order."""
    c = config
    return {
        "logits": c.quantiles + 1 + _SEASONS + c.free + 1,
        "anchor": c.anchors * (c.functionals + 2 * _SEASONS),
        "offset": c.free,
        "free_scale": c.free,
        "atom_scale": 3,
        "drift": 1,
        "wide": 1,
        "link_q": c.copula_rank,
        "link_k": c.copula_rank,
    }


def _first_functionals(count: int, lookback: int) -> Tensor:
    """(R, L) starting weights, oldest row first: the newest value, exponential averages, a trend, then noise."""
    w = 0.02 * torch.randn(count, lookback) / math.sqrt(lookback)
    age = torch.arange(lookback - 1, -1, -1, dtype=torch.float32)
    halves = (0.0, 1.0, 4.0, 16.0, 2.0, 8.0, 32.0)
    for r, half in enumerate(halves[:count]):
        shape = (age == 0).float() if half == 0.0 else torch.exp2(-age / half)
        w[r] += shape / shape.sum()
    if count > len(halves) and lookback > 1:
        w[len(halves), -1] += 1.0
        w[len(halves), -2] -= 1.0
    return w


def _first_steps(horizon: int) -> Tensor:
    """(S, 16) starting embedding of the step ahead: its logarithm and a few waves of it."""
    at = torch.log2(torch.arange(1, horizon + 1, dtype=torch.float32))[:, None]
    waves = [f(at * math.pi * 0.5**i) for i in range(_STEP_EMBEDDING // 2) for f in (torch.sin, torch.cos)]
    return 0.3 * torch.cat(waves, dim=-1)
