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


def row(sparsity: float, wanted: float, factors: tuple[float, float], noise: float = 0.05) -> dict[str, Any]:
    """What is found of a method whose CRPS is so much above dense on validation and on test windows."""
    rng = np.random.default_rng(0)
    dense = rng.gamma(4.0, 0.1, size=(10, frontier.JUDGED))
    found: dict[str, Any] = {"method": "hip", "wanted": wanted}
    for part, factor in zip(frontier.PARTS, factors, strict=True):
        worse = dense * factor * (1 + noise * rng.standard_normal(dense.shape))
        found[part] = frontier.told(sparsity, [worse, worse], [dense, dense], 1e6)
    return found


def test_what_is_safe_is_at_most_one_percent_worse_where_it_is_chosen() -> None:
    def best(*sizes: list[dict[str, Any]]) -> dict[str, float] | None:
        rows = [{"task": "steady", "history": "1 day", "found": found} for found in sizes]
        return frontier.chosen(rows, "steady", "1 day", "hip")

    same = row(0.45, 0.5, (1.0, 1.0), noise=0.0)
    assert (same["test"]["ratio"], same["test"]["ratio_high"]) == (1.0, 1.0)
    little, unsure, much = row(0.7, 0.75, (1.002, 1.3)), row(0.85, 0.9, (1.002, 1.0), 1.0), row(0.9, 0.9, (1.02, 1.0))
    assert little["validation"]["ratio_high"] < 1.01 < unsure["validation"]["ratio_high"]
    found = best([same, little, much])
    assert found is not None
    # What becomes of it on test windows has no say in the choice, and is what is told of it.
    assert found["sparsity"] == 0.7
    assert found["ratio"] == little["test"]["ratio"] > 1.2
    # What lies beyond an unsafe one is not safe, whatever it scores by chance; and all sizes have to agree.
    assert best([same, unsure, row(0.94, 0.95, (1.0, 1.0))])["sparsity"] == 0.45  # type: ignore[index]
    assert best([same, little], [same, row(0.7, 0.75, (1.02, 1.0))])["sparsity"] == 0.45  # type: ignore[index]
    assert best([much]) is None
    assert best([row(0.45, 0.5, (1.02, 1.0)), little]) is None


def test_windows_of_a_trace_are_judged_once_and_in_the_order_of_time() -> None:
    judged, length = frontier.JUDGED + frontier.HORIZON, 1_000
    trace = np.arange(9_000.0)
    trace[[5, 700]] = np.nan
    parts = frontier.of_trace(trace, length)
    assert [len(part) for part in parts] == [frontier.FITTED, frontier.SCORED, frontier.SCORED]
    assert not any(np.isnan(part).any() for part in parts)
    # In units of the deviation of the first part, which is that of a line here.
    line = np.arange(5_400.0)
    line[[5, 700]] = [4, 699]
    steps = [np.round(part * line.std() + line.mean()) for part in parts]
    ends = np.concatenate([part[:, -1] for part in steps])
    assert (np.diff(ends) >= judged).all()
    assert [part[-1, -1] for part in steps] == [5_399, 7_199, 8_999]
    for part, begin in zip(steps, (0, 5_400, 7_200), strict=True):
        assert part[0, -judged] >= begin


def test_the_page_is_what_its_rows_make() -> None:
    file = RowFile(frontier.ROWS)
    rows = [file.kept(unit.asked) for unit in frontier.units()]
    assert None not in rows
    assert frontier.ROWS.with_suffix(".md").read_text() == frontier.text(rows)
    for kept in rows:
        for found in kept["found"]:  # type: ignore[index]
            for part in frontier.PARTS:
                assert 0 <= found[part]["sparsity"] <= 1
                assert found[part]["ratio"] <= found[part]["ratio_high"]
