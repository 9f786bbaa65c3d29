"""Settings classes as flags: where a value comes from, what it becomes, and what is said of one that does not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.process.settings import ControllerSettings, PrometheusSettings
from forecasting.errors import UsageError
from harmony.app.settings import DemoSettings, DoorSettings, JournalSettings, ListenSettings
from harmony.cli.options import with_settings
from harmony.settings import Setting, settings_of


@dataclass(frozen=True)
class Inner:
    """Settings within settings."""

    url: Annotated[str, Setting("Where.", flag="inner-url")] = ""
    timeout_s: float = 10.0


@dataclass(frozen=True)
class Whole:
    """One of each kind."""

    inner: Inner = Inner()
    every_s: Annotated[float, Setting("How often.", flag="every", duration=True)] = 30.0
    names: Annotated[tuple[str, ...], Setting("Names.", flag="name", short="n")] = ()
    pairs: Annotated[tuple[tuple[str, str], ...], Setting("Pairs.", flag="pair")] = ()
    dry: Annotated[bool, Setting("Dry.")] = False
    elect: Annotated[bool | None, Setting("Elect.")] = None
    count: Annotated[int, Setting("Count.", least=1, most=9, env=False)] = 5
    hidden: int = 7

    def __post_init__(self) -> None:
        if self.dry and not self.names:
            raise UsageError("--dry goes with --name")


def chosen(*words: str, default: Whole = Whole(), **environment: str) -> Whole:
    """What a verb is given for these words and this environment."""
    found: list[Whole] = []

    def verb(whole: Whole = default, as_json: Annotated[bool, typer.Option("--json")] = False) -> int:
        found.append(whole)
        return int(as_json)

    # The annotations of a local function are text that only its own scope can read.
    verb.__annotations__ = {"whole": Whole, "as_json": Annotated[bool, typer.Option("--json")], "return": int}
    app = typer.Typer()
    app.command()(with_settings(verb))
    with pytest.MonkeyPatch.context() as patch:
        for name, text in environment.items():
            patch.setenv(name, text)
        assert app(list(words), standalone_mode=False) == int("--json" in words)
    return found[0]


def test_without_a_word_it_is_the_default_of_the_verb() -> None:
    assert chosen() == Whole()
    assert chosen("--json") == Whole()
    other = Whole(Inner("http://x", 3.0), 90.0, ("a",), (("k", "v"),), True, False, 2, 8)
    assert chosen(default=other) == other


def test_words_become_what_the_class_holds() -> None:
    words = ("--inner-url", "u", "--every", "1h30m", "--name", "a", "-n", "b", "--name", "a", "--pair", "k=v=w")
    whole = chosen(*words, "--dry", "--no-elect", "--count", "9")
    assert whole == Whole(Inner("u"), 5400.0, ("a", "b"), (("k", "v=w"),), True, False, 9)
    assert chosen("--elect").elect is True


def test_a_flag_wins_over_the_environment_and_that_over_the_default() -> None:
    environment = {"HARMONY_EVERY": "5m", "HARMONY_NAME": "x y", "HARMONY_DRY": "true", "HARMONY_INNER_URL": "e"}
    whole = chosen("--every", "10s", **environment)
    assert (whole.every_s, whole.names, whole.dry, whole.inner.url) == (10.0, ("x", "y"), True, "e")
    assert chosen(HARMONY_ELECT="false", HARMONY_COUNT="3") == Whole(elect=False), "no name, no environment"


def test_the_class_checks_the_whole_and_not_the_way_there() -> None:
    assert chosen("--dry", "--name", "a").dry
    with pytest.raises(UsageError, match="--dry goes with --name"):
        chosen("--dry")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--pair", "kv"), "--pair 'kv': expected KEY=VALUE"),
        (("--pair", "=v"), "--pair '=v': expected KEY=VALUE"),
        (("--every", "soon"), "'soon' is no duration"),
        (("--count", "10"), "less than or equal to 9"),
        (("--hidden", "1"), "--hidden"),
    ],
)
def test_what_does_not_fit_is_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(Exception, match=message):
        chosen(*words)


@settings(deadline=None)
@given(st.floats(0.2, 3600.0).map(lambda s: round(s, 3)))
def test_a_default_that_is_a_time_comes_back_as_it_was(seconds: float) -> None:
    assert chosen(default=Whole(every_s=seconds)).every_s == pytest.approx(seconds, rel=1e-12)


# ---- the promised names -----------------------------------------------------------------------------------------
# Names that manifests and unit files of others hold: they may become more, and none may go.
PROMISED = {
    "KUBECONFIG", "CONTEXT", "PROMETHEUS_URL", "PROMETHEUS_TOKEN_FILE", "PROMETHEUS_CA_FILE", "PROMETHEUS_QUERY_PARAM",
    "NAMESPACE", "SELECTOR", "LEADER_ELECT", "LEASE_NAMESPACE", "LEASE_NAME", "DRY_RUN", "INTERVAL", "FORECASTER",
    "METRICS_ADDRESS", "HEALTH_ADDRESS", "KEDA_ADDRESS", "KEDA_TLS_CERT_FILE", "KEDA_TLS_KEY_FILE", "KEDA_TLS_CA_FILE",
    "TOKEN_REVIEW", "LOG_FORMAT", "LOG_LEVEL", "JOURNAL_URL", "ADDRESS",
}  # fmt: skip
CLASSES = (ControllerSettings, JournalSettings, ListenSettings, DoorSettings, DemoSettings)


def everything() -> list[Any]:
    return [one for kind in CLASSES for one in settings_of(kind)]


def test_promised_environment_names_are_there() -> None:
    assert {f"HARMONY_{name}" for name in PROMISED} <= {one.env for one in everything()}


def test_no_name_is_one_that_kubernetes_sets_beside_a_service_called_harmony() -> None:
    for one in everything():
        assert not one.env.startswith(("HARMONY_PORT", "HARMONY_SERVICE_")), one.env


def test_flags_and_environment_names_are_given_once() -> None:
    for of in (lambda one: one.flag, lambda one: one.env):
        names = [of(one) for one in everything() if of(one)]
        assert len(set(names)) == len(names)


def test_every_setting_says_what_it_is_in_a_sentence() -> None:
    for one in everything():
        for text in (one.setting.help, one.setting.value.help if one.setting.value else "x."):
            assert not text or text.endswith("."), one.flag


def test_the_settings_of_a_controller_are_its_concerns_together() -> None:
    prometheus = PrometheusSettings("http://p:9090")
    made = ControllerSettings.of(prometheus, *parts(ControllerSettings(interval_s=5.0, dry_run=True)))
    assert made == ControllerSettings(prometheus=prometheus, interval_s=5.0, dry_run=True)
    assert (made.elects, ControllerSettings().elects) == (False, True)
    assert ControllerSettings(dry_run=True, leader_elect=True).elects


def parts(whole: ControllerSettings) -> list[object]:
    """Its concerns, one by one."""
    bases: list[Callable[..., object]] = list(ControllerSettings.__bases__)
    return [base(**{name: getattr(whole, name) for name in base.__dataclass_fields__}) for base in bases]  # type: ignore[attr-defined]
