"""`Forecaster`: HARMONY's own forecaster, the hierarchical-attention flow, behind the one forecasting interface."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from forecasting.artefact import Artefact, load_artefact, save_artefact
from forecasting.base import Progress
from forecasting.calibration import Width, cell_widths, fitted_widths, with_widths
from forecasting.config import ModelConfig, TrainingConfig
from forecasting.distribution import ForecastBatch, LogProb
from forecasting.door import FromReadings
from forecasting.errors import ArtefactError, DataError, InputError, UsageError, suggest
from forecasting.explaining import Explanation, explain
from forecasting.features import NetworkInputs, SeriesStats, make_inputs, series_stats
from forecasting.flow import FlowContext, JointFlow
from forecasting.frames import Frame
from forecasting.network import EXPERTS, ForecastNet
from forecasting.panel import FloatArray, IntArray, Panel
from forecasting.reading import read_parts
from forecasting.reshape import coarsened, columns, ordered, rows
from forecasting.scope import one_thread, seeded
from forecasting.stale import Made, Unseen, later, moved_back, replaced, unseen
from forecasting.training import Examples, examples_of, train
from forecasting.windows import WindowBatch

__all__ = ["Forecaster"]

_BUNDLED = Path(__file__).parent / "models"
_CHUNK_CELLS = 24_000
_CHUNK_TOKENS = 1_000_000
_MOST_VALUES = 64_000_000
"""Readings that training windows hold at most: of long windows fewer are kept."""
_HELD_OUT = 0.15


class Forecaster(FromReadings):
    """Joint probabilistic forecasts of all indicators of a service: fit, update, predict, save, load.

    Args:
        model: shape of the network.
        training: how it is trained.
        start: what `fit` starts from: "base" (the bundled model; its shape is taken over), or None (from scratch).

    A window may be shorter or longer than what it was trained on, indicators may be unknown, and values may be absent;
    an indicator that is absent all through a window has NaN paths.
    """

    def __init__(
        self,
        model: ModelConfig | None = None,
        training: TrainingConfig | None = None,
        *,
        start: str | None = None,
    ) -> None:
        self._model = model
        self._training = training or TrainingConfig()
        self._start = start
        self._nets: list[ForecastNet] = []
        self._stats: dict[str, SeriesStats] = {}
        self._widths: dict[str, Width] = {}
        self._digest = ""

    # ---- identity -------------------------------------------------------------------------------------------
    @property
    def name(self) -> str:
        """The method's name in tables."""
        return "harmony"

    @property
    def version(self) -> str:
        """Digest of weights, shape and known numbers; "untrained" before `fit` or `load`."""
        if not self._nets:
            return "untrained"
        if not self._digest:
            whole = self._artefact()
            used = {name: value for name, value in whole.meta.items() if name != "training"}
            self._digest = Artefact(whole.tensors, used).digest
        return self._digest

    @property
    def config(self) -> ModelConfig:
        """Shape of the network in use (or to be trained)."""
        return self._nets[0].config if self._nets else (self._model or ModelConfig())

    @property
    def lookback(self) -> int:
        """Rows of history that it reads at most."""
        return self.config.lookback

    @property
    def parameters(self) -> int:
        """How many numbers were learned, all members together; 0 before `fit` or `load`."""
        return sum(p.numel() for net in self._nets for p in net.parameters())

    # ---- learning -------------------------------------------------------------------------------------------
    def fit(
        self,
        panels: Sequence[Panel],
        *,
        lookback: int,
        horizon: int,
        validation: Sequence[Panel] = (),
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Self:
        """Learn from ``panels``; without ``validation`` panels the last 15 % of each is held out for choosing.

        Raises `DataError` if no panel is long enough for one window.
        """
        _check_panels(panels, validation)
        if not panels:
            raise DataError("fit needs at least one panel")
        started = Forecaster.load(self._start) if self._start else None
        wanted = dataclasses.replace(self._model or ModelConfig(), lookback=lookback, horizon=horizon)
        config = started.config if started else wanted
        self._stats = series_stats(panels, config.near(lookback))
        names = sorted({n for p in panels for n in p.names})
        members = []
        for member in range(self._training.members):
            with seeded(seed + member):
                net = _widened(started._nets[0], names) if started else ForecastNet(config, names)
            members.append(net)
        with one_thread():
            self._learn(members, panels, validation, lookback, horizon, self._training, seed, progress)
        return self

    def update(self, panels: Sequence[Panel], *, seed: int = 0, progress: Progress | None = None) -> Self:
        """A short fine-tune on newer rows; kept only where it scores better on the held-out last 15 % of them."""
        if not self._nets:
            raise DataError("this forecaster knows nothing yet: fit or load it before update")
        _check_panels(panels)
        config = self.config
        fresh = series_stats(panels, config.near(config.lookback))
        self._stats = {**self._stats, **fresh}
        nets = [_widened(net, sorted({n for p in panels for n in p.names})) for net in self._nets]
        brief = dataclasses.replace(
            self._training,
            steps=self._training.update_steps,
            learning_rate=5e-4,
            warm_up=20,
            check_every=50,
            patience=2,
            max_windows=8_000,
            max_validation=200,
        )
        longest = max((len(p) for p in panels), default=0)
        horizon = max(1, min(config.horizon, 12, longest // 4))
        with one_thread():
            self._learn(nets, panels, (), config.lookback, horizon, brief, seed, progress)
        return self

    def _learn(
        self,
        nets: Sequence[ForecastNet],
        panels: Sequence[Panel],
        validation: Sequence[Panel],
        lookback: int,
        horizon: int,
        training: TrainingConfig,
        seed: int,
        progress: Progress | None,
    ) -> None:
        """Train every member on the same windows and keep the best weights of each."""
        config = nets[0].config
        lookback, horizon = min(lookback, config.lookback), min(horizon, config.horizon)
        learn, judge = [], []
        for panel in (ordered(p) for p in panels):
            cut = len(panel) if validation else round((1 - _HELD_OUT) * len(panel))
            most = min(training.max_windows, _MOST_VALUES // (lookback * len(panel.indicators)))
            share = max(1, most // len(panels))
            learn.append(self._examples(panel.rows(0, cut), config, lookback, horizon, share))
            if not validation:
                late = panel.rows(cut - lookback, len(panel)) if cut > lookback else panel
                share = max(1, training.max_validation // len(panels))
                judge.append(self._examples(late, config, lookback, horizon, share, first=min(lookback, cut)))
        for panel in (ordered(p) for p in validation):
            share = max(1, training.max_validation // len(validation))
            # Rows that only serve as history were learned from: to judge on them as well would prefer what overfits.
            first = lookback if len(panel) > lookback + horizon else len(panel) // 2
            judge.append(self._examples(panel, config, lookback, horizon, share, first=first))
        known, unseen = [e for e in learn if e], [e for e in judge if e]
        if training.hide_seasons > 0:
            unseen += [e.without_seasons() for e in unseen]
        kept = []
        for member, net in enumerate(nets):
            fitted = train(
                net,
                known,
                unseen,
                training,
                seed=seed + member,
                keep_start=bool(self._nets),
                progress=None if progress is None else _of_all(progress, member, len(nets)),
            )
            kept.append(fitted.net.eval())
        self._nets, self._digest, self._widths = kept, "", {}
        if validation:
            # judged without seasons too: where the caller forbids them, that is how forecasts will be made
            self._widths = fitted_widths(lambda x: self._context(x, range(len(x.names))), unseen)

    def _examples(
        self, panel: Panel, config: ModelConfig, lookback: int, horizon: int, limit: int, *, first: int = 0
    ) -> Examples | None:
        """Windows of one panel for training or validation."""
        return examples_of(
            panel, config, lookback=lookback, horizon=horizon, stats=self._stats, first=first, limit=limit
        )

    # ---- forecasting ----------------------------------------------------------------------------------------
    def _of_windows(
        self, windows: WindowBatch, horizon: int, *, samples: int, seed: int, only: Sequence[str] | None
    ) -> ForecastBatch:
        """What `predict` makes of windows: ``only`` returns the very paths that the full forecast has for those.

        Beyond the trained horizon the window is averaged to a coarser grid and every coarse step is repeated. Where the
        newest k rows of an indicator are absent, it is forecast k steps further from the last row seen
        (`forecasting.stale`).
        """
        wanted = self._wanted(windows, horizon, samples, only)
        found = self._whole(windows, horizon, samples, seed, wanted)
        stale = unseen(windows, wanted)
        return self._from_last_seen(found, windows, stale, samples, seed, wanted) if stale.any() else found

    def predict_as_is(
        self,
        windows: WindowBatch,
        horizon: int,
        *,
        samples: int = 100,
        seed: int = 0,
        only: Sequence[str] | None = None,
    ) -> ForecastBatch:
        """`predict` that takes absent newest rows for rows like any others: who hides some of what is there asks so."""
        return self._whole(windows, horizon, samples, seed, self._wanted(windows, horizon, samples, only))

    def _wanted(self, windows: WindowBatch, horizon: int, samples: int, only: Sequence[str] | None) -> list[int]:
        """The columns of what is asked for, once it is checked."""
        if not self._nets:
            raise DataError("this forecaster knows nothing yet: fit it, or load one (Forecaster.base())")
        if horizon < 1 or samples < 1:
            raise DataError(f"horizon {horizon} and samples {samples} must be 1 or more")
        if isinstance(only, str) or (only is not None and not len(only)):
            raise DataError(f"only is {only!r}; expected a list of names such as ['load'], or None for all")
        names = [i.name for i in windows.indicators]
        for name in only or ():
            if name not in names:
                raise DataError(f"no indicator {name!r} among the windows' columns; {suggest(name, names)}")
        return [names.index(n) for n in (names if only is None else only)]

    def _whole(
        self, windows: WindowBatch, horizon: int, samples: int, seed: int, wanted: Sequence[int]
    ) -> ForecastBatch:
        """`predict` of checked windows whose newest rows are taken as they are."""
        factor = -(-horizon // self.config.horizon)
        if factor == 1:
            return self._predict(windows, horizon, samples, seed, wanted)
        coarse = self._whole(coarsened(windows, factor), -(-horizon // factor), samples, seed, wanted)
        paths = np.repeat(coarse.paths, factor, axis=2)[:, :, :horizon]
        experts = {n: np.repeat(w, factor, axis=1)[:, :horizon] for n, w in (coarse.experts or {}).items()}
        return dataclasses.replace(
            coarse, paths=paths, step_s=windows.step_s, origin_s=windows.end_s.copy(), experts=experts
        )

    def _from_last_seen(
        self,
        found: ForecastBatch,
        windows: WindowBatch,
        stale: IntArray,
        samples: int,
        seed: int,
        wanted: Sequence[int],
    ) -> ForecastBatch:
        """``found``, but where newest rows are absent (`unseen`) what follows these in a forecast from the rows before.

        Indicators that were last seen at different times are forecast apart from each other.
        """
        horizon, most = found.paths.shape[2], self.config.horizon

        def forecast(part: WindowBatch, group: Unseen) -> Made:
            def made(moved: WindowBatch, steps: int) -> Made:
                batch = self._whole(moved, steps, samples, seed, [wanted[c] for c in group.columns])
                return batch.paths, batch.experts or {}

            return later(made, part, group.rows, horizon, most)

        def log_prob_of(i: int) -> LogProb:
            def log_prob(values: FloatArray) -> float:
                total = 0.0
                for k in np.unique(stale[i]).tolist():
                    if k + horizon > most:
                        raise DataError(f"no density {k + horizon} steps after the last reading; expected up to {most}")
                    moved = moved_back(rows(windows, i), k)
                    density = self._predict(moved, k + horizon, 1, seed, wanted)[0].log_prob
                    own = np.where(stale[i] == k, values, np.nan)
                    total += density(np.concatenate([np.full((k, len(wanted)), np.nan), own]))
                return total

            return log_prob

        paths, experts = replaced(found.paths, found.experts or {}, windows, stale, forecast)
        return dataclasses.replace(found, paths=paths, experts=experts, log_prob_of=log_prob_of)

    def _predict(
        self, windows: WindowBatch, horizon: int, samples: int, seed: int, wanted: Sequence[int]
    ) -> ForecastBatch:
        """`_of_windows` within the trained horizon; ``wanted`` are column positions."""
        order = sorted(range(len(windows.indicators)), key=lambda i: (int(windows.indicators[i].level), i))
        if not self.config.compat_zero_mask and wanted:
            # With true masks nothing flows up the levels, so columns of lower levels need not be read at all.
            deepest = max(int(windows.indicators[i].level) for i in wanted)
            order = [i for i in order if int(windows.indicators[i].level) <= deepest]
        picks = [order.index(i) for i in wanted]
        noise = _noise(samples, len(windows.indicators) * horizon, seed)[:, : len(order) * horizon]
        paths = np.empty((len(windows), samples, horizon, len(wanted)))
        weights = np.empty((len(EXPERTS), len(windows), horizon, len(wanted)))
        tokens = len(order) * self.config.tokens(windows.lookback)
        size = max(1, min(_CHUNK_CELLS // max(1, len(wanted) * horizon), _CHUNK_TOKENS // max(1, tokens)))
        at = 0
        with one_thread(), torch.inference_mode():
            for chunk in columns(windows, order).chunks(size):
                inputs = self._inputs(chunk, horizon)
                context = self._context(inputs, picks)
                paths[at : at + len(chunk)] = self._paths(inputs, context, picks, noise, horizon)
                weights[:, at : at + len(chunk)] = self._weights(context, len(picks), horizon)
                at += len(chunk)
        return ForecastBatch(
            paths=paths,
            indicators=tuple(windows.indicators[i] for i in wanted),
            origin_s=windows.end_s.copy(),
            step_s=windows.step_s,
            model=f"{self.name} {self.version}",
            log_prob_of=lambda i: self._log_prob_of(windows, i, horizon, order, picks),
            experts=dict(zip(EXPERTS, weights, strict=True)),
        )

    def explain(
        self, windows: WindowBatch | Panel | Frame, horizon: int, indicator: str | None = None, *, seed: int = 0
    ) -> Explanation:
        """Which experts, indicators, levels and past steps moved the forecast of one indicator (the first by default).

        ``windows`` is one window, or a panel or wide frame from whose last row on is forecast; with older rows in these
        it also says what the attention is on beyond habit. Raises as `forecasting.explaining.explain`.
        """
        return explain(self, windows, horizon, indicator, seed=seed)

    def looks(self, windows: WindowBatch, indicator: str, horizon: int) -> tuple[FloatArray, int]:
        """How a forecast's attention over time is shared among stretches of the past, and how many rows each has.

        The shares are (batch, stretches), oldest first, the mean over heads and members; they sum to 1, or to 0 where
        nothing was read. Raises `DataError` for an unknown indicator, or before anything was learned.
        """
        if not self._nets:
            raise DataError("this forecaster knows nothing yet: fit it, or load one (Forecaster.base())")
        names = [i.name for i in windows.indicators]
        if indicator not in names:
            raise DataError(f"no indicator {indicator!r} among the windows' columns; {suggest(indicator, names)}")
        factor = -(-horizon // self.config.horizon)
        one = columns(windows, [names.index(indicator)])
        with one_thread(), torch.inference_mode():
            inputs = self._inputs(coarsened(one, factor) if factor > 1 else one, 1)
            found = torch.stack([net.looks(inputs) for net in self._nets]).double().mean(0)
        out: FloatArray = found[:, 0].numpy()
        return out, factor * self.config.patch

    def _inputs(self, windows: WindowBatch, horizon: int) -> NetworkInputs:
        """The network's inputs, from the newest rows that it reads."""
        lookback = self.config.lookback
        if windows.lookback > lookback:
            windows = dataclasses.replace(windows, values=windows.values[:, -lookback:])
        return make_inputs(
            windows, horizon, quantiles=self.config.quantiles, stats=self._stats, near=self.config.near_rows
        )

    def _context(self, inputs: NetworkInputs, picks: Sequence[int]) -> FlowContext:
        """Flow parameters of the picked indicators; several members are joined as one mixture."""
        widths = cell_widths(self._widths, [inputs.names[p] for p in picks], len(inputs.ahead))
        return with_widths(self._joined([net(inputs, picks) for net in self._nets]), widths)

    def _joined(self, contexts: Sequence[FlowContext]) -> FlowContext:
        """The members' parameters as those of one mixture."""
        if len(contexts) == 1:
            return contexts[0]
        spikes = self._nets[0].spikes
        lift = -float(np.log(len(contexts)))

        def joined(parts: list[Tensor]) -> Tensor:
            return torch.cat([p[..., :spikes] for p in parts] + [p[..., spikes:] for p in parts], dim=-1)

        factor = torch.stack([c.factor for c in contexts]).mean(0)
        return FlowContext(
            joined([c.log_weights + lift for c in contexts]),
            joined([c.means for c in contexts]),
            joined([c.scales for c in contexts]),
            factor / torch.linalg.vector_norm(factor, dim=-1, keepdim=True),
        )

    def _weights(self, context: FlowContext, indicators: int, horizon: int) -> FloatArray:
        """(experts, B, horizon, indicators) what the components that point to the same have of the mixture's weight."""
        net, members = self._nets[0], len(self._nets)
        share, narrow = context.log_weights.exp(), net.spikes * members
        kept = [p.reshape(*p.shape[:2], members, -1).sum(2) for p in (share[..., :narrow], share[..., narrow:])]
        groups = torch.split(torch.cat(kept, dim=-1), list(net.expert_sizes), dim=-1)
        found = torch.stack([group.sum(-1) for group in groups]).double()
        out: FloatArray = found.reshape(len(groups), len(share), indicators, horizon).transpose(-1, -2).numpy()
        return out

    def _paths(
        self, inputs: NetworkInputs, context: FlowContext, picks: Sequence[int], noise: Tensor, horizon: int
    ) -> FloatArray:
        """(B, samples, horizon, picked) in the indicators' units."""
        columns = noise[:, : context.factor.shape[-1]]
        drawn = JointFlow.sample_from(columns, context, spikes=self._nets[0].spikes * len(self._nets))
        at = torch.tensor(list(picks))
        values = drawn.double().reshape(*drawn.shape[:2], len(picks), horizon).transpose(-1, -2).numpy()
        centre, scale = inputs.centre[:, at].numpy(), inputs.scale[:, at].numpy()
        values = values * scale[:, None, None] + centre[:, None, None]
        values = np.maximum(values, inputs.low[:, at].numpy()[:, None, None])
        # A window of zeros is divided by a number that only avoids dividing by zero: what that leaves is dust.
        dust = (inputs.pace[:, at].numpy() == 0.0) & (scale <= 1e-12 * np.maximum(1.0, np.abs(centre)))
        values = np.where(dust[:, None, None], centre[:, None, None], values)
        present = inputs.present[:, at].numpy()
        for p, pick in enumerate(picks):
            known = self._stats.get(inputs.names[pick])
            if known is not None and known.spread == 0.0:
                still = inputs.pace[:, pick].numpy() == 0.0
                values[still, :, :, p] = centre[still, p, None, None]
        return np.where(present[:, None, None], values, np.nan)

    def _log_prob_of(
        self, windows: WindowBatch, i: int, horizon: int, order: Sequence[int], picks: Sequence[int]
    ) -> LogProb:
        """The joint log-density of window ``i``, in the indicators' units; absent outcomes are integrated out."""

        def log_prob(values: FloatArray) -> float:
            with torch.inference_mode():
                one = next(iter(columns(rows(windows, i), order).chunks(1)))
                inputs = self._inputs(one, horizon)
                full = list(range(len(inputs.names)))
                context = self._context(inputs, full).double()
                at = torch.tensor(list(picks))
                filled = torch.full((len(full), horizon), float("nan"), dtype=torch.float64)
                filled[at] = torch.from_numpy(np.ascontiguousarray(values.T))
                scaled = (filled - inputs.centre[0][:, None]) / inputs.scale[0][:, None]
                observed = ~scaled.isnan() & inputs.present[0][:, None]
                y, seen = torch.where(observed, scaled, 0.0).view(1, -1), observed.view(1, -1)
                marginal, copula = JointFlow().log_prob_parts(y, seen, context)
                stretch = (inputs.scale[0].log()[:, None] * observed).sum()
                return float(marginal.sum() + copula.sum() - stretch)

        return log_prob

    # ---- files ----------------------------------------------------------------------------------------------
    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model as a folder (atomically); raises `DataError` before anything was learned."""
        if not self._nets:
            raise DataError("nothing to save: this forecaster was neither fitted nor loaded")
        return save_artefact(folder, self._artefact())

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Forecaster:
        """Read a model folder, or a bundled one by name ("base"); raises `ArtefactError` for one that is not whole.

        A bundled name is always that model, whatever lies in the working directory; a folder of that name is "./base".
        """
        source = Path(folder)
        bundled = _BUNDLED / str(folder)
        named = isinstance(folder, str) and folder == source.name and bundled.is_dir()
        if named or (not source.exists() and len(source.parts) == 1):
            if not bundled.is_dir():
                known = sorted(p.name for p in _BUNDLED.glob("*") if p.is_dir()) if _BUNDLED.is_dir() else []
                raise ArtefactError(f"no model folder or bundled model {str(folder)!r}; {suggest(str(folder), known)}")
            source = bundled
        return cls._restore(load_artefact(source), source)

    @classmethod
    def base(cls) -> Forecaster:
        """The bundled model, which forecasts services that it has never seen."""
        return cls.load("base")

    @classmethod
    def of_networks(cls, nets: Sequence[ForecastNet], training: TrainingConfig | None = None) -> Forecaster:
        """A forecaster of networks trained elsewhere, equal in shape (`benchmarks/train_base.py`)."""
        made = cls(model=nets[0].config, training=training)
        made._nets = [net.eval() for net in nets]
        return made

    @property
    def networks(self) -> tuple[ForecastNet, ...]:
        """Its members, equal in shape; none before anything was learned."""
        return tuple(self._nets)

    def inputs_of(self, panel: Panel, *, lookback: int, first: int, limit: int) -> Examples | None:
        """Windows of a panel as its networks read them, with what came after; None if there is not one.

        ``lookback`` rows are read, forecasts begin at row ``first`` or later, and at most ``limit`` windows are kept.
        """
        config = self.config
        return self._examples(ordered(panel), config, lookback, config.horizon, limit, first=first)

    def with_temporal_attention(self, method: str, options: Mapping[str, Any]) -> Forecaster:
        """The same weights with another attention among the rows of a window, one without weights of its own.

        Raises `UsageError` for a method or options that cannot be, or that have weights.
        """
        config = dataclasses.replace(self.config, temporal_attention=method, temporal_options=dict(options))
        nets = []
        for net in self._nets:
            other = ForecastNet(config, list(net.names))
            try:
                other.load_state_dict(net.state_dict())
            except RuntimeError as error:
                raise UsageError(f"temporal_attention {method!r} has weights of its own: train with it") from error
            nets.append(other.eval())
        made = Forecaster(model=config, training=self._training)
        made._nets, made._stats, made._widths = nets, dict(self._stats), dict(self._widths)
        return made

    def _artefact(self) -> Artefact:
        """Weights and settings as they are written."""
        tensors: dict[str, Tensor] = {}
        for i, net in enumerate(self._nets):
            tensors |= {f"net{i}.{name}": t for name, t in net.state_dict().items()}
        meta = {
            "model": self.config.to_dict(),
            "training": self._training.to_dict(),
            "members": len(self._nets),
            "names": list(self._nets[0].names),
            "widths": dict(sorted(self._widths.items())),
            "stats": {name: dataclasses.asdict(s) for name, s in sorted(self._stats.items())},
        }
        return Artefact(tensors, meta)

    @classmethod
    def _restore(cls, artefact: Artefact, source: Path) -> Forecaster:
        """A forecaster from what was read; `ArtefactError` if the parts do not fit together."""
        try:
            parts = read_parts(artefact)
        except InputError as error:
            raise ArtefactError(f"{source}: {error}; train it again") from error
        made = cls(model=parts.config, training=parts.training)
        made._stats, made._widths, made._nets = parts.stats, parts.widths, parts.nets
        return made


def _of_all(progress: Progress, member: int, members: int) -> Progress:
    """What one member tells, as a part of all members' work."""
    return lambda done, total, note: progress(member * total + done, members * total, note)


def _check_panels(*groups: Sequence[Panel]) -> None:
    """`DataError` where something else than a list of panels is to be learned from."""
    for group in groups:
        for panel in (group,) if isinstance(group, Panel) or hasattr(group, "columns") else group:
            if panel is group or not isinstance(panel, Panel):
                raise DataError(
                    f"a {type(panel).__name__} cannot be learned from; expected a list of panels, such as "
                    f"{'[panel]' if isinstance(panel, Panel) else '[Panel.of(frame)]'}"
                )


def _noise(samples: int, cells: int, seed: int) -> Tensor:
    """(samples, cells) standard normal, a Latin hypercube: every column covers all of 1/samples of the distribution."""
    generator = np.random.default_rng(seed)
    strata = generator.permuted(np.tile(np.arange(samples), (cells, 1)), axis=1).T
    p = (strata + generator.uniform(0.25, 0.75, size=strata.shape)) / samples
    noise: Tensor = torch.special.ndtri(torch.from_numpy(p)).float()
    return noise


def _widened(net: ForecastNet, names: Sequence[str]) -> ForecastNet:
    """A copy of the network that also knows the identity of ``names`` (new ones begin as unknown ones are read)."""
    fresh = [n for n in names if n not in net.names]
    wide = ForecastNet(net.config, [*net.names, *fresh])
    state: Mapping[str, Tensor] = net.state_dict()
    grown = torch.cat([state["identity.weight"], torch.zeros(len(fresh), net.config.width)])
    wide.load_state_dict({**state, "identity.weight": grown})
    return wide
