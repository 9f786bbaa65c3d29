"""What a model folder says, held against what a forecaster is made of, before anything of that size is made.

Checksums tell a cut-short file from a whole one, not a good one from a bad: whoever writes a folder writes them too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from forecasting.artefact import Artefact
from forecasting.config import ModelConfig, TrainingConfig, shown
from forecasting.errors import DataError, InputError
from forecasting.features import SeriesStats
from forecasting.network import ForecastNet, head_sizes

__all__ = ["ModelParts", "read_parts"]

MOST_MEMBERS = 64
MOST_NAMES = 10_000
LONGEST_NAME = 1_000
WIDTHS = (1e-3, 1e3)
LARGEST = 10**300


@dataclass(frozen=True)
class ModelParts:
    """What a forecaster is made of."""

    config: ModelConfig
    training: TrainingConfig
    nets: list[ForecastNet]
    stats: dict[str, SeriesStats]
    widths: dict[str, tuple[float, float]]


def read_parts(artefact: Artefact) -> ModelParts:
    """The parts of a forecaster; `InputError` names the field that is not what it has to be."""
    meta = artefact.meta
    config = _settings(ModelConfig.from_dict, meta, "model")
    training = _settings(TrainingConfig.from_dict, meta, "training")
    names = _names(meta)
    stats = {name: _stats(f"stats[{shown(name)}]", value) for name, value in _by_name(meta, "stats").items()}
    widths = {name: _width(f"widths[{shown(name)}]", value) for name, value in _by_name(meta, "widths", {}).items()}
    members = meta.get("members")
    if not isinstance(members, int) or isinstance(members, bool) or not 1 <= members <= MOST_MEMBERS:
        raise DataError(f"members is {shown(members)}, expected 1 to {MOST_MEMBERS}")
    states = _states(artefact.tensors, members)
    return ModelParts(config, training, [_net(config, names, *state) for state in states.items()], stats, widths)


def _settings(read: Callable[[Mapping[str, Any]], Any], meta: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401
    try:
        return read(_by_name(meta, name))
    except InputError as error:
        raise DataError(f"{name}: {error}") from error
    except (TypeError, ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise DataError(f"{name}: {type(error).__name__}: {shown(str(error))}") from error


def _by_name(meta: Mapping[str, Any], name: str, default: Any = None) -> Mapping[str, Any]:  # noqa: ANN401
    found = meta.get(name, default)
    if not isinstance(found, Mapping):
        raise DataError(f"{name} is {shown(found)}, expected values by name")
    if len(found) > MOST_NAMES:
        raise DataError(f"{name} has {len(found)} entries, expected at most {MOST_NAMES}")
    return found


def _names(meta: Mapping[str, Any]) -> list[str]:
    names = meta.get("names")
    if not isinstance(names, list) or len(names) > MOST_NAMES:
        raise DataError(f"names is {shown(names)}, expected a list of at most {MOST_NAMES} names")
    for name in names:
        if not isinstance(name, str) or len(name) > LONGEST_NAME or not _is_text(name):
            raise DataError(f"names holds {shown(name)}, expected text of at most {LONGEST_NAME} characters")
    if len(set(names)) < len(names):
        raise DataError("names holds one name twice")
    return names


def _is_text(name: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in name)


def _stats(where: str, value: Any) -> SeriesStats:  # noqa: ANN401
    wanted = {f.name for f in fields(SeriesStats)}
    if not isinstance(value, Mapping) or set(value) != wanted:
        raise DataError(f"{where} is {shown(value)}, expected {', '.join(sorted(wanted))}")
    numbers = {name: _number(f"{where}.{name}", number) for name, number in value.items()}
    for name in ("window_spread", "spread", "centre"):
        if not math.isfinite(numbers[name]) or (name != "centre" and numbers[name] < 0.0):
            raise DataError(f"{where}.{name} is {numbers[name]}, expected a finite number, and a spread of 0 or more")
    if not numbers["low"] <= numbers["high"]:
        raise DataError(f"{where}.low is {numbers['low']}, expected at most high, {numbers['high']}")
    return SeriesStats(**numbers)


def _width(where: str, value: Any) -> tuple[float, float]:  # noqa: ANN401
    if not isinstance(value, list) or len(value) != 2:
        raise DataError(f"{where} is {shown(value)}, expected two numbers")
    apart, scale = (_number(where, number) for number in value)
    for number in (apart, scale):
        if not WIDTHS[0] <= number <= WIDTHS[1]:
            raise DataError(f"{where} is {shown(value)}, expected numbers of {WIDTHS[0]} to {WIDTHS[1]}")
    return apart, scale


def _number(where: str, value: Any) -> float:  # noqa: ANN401
    # Infinite bounds are said as such; a whole number that no float holds is nothing.
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or (isinstance(value, int) and abs(value) > LARGEST):
        raise DataError(f"{where} is {shown(value)}, expected a number")
    return float(value)


def _states(tensors: Mapping[str, Tensor], members: int) -> dict[str, dict[str, Tensor]]:
    """Weights by member, in single precision."""
    states: dict[str, dict[str, Tensor]] = {f"net{i}": {} for i in range(members)}
    for name, tensor in tensors.items():
        owner, _, inner = name.partition(".")
        if owner not in states:
            raise DataError(f"the weights {shown(name)} belong to none of the {members} members")
        if not tensor.is_floating_point():
            raise DataError(f"the weights {shown(name)} are {tensor.dtype}, expected floating-point numbers")
        single = tensor.float()
        if not bool(torch.isfinite(single).all()):
            raise DataError(f"the weights {shown(name)} hold numbers that are not finite")
        states[owner][inner] = single
    return states


def _net(config: ModelConfig, names: list[str], owner: str, state: Mapping[str, Tensor]) -> ForecastNet:
    """A network with these weights; its sizes are those of the file, so that no small file asks for a large one."""
    leading = {
        "identity.weight": (len(names) + 1, config.width),
        "read.weight": (config.width, 2 * config.patch),
        "place": (-(-config.lookback // config.patch), config.width),
        "functionals": (config.functionals, config.near(config.lookback)),
        "step": (config.horizon, state["step"].shape[-1] if "step" in state and state["step"].dim() else 0),
        "head_mid.0.weight": (config.step_width, config.step_width),
        "head.weight": (sum(head_sizes(config).values()), config.step_width),
    }
    for name, shape in leading.items():
        _check_shape(f"{owner}.{name}", state.get(name), shape)
    mixers = 0 if config.temporal_attention is None else config.temporal_mixers
    layered = ((config.temporal_layers, "over_time"), (config.cascade_layers, "across"), (mixers, "mix"))
    for layers, prefix in layered:
        found = len({name.split(".")[1] for name in state if name.startswith(f"{prefix}.") and name.count(".") > 1})
        if found != layers:
            raise DataError(f"{owner}.{prefix}: the weights hold {found} layers, the settings say {layers}")
    net = ForecastNet(config, names)
    wanted = net.state_dict()
    for name in sorted(set(state) - set(wanted)):
        raise DataError(f"{owner}: the weights {shown(name)} are none of this network's")
    for name, tensor in wanted.items():
        _check_shape(f"{owner}.{name}", state.get(name), tuple(tensor.shape))
    net.load_state_dict(dict(state))
    return net.eval()


def _check_shape(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    if tensor is None:
        raise DataError(f"the weights {name} are missing")
    if tuple(tensor.shape) != shape:
        raise DataError(f"the weights {name} have the shape {tuple(tensor.shape)}, the settings say {shape}")
