"""The program with one more line in `harmony/model/decision.py`: prints, as JSON, where the new fields are told.

Run as ``python -m tests.schema.longer FOLDER``: the model's source is changed in memory before anything imports it.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

MODEL = "harmony.model.decision"
AFTER = "    memory: Annotated[Any, PRIVATE] = None\n"
MORE = '    example: int = 0\n    share: Annotated[float, About("A share of something.")] = math.nan\n'


def lengthen() -> None:
    """Import the model with the two fields."""
    spec = importlib.util.find_spec(MODEL)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text()
    assert source.count(AFTER) == 1
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODEL] = module
    exec(compile(source.replace(AFTER, AFTER + MORE), spec.origin, "exec"), module.__dict__)


def told(folder: Path) -> dict[str, Any]:
    """What every place says of a decision whose `example` is 7."""
    from controller.reporting.json_lines import JsonLines
    from controller.reporting.status import status_of
    from controller.resource.crd import crd_manifest
    from harmony.api import models
    from harmony.api.models import WhatIfRequest
    from harmony.api.what_if import what_if
    from harmony.client import Client
    from harmony.journal import JournalStore, explain, export_to
    from harmony.serving.views import decision_json
    from tests.api.serving import serving
    from tests.controller import lives
    from tests.dashboard.site import OPEN, Site, application
    from tests.serving import builders

    turn = builders.record()
    turn = replace(turn, decision=replace(turn.decision, example=7))  # type: ignore[call-arg]
    snapshot = builders.snapshot(record=turn)

    lines = JsonLines(str(folder / "turns.jsonl"))
    lines.of("serving/chat").append(turn)
    lines.close()

    site = Site()
    site.hub.publish([snapshot])
    app = application(site, OPEN)
    schemas = app.openapi()["components"]["schemas"]
    with serving(app) as url, Client(url) as client:
        service = client.service("serving/chat")
        page = client._http.get(f"{url}/services/serving/chat").text

    with JournalStore.open(str(folder / "journal.db")) as store:
        [key] = store.append([snapshot])
        [listed] = store.decisions()
        explained = explain(store, key)
        assert explained is not None
        export_to(folder / "export", store)

    import polars as pl

    exported = pl.read_parquet(folder / "export" / "decisions-00000.parquet")

    of = lives.service()
    lives.turn(of, lives.T0, 200.0, 8)
    record = of.record
    assert record is not None
    of._record = replace(record, decision=replace(record.decision, example=7))  # type: ignore[call-arg]
    status = status_of(of, lives.acted(of), {}, lives.T0)
    definition = crd_manifest()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    in_status = definition["properties"]["lastScaleDecision"]["properties"]

    decision = decision_json(snapshot)
    return {
        "api": [decision["example"], decision["share"]],
        "api document": [schemas["Decision"]["properties"]["example"]["type"], schemas["Side"]["properties"]["share"]],
        "client": [service.decision.example, service.decision.share],
        "what if": what_if(snapshot, WhatIfRequest()).new.example,
        "older server": models.Decision.model_validate(
            {k: v for k, v in decision.items() if k not in ("example", "share")}
        ).example,
        "lines": json.loads((folder / "turns.jsonl").read_text())["decision"]["example"],
        "journal": listed.snapshot.record.decision.example,  # type: ignore[attr-defined]
        "explain": [explained.to_json()["decision"]["example"], [str(d) for d in explained.differences]],
        "explain words": [line for line in explained.lines if line.startswith(("Example", "Share"))],
        "export": [exported["example"].to_list(), exported["share"].to_list()],
        "status": {name: status["lastScaleDecision"].get(name) for name in ("example", "share")},
        "definition": [in_status["example"], in_status["share"]],
        "page": ['<dt title="Example.">Example</dt><dd>7</dd>' in page, "A share of something." in page],
    }


if __name__ == "__main__":
    lengthen()
    sys.stdout.write(json.dumps(told(Path(sys.argv[1])), allow_nan=False) + "\n")
