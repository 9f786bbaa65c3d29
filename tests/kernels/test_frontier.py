"""The study of sparsity in forecasts: nothing looks ahead, and what is called safe is."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks import frontier
from kernels.lab.rows import RowFile


def test_heads_read_nothing_of_later_steps() -> None:
    length = 40
    series = np.random.default_rng(0).standard_normal((2, length + max(frontier.SCALES) + frontier.HORIZON))
    changed = series.copy()
    changed[:, -10:] += 5.0
    # Scales are set by the whole series, which is no part of what is tested here.
    plain, later = (frontier.Heads(x, 4, length) for x in (series, changed))
    spread = [x.q.std(dim=(2, 3), keepdim=True) for x in (plain, later)]
    for x, size in zip((plain, later), spread, strict=True):
        x.q, x.k = x.q / size, x.k / size
    apart = (plain.q / later.q)[:, :, :25].flatten(2)
    torch.testing.assert_close(apart, apart[:, :, :1].expand_as(apart), rtol=1e-3, atol=1e-3)
    assert torch.equal(plain.v[:, :, : length - 10], later.v[:, :, : length - 10])
    assert not torch.equal(plain.v[:, :, length - 10], later.v[:, :, length - 10])
    # A value is what followed the end of its key, all of it known at its own step.
    last = torch.from_numpy(series).float()
    torch.testing.assert_close(plain.v[:, 0, -1, -1], last[:, -1] - last[:, -1 - frontier.HORIZON])


def test_what_is_safe_is_at_most_one_percent_worse() -> None:
    rng = np.random.default_rng(0)
    dense = rng.gamma(4.0, 0.1, size=(10, frontier.JUDGED))

    def row(sparsity: float, factor: float, noise: float) -> dict[str, Any]:
        worse = dense * factor * (1 + noise * rng.standard_normal(dense.shape))
        return frontier.told("hip", sparsity, [worse, worse], [dense, dense], 1e6)

    same = row(0.5, 1.0, 0.0)
    assert (same["ratio"], same["ratio_high"]) == (1.0, 1.0)
    little, unsure, much = row(0.6, 1.002, 0.05), row(0.7, 1.002, 1.0), row(0.8, 1.02, 0.05)
    assert little["ratio_high"] < 1.01 < unsure["ratio_high"]
    assert much["ratio"] > 1.01
    assert frontier.largest_safe([same, little, much], "hip") == 0.6
    # What lies beyond an unsafe one is not safe, whatever it scores by chance.
    assert frontier.largest_safe([same, unsure, {**little, "sparsity": 0.9}], "hip") == 0.5
    assert frontier.largest_safe([much], "hip") is None
    assert frontier.largest_safe([same], "dhsa") is None


def test_the_page_is_what_its_rows_make() -> None:
    file = RowFile(frontier.ROWS)
    rows = [file.kept(unit.asked) for unit in frontier.units()]
    assert None not in rows
    assert frontier.ROWS.with_suffix(".md").read_text() == frontier.text(rows)
    for row in rows:
        for found in row["found"]:  # type: ignore[index]
            assert 0 <= found["sparsity"] <= 1
            assert found["ratio"] <= found["ratio_high"]
