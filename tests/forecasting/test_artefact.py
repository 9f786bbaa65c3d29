"""Model files: whole ones come back equal, damaged ones are refused with one helpful line, writing is atomic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from forecasting import artefact
from forecasting.artefact import FORMAT_VERSION, Artefact, load_artefact, save_artefact
from forecasting.errors import ArtefactError, InputError

META = {"model": {"width": 8}, "names": ["a", "b"], "low": float("-inf"), "nested": {"x": [1.5, True, None]}}


def example(seed: int = 0) -> Artefact:
    g = torch.Generator().manual_seed(seed)
    return Artefact({"w": torch.randn(3, 4, generator=g), "b": torch.randn(4, generator=g)}, META)


def test_what_was_saved_comes_back_equal(tmp_path: Path) -> None:
    saved = example()
    found = load_artefact(save_artefact(tmp_path / "deep" / "model", saved))
    assert found.meta == META
    assert all(torch.equal(found.tensors[n], saved.tensors[n]) for n in ("w", "b"))
    assert found.digest == saved.digest
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["model"]


def test_equal_models_give_equal_bytes_and_others_other_digests(tmp_path: Path) -> None:
    one, two = save_artefact(tmp_path / "one", example()), save_artefact(tmp_path / "two", example())
    for name in ("model.json", "weights.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert example(1).digest != example().digest
    assert Artefact(example().tensors, {**META, "names": []}).digest != example().digest


def test_a_model_can_be_replaced_but_nothing_else(tmp_path: Path) -> None:
    save_artefact(tmp_path / "m", example(0))
    save_artefact(tmp_path / "m", example(1))
    assert load_artefact(tmp_path / "m").digest == example(1).digest
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "letter.txt").write_text("mine")
    with pytest.raises(ArtefactError, match="not a model folder"):
        save_artefact(tmp_path / "papers", example())
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArtefactError, match="not a model folder"):
        save_artefact(tmp_path / "file", example())


def test_an_interrupted_save_leaves_the_old_model_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_artefact(tmp_path / "m", example(0))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(artefact, "_swap", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_artefact(tmp_path / "m", example(1))
    with pytest.raises(KeyboardInterrupt):
        save_artefact(tmp_path / "new", example(1))
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert load_artefact(tmp_path / "m").digest == example(0).digest


def spoil_json(folder: Path) -> None:
    text = (folder / "model.json").read_text()
    (folder / "model.json").write_text(text[: len(text) // 2])


def change_setting(folder: Path) -> None:
    text = (folder / "model.json").read_text()
    (folder / "model.json").write_text(text.replace('"width": 8', '"width": 9'))


def other_version(folder: Path) -> None:
    body = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(body | {"format_version": FORMAT_VERSION + 1}))


def other_format(folder: Path) -> None:
    (folder / "model.json").write_text('{"format": "something"}')


def no_header(folder: Path) -> None:
    (folder / "model.json").unlink()


def no_weights(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()


def cut_weights(folder: Path) -> None:
    data = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(data[:-10])


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (spoil_json, "not readable JSON"),
        (change_setting, "was altered"),
        (other_version, f"version {FORMAT_VERSION + 1}, this release reads version {FORMAT_VERSION}"),
        (other_format, "of format 'something', expected 'harmony-forecaster'"),
        (no_header, "model.json is missing"),
        (no_weights, "a model needs both files"),
        (cut_weights, "cut short or altered"),
        (flip_a_bit, "cut short or altered"),
    ],
)
def test_a_damaged_model_is_refused_in_one_line(tmp_path: Path, damage: object, message: str) -> None:
    folder = save_artefact(tmp_path / "m", example())
    damage(folder)  # type: ignore[operator]
    with pytest.raises(ArtefactError, match=message) as caught:
        load_artefact(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert isinstance(caught.value, InputError)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtefactError, match="cannot write"):
        save_artefact(tmp_path / "file" / "model", example())
