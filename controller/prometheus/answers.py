"""From the bytes of an answer of Prometheus's HTTP API to `Series`: times and float64 values, NaN where absent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import orjson

from controller.prometheus.errors import PrometheusError, PrometheusUnreachable, QueryRefused, Slow
from forecasting.panel import FloatArray, IntArray

__all__ = ["Answer", "Moments", "Series", "as_one", "at_each_moment", "joined", "parse_answer", "refusal"]

INFO = "PromQL info"  # versions that knew no infos put them among the warnings


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One series: `labels`, (points,) `times_s` ascending in Unix seconds, (points,) `values` with NaN for absent."""

    labels: dict[str, str]
    times_s: FloatArray
    values: FloatArray

    def __len__(self) -> int:
        """Number of points."""
        return int(self.times_s.size)


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The series of one answer, and what Prometheus put beside them.

    `warnings` say that something is missing from it, such as a store that did not answer; `infos` are harmless.
    """

    series: list[Series]
    warnings: tuple[str, ...] = ()
    infos: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings, then infos."""
        return self.warnings + self.infos


class Moments(NamedTuple):
    """Several series as one over time: (points,) ascending `times_s`, `values`, and `series`: how many had a point."""

    times_s: FloatArray
    values: FloatArray
    series: IntArray


def parse_answer(body: bytes, where: str) -> Answer:
    """The answer in ``body``.

    "NaN" and infinities are absent. Raises `QueryRefused` for results that are no numbers (texts, native histograms)
    and `PrometheusUnreachable` for a body that is no answer of Prometheus; ``where`` names the server in it.
    """
    answer = _json(body)
    if not isinstance(answer, dict) or answer.get("status") != "success":
        raise PrometheusUnreachable(
            f"{where} sent no answer of Prometheus: {_shown(body)}; check the address and its path"
        )
    try:
        warnings, infos = _notes(answer)
        return Answer(_series(answer["data"]["resultType"], answer["data"]["result"]), warnings, infos)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise PrometheusUnreachable(
            f"{where} sent a damaged answer ({type(error).__name__}): {_shown(body)}"
        ) from error


def as_one(parts: Sequence[Answer]) -> Answer:
    """The answers to parts of a range, in the order of time, as the answer to the whole."""
    if len(parts) == 1:
        return parts[0]
    warnings = dict.fromkeys(w for part in parts for w in part.warnings)
    infos = dict.fromkeys(i for part in parts for i in part.infos)
    return Answer(joined([part.series for part in parts]), tuple(warnings), tuple(infos))


def at_each_moment(series: Sequence[Series]) -> Moments:
    """What the series say at each moment: the value where one has a point, NaN where several have.

    A label that changes (a new pod, another instance) makes another series, and of two that follow each other only one
    is there at a time.
    """
    if len(series) == 1:
        return Moments(series[0].times_s, series[0].values, np.ones(len(series[0]), dtype=np.int64))
    times = np.concatenate([s.times_s for s in series]) if series else np.empty(0)
    values = np.concatenate([s.values for s in series]) if series else np.empty(0)
    moments, first, count = np.unique(times, return_index=True, return_counts=True)
    return Moments(moments, np.where(count == 1, values[first], np.nan), count)


def joined(parts: list[list[Series]]) -> list[Series]:
    """Parts of a range, in the order of time, as one: series of equal labels are put together."""
    if len(parts) == 1:
        return parts[0]
    by_labels: dict[tuple[tuple[str, str], ...], list[Series]] = {}
    for series in (s for part in parts for s in part):
        by_labels.setdefault(tuple(sorted(series.labels.items())), []).append(series)
    return [
        Series(same[0].labels, np.concatenate([s.times_s for s in same]), np.concatenate([s.values for s in same]))
        for same in by_labels.values()
    ]


