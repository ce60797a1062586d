"""What is said of a claim: one of four verdicts, with the numbers and the rule that gave it.

The rules stand in `book/preregistration.md`. Where they leave something open it is decided here against the claim *and*
against its refutation: what lies between the rule for and the rule against is `not decided`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import pandas as pd

from retrieval_heads.errors import ConfigError

SUPPORTED, IN_PART, NOT, UNDECIDED = "supported", "supported in part", "not supported", "not decided"
VERDICTS = (SUPPORTED, IN_PART, NOT, UNDECIDED)
_RULES = dict(zip(("supported", "in_part", "not_supported", "undecided"), VERDICTS, strict=True))

ALL = "all"
"""Stands in the column `task` for all tasks together, and in `condition` for all conditions."""

NEEDED = 8
"""Synthetic conditions, of the ten of the preregistration, that a rule needs before it decides anything."""

TASKS_NEEDED = 2
"""Tasks that have to agree before a claim is decided."""

OVER_TASKS = (
    "Supported when it is in at least two tasks and refuted in none; not supported when it is refuted in at least two; "
    "in part when at least two tasks speak for it otherwise; not decided with fewer than two decided tasks, or in "
    "between."
)


@dataclass(frozen=True)
class Verdict:
    """What is said of one claim, in one task or in all.

    Its attributes are the columns of the table `verdicts`: see the data dictionary. Those from `claim` on are the same
    in all verdicts on a claim, or nearly so.
    """

    task: str
    verdict: str
    effect: float | None
    low: float | None
    high: float | None
    n: int
    detail: str
    claim: str
    quantity: str
    unit: str
    n_of: str
    rule: str
    chapter: str
    table: str

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ConfigError("unknown verdict", where=f"verdict of {self.claim}", value=self.verdict,
                              remedy=f"Use one of {', '.join(VERDICTS)}.")

    @property
    def decided(self) -> bool:
        """Whether the condition for a test was met, and the test came out on one side."""
        return self.verdict != UNDECIDED


@dataclass(frozen=True)
class Judged:
    """A claim with all that was computed for it: derived tables by name, and verdicts, that of all tasks last."""

    tables: dict[str, pd.DataFrame]
    verdicts: tuple[Verdict, ...]


def first_that_holds(rules: Mapping[str, object], otherwise: str) -> str:
    """The name of the first rule that holds; `otherwise` when none does, or one before it is not known (None)."""
    for name, holds in rules.items():
        if holds is None:
            return otherwise
        if holds:
            return name
    return otherwise


def decide(**rules: object) -> str:
    """The verdict of the first rule that holds, in the order in which they are given; `UNDECIDED` when none does.

    Rules are named `supported`, `in_part`, `not_supported` and `undecided`; None is a rule of which it is not known.
    """
    return first_that_holds({_RULES[name]: holds for name, holds in rules.items()}, UNDECIDED)


def undecided(claim: Callable[..., Verdict], task: str, why: str, n: int = 0, **others: Any) -> Verdict:
    """The verdict on a claim where there is nothing to decide it by."""
    return claim(task, UNDECIDED, None, None, None, n, why, **others)


def over_tasks(of_tasks: Sequence[Verdict], pooled: Iterable[float | None] | None = None) -> Verdict:
    """The verdict of a claim from those of its tasks, by the rule `OVER_TASKS`.

    Without the `pooled` quantity over all tasks the effect is the mean of the decided tasks', which has no interval.
    """
    decided = [one for one in of_tasks if one.decided]
    found = [one.verdict for one in decided]
    known = [one.effect for one in decided if one.effect is not None]
    effect, low, high = plain(pooled) if pooled else (sum(known) / len(known) if known else None, None, None)
    return replace(of_tasks[0], task=ALL, verdict=_combined(found), effect=effect, low=low, high=high, n=len(decided),
                   n_of="tasks", rule=OVER_TASKS, detail=in_each(of_tasks))


def in_each(of_tasks: Iterable[Verdict]) -> str:
    """The verdict in each task, as a sentence."""
    return "; ".join(f"{one.task}: {one.verdict}" for one in of_tasks) + "."


def _combined(found: Sequence[str]) -> str:
    """The verdict over all tasks from those of the decided ones."""
    against, supporting = found.count(NOT), len(found) - found.count(NOT)
    return decide(
        undecided=len(found) < TASKS_NEEDED,
        supported=found.count(SUPPORTED) >= TASKS_NEEDED and not against,
        not_supported=against >= TASKS_NEEDED,
        in_part=supporting >= TASKS_NEEDED,
    )


def too_few(n_conditions: int, what: str = "synthetic condition") -> str:
    """What is said where a study is too small for the rules; empty where it is not."""
    if n_conditions >= NEEDED:
        return ""
    are = f"{what} is" if n_conditions == 1 else f"{what}s are"
    return f"Not decided: {n_conditions} {are} there, the rule needs {NEEDED}."


def as_rows(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """One row per verdict, with the attributes as columns: the table `verdicts`."""
    rows = pd.DataFrame(map(vars, verdicts), columns=[field.name for field in fields(Verdict)])
    return rows.astype({name: "float64" for name in ("effect", "low", "high")})


def from_rows(rows: pd.DataFrame) -> list[Verdict]:
    """The verdicts of rows of the table `verdicts`, the tasks first."""
    found = [Verdict(**row) for row in rows.to_dict("records")]
    return sorted(found, key=lambda one: (one.claim, one.task == ALL, one.task))


def plain(numbers: Iterable[float | None]) -> tuple[float | None, ...]:
    """An interval, or any numbers, with six digits; None for NaN."""
    return tuple(None if end is None or end != end else float(f"{end:.6g}") for end in numbers)
