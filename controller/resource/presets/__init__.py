"""Presets by name: a file each; here its import, its name and its place, in one order."""

from __future__ import annotations

from typing import Literal, get_args

from controller.resource.presets.base import MATCHERS, Preset, default_matchers
from controller.resource.presets.dcgm import PRESET as DCGM
from controller.resource.presets.dynamo import PRESET as DYNAMO
from controller.resource.presets.inference_extension import PRESET as INFERENCE_EXTENSION
from controller.resource.presets.kserve import PRESET as KSERVE
from controller.resource.presets.ray_serve import PRESET as RAY_SERVE
from controller.resource.presets.sglang import PRESET as SGLANG
from controller.resource.presets.tgi import PRESET as TGI
from controller.resource.presets.triton import PRESET as TRITON
from controller.resource.presets.trtllm import PRESET as TRTLLM
from controller.resource.presets.vllm import PRESET as VLLM

__all__ = ["MATCHERS", "PRESETS", "Preset", "PresetName", "default_matchers"]

PresetName = Literal[
    "vllm",
    "sglang",
    "trtllm",
    "triton",
    "tgi",
    "kserve",
    "dynamo",
    "inference-extension",
    "ray-serve",
    "dcgm",
]
_ALL = (VLLM, SGLANG, TRTLLM, TRITON, TGI, KSERVE, DYNAMO, INFERENCE_EXTENSION, RAY_SERVE, DCGM)
PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}
assert tuple(PRESETS) == get_args(PresetName)