def refusal(status: int, body: bytes, where: str, timeout_s: float) -> PrometheusError:
    """The error that an answer with HTTP ``status`` other than 200 stands for, with what would help."""
    answer = _json(body)
    kind = answer.get("errorType", "") if isinstance(answer, dict) else ""
    said = str(answer.get("error", "")) if isinstance(answer, dict) else ""
    if kind in ("timeout", "canceled"):
        return Slow(f"{where} gave up on the query ({said or kind}) within {timeout_s:g} s; record it as a rule")
    if status in (400, 413, 422) and (kind or said):
        return QueryRefused(f"Prometheus refused the query: {said or kind}")
    if status in (413, 414):
        return QueryRefused(f"{where} takes no query as long as this one (HTTP {status})")
    told = f": {said[:300]}" if said else f": {_shown(body)}" if body else ""
    if status in (401, 403):
        return PrometheusUnreachable(
            f"{where} denies access (HTTP {status}); give a valid token file, or permit this account to query{told}"
        )
    if status == 404:
        return PrometheusUnreachable(
            f"{where} has no Prometheus API (HTTP 404); does the address lack a path such as /prometheus?"
        )
    if status == 429:
        return PrometheusUnreachable(
            f"{where} asks for fewer queries (HTTP 429); raise its limits or the interval{told}"
        )
    if 300 <= status < 400:
        return PrometheusUnreachable(
            f"{where} redirects (HTTP {status}) and redirects are not followed; give the final address"
        )
    transient = status in (502, 503, 504)
    hint = "it may be starting" if transient else "see its log"
    return PrometheusUnreachable(f"{where} answers HTTP {status}; {hint}{told}", transient=transient)


# ---- the parts of an answer ---------------------------------------------------------------------------------------
def _notes(answer: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Warnings and infos of an answer, in whichever way the server says that something is missing."""
    warnings: list[str] = []
    infos: list[str] = []
    for note in map(str, answer.get("warnings") or ()):
        (infos if note.startswith(INFO) else warnings).append(note)
    infos += map(str, answer.get("infos") or ())
    if answer.get("isPartial") is True:
        warnings.append("isPartial: a part of the storage did not answer")  # VictoriaMetrics
    return tuple(warnings), tuple(infos)


def _json(body: bytes) -> Any:  # noqa: ANN401 - whatever stands there
    try:
        return orjson.loads(body)
    except ValueError:
        return None


def _series(kind: str, result: Any) -> list[Series]:  # noqa: ANN401 - checked by use
    if kind == "scalar":
        return _parsed([({}, [result])])
    if kind == "vector":
        return _parsed([(entry["metric"], [_floats(entry, "value")]) for entry in result])
    if kind == "matrix":
        return _parsed([(entry["metric"], _floats(entry, "values")) for entry in result])
    raise QueryRefused(f"the query gives a {kind}, not numbers over time")


def _floats(entry: dict[str, Any], key: str) -> Any:  # noqa: ANN401
    if key not in entry and ("histogram" in entry or "histograms" in entry):
        raise QueryRefused(
            "the query gives native histograms; take one number of them, say histogram_quantile(0.95, …)"
        )
    return entry[key]


def _parsed(found: list[tuple[dict[str, str], list[Any]]]) -> list[Series]:
    """All series at once: their points lie in two arrays, of which each series is a part."""
    ends = np.cumsum([0, *(len(points) for _, points in found)]).tolist()
    points = list(chain.from_iterable(map(itemgetter(1), found)))
    moments, texts = zip(*points, strict=True) if points else ((), ())  # not one by one: there are a great many
    times = np.fromiter(map(float, moments), np.float64, ends[-1])
    values = np.fromiter(map(float, texts), np.float64, ends[-1])
    values[~np.isfinite(values)] = np.nan
    if not np.isfinite(times).all():
        raise ValueError("a time is not finite")
    backwards = set(np.searchsorted(ends, np.flatnonzero(np.diff(times) <= 0) + 1, side="right").tolist())
    out = []
    for i, (labels, _) in enumerate(found):
        lo, hi = ends[i], ends[i + 1]
        own = times[lo:hi], values[lo:hi]
        if i + 1 in backwards and (np.diff(own[0]) <= 0).any():
            order = np.argsort(own[0], kind="stable")
            own = own[0][order], own[1][order]
        out.append(Series({str(k): str(v) for k, v in labels.items()}, *own))
    return out


def _shown(body: bytes) -> str:
    """The beginning of a body, fit for one line."""
    text = " ".join(body[:2000].decode("utf-8", "replace").split())
    clean = "".join(c if c.isprintable() else "?" for c in text)
    return repr(clean[:120]) if clean else "nothing"
