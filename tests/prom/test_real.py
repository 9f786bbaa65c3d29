"""Without Prometheus its tests are skipped visibly, and fail where nobody would look: in CI."""

from __future__ import annotations

import pytest

from tests.prom.real import need_prometheus, openmetrics


def test_a_missing_binary_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install prometheus"):
        need_prometheus()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install prometheus"):
        need_prometheus()


def test_openmetrics_text() -> None:
    assert openmetrics([('x{a="b"}', 1.5, "3")]) == 'x{a="b"} 3 1.500\n# EOF\n'
