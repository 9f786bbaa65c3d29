"""Model files: a folder with `weights.safetensors` and `model.json`; no code runs on loading.

`model.json` names the format version, the settings, what was learned of every indicator's numbers, and the SHA-256 of
the weights and of itself, so that a cut-short, altered or foreign file is told from a good one. Writing is atomic: a
temporary folder is renamed into place.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from forecasting.config import shown
from forecasting.errors import ArtefactError

__all__ = ["FORMAT", "FORMAT_VERSION", "Artefact", "load_artefact", "save_artefact"]

FORMAT = "harmony-forecaster"
FORMAT_VERSION = 1
_WEIGHTS = "weights.safetensors"
_HEADER = "model.json"
_MOST_HEADER = 16_000_000
_MOST_WEIGHTS = 1_000_000_000
_AGAIN = "fetch or train it again"
_EXPECTED = {str: "text", dict: "values by name"}


@dataclass(frozen=True, eq=False)
class Artefact:
    """Weights by name, and plain values (`json`) that say how to use them."""

    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 of weights and values: equal models have equal digests."""
        return hashlib.sha256(_packed(self.tensors) + _canonical(self.meta)).hexdigest()[:12]


def save_artefact(folder: str | os.PathLike[str], artefact: Artefact) -> Path:
    """Write ``artefact`` as ``folder``, replacing a model that is there; returns the folder.

    Nothing half-written is left behind if it is interrupted. Raises `ArtefactError` if ``folder`` exists and is not
    a model, or cannot be written.
    """
    target = Path(folder)
    if target.exists() and not (target / _HEADER).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise ArtefactError(f"{target} exists and is not a model folder; give a new name or an empty folder")
    weights = _packed(artefact.tensors)
    body = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "meta": _plain(artefact.meta),
    }
    body["sha256"] = hashlib.sha256(_canonical(body)).hexdigest()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise ArtefactError(f"cannot write {target}: {error.strerror}") from error
    try:
        (fresh / _WEIGHTS).write_bytes(weights)
        (fresh / _HEADER).write_text(json.dumps(body, indent=1, sort_keys=True, allow_nan=False) + "\n")
        fresh.chmod(0o755)
        _swap(fresh, target)
    except OSError as error:
        raise ArtefactError(f"cannot write {target}: {error.strerror}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def load_artefact(folder: str | os.PathLike[str]) -> Artefact:
    """Read a model folder; raises `ArtefactError` saying what is wrong with which file, and what would be accepted."""
    source = Path(folder)
    header, weights_file = source / _HEADER, source / _WEIGHTS
    if not header.is_file():
        raise ArtefactError(f"no model in {source}: {_HEADER} is missing; give a folder written by save()")
    try:
        body = json.loads(_bytes(header, _MOST_HEADER), parse_constant=_no_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(f"{header} is not readable JSON (cut short?): {_line(error)}; {_AGAIN}") from error
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        found = shown(body.get("format")) if isinstance(body, dict) else type(body).__name__
        raise ArtefactError(f"{header} is of format {found}, expected {FORMAT!r}")
    if body.get("format_version") != FORMAT_VERSION:
        raise ArtefactError(
            f"{header} has format version {shown(body.get('format_version'))}, this release reads version "
            f"{FORMAT_VERSION}; train it again or use the release that wrote it"
        )
    stated = body.pop("sha256", None)
    try:
        is_whole = stated == hashlib.sha256(_canonical(body)).hexdigest()
        meta = _restored(body.get("meta"))
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{header} holds values that no model has: {_line(error)}; {_AGAIN}") from error
    if not is_whole:
        raise ArtefactError(f"{header} was altered: its contents do not match its own checksum; {_AGAIN}")
    for name, value, kind in (("weights_sha256", body.get("weights_sha256"), str), ("meta", meta, dict)):
        if not isinstance(value, kind):
            raise ArtefactError(f"{header}: {name} is {shown(value)}, expected {_EXPECTED[kind]}; {_AGAIN}")
    try:
        weights = _bytes(weights_file, _MOST_WEIGHTS)
    except (OSError, ValueError) as error:
        raise ArtefactError(f"cannot read {weights_file}: {_line(error)}; a model needs both files") from error
    if hashlib.sha256(weights).hexdigest() != body["weights_sha256"]:
        raise ArtefactError(
            f"{weights_file} ({len(weights)} bytes) is cut short or altered: its checksum is not the one in {_HEADER}; "
            f"{_AGAIN}"
        )
    try:
        tensors = load_tensors(weights)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, RecursionError) as error:
        raise ArtefactError(f"{weights_file} holds no safetensors: {_line(error)}; {_AGAIN}") from error
    return Artefact(tensors=tensors, meta=meta)


def _bytes(file: Path, most: int) -> bytes:
    """The content of a file that is one, and no larger than a model's is."""
    if not file.is_file():
        raise ValueError("there is no such file")
    size = file.stat().st_size
    if size > most:
        raise ValueError(f"it has {size:,} bytes, expected at most {most:,}")
    return file.read_bytes()


def _no_constant(name: str) -> Any:  # noqa: ANN401
    raise ValueError(f"{name} is no JSON")


def _line(error: BaseException) -> str:
    """What an error says, in one line of bounded length."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return next(iter(told.splitlines()), "")[:200] or type(error).__name__


def _swap(fresh: Path, target: Path) -> None:
    """Move ``fresh`` to ``target``; a model that was there is moved aside first and removed after."""
    if not target.exists():
        fresh.replace(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    try:
        target.replace(aside / "model")
        try:
            fresh.replace(target)
        except BaseException:
            (aside / "model").replace(target)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _packed(tensors: Mapping[str, Tensor]) -> bytes:
    """The tensors as safetensors bytes, in the order of their names."""
    return save_tensors({name: tensors[name].detach().contiguous().to(torch.device("cpu")) for name in sorted(tensors)})


def _canonical(value: Any) -> bytes:  # noqa: ANN401
    """One spelling per value."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _plain(value: Any) -> Any:  # noqa: ANN401
    """JSON values; infinite numbers as text, since JSON has none."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return f"float:{value}"
    return value


def _restored(value: Any) -> Any:  # noqa: ANN401
    """The inverse of `_plain` (tuples come back as lists)."""
    if isinstance(value, dict):
        return {k: _restored(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_restored(v) for v in value]
    if isinstance(value, str) and value.startswith("float:"):
        return float(value[6:])
    return value
