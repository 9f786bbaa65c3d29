"""What came of hostile cases."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from forecasting.errors import HarmonyError, InputError

SHOWN = 20  # faults told in full


@dataclass
class Tally:
    """Cases by outcome, and faults: anything but an answer or an error for the person who made the mistake."""

    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @contextmanager
    def case(self, name: str, *, refusals: tuple[type[HarmonyError], ...] = (InputError,)) -> Iterator[None]:
        """One case; refusals of these classes, in one line, are fine."""
        self.cases += 1
        try:
            yield
        except refusals as error:
            told = str(error)
            if "\n" in told or not told or len(told) > 1000:
                self.fault(name, f"a refusal of {len(told)} characters in {len(told.splitlines())} lines: {told[:300]}")
            else:
                self.outcomes["refused"] += 1
        except (Exception, RecursionError) as error:  # noqa: BLE001  (that is what is looked for)
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.fault(name, f"{type(error).__name__}: {str(error)[:200]} ({where.filename}:{where.lineno})")
        else:
            self.outcomes["answered"] += 1

    def fault(self, name: str, what: str) -> None:
        """Note a fault."""
        self.outcomes["faults"] += 1
        if len(self.faults) < SHOWN:
            self.faults.append(f"{name}: {what}")
