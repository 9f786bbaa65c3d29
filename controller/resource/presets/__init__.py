"""Presets by name: a file each, and a line in both lists here."""

from __future__ import annotations

from typing import Literal, get_args

from controller.resource.presets.base import MATCHERS, Preset, default_matchers
from controller.resource.presets.dcgm import PRESET as DCGM
from controller.resource.presets.tgi import PRESET as TGI
from controller.resource.presets.triton import PRESET as TRITON
from controller.resource.presets.vllm import PRESET as VLLM

__all__ = ["MATCHERS", "PRESETS", "Preset", "PresetName", "default_matchers"]

PresetName = Literal["vllm", "triton", "tgi", "dcgm"]
PRESETS: dict[str, Preset] = {preset.name: preset for preset in (VLLM, TRITON, TGI, DCGM)}
assert tuple(PRESETS) == get_args(PresetName)
