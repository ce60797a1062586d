"""What training sets are ranked by, and what the report measured each predictor to be worth.

No number of the report stands here. Three of its tables say it (`results/README.md`): `correlation_runs` (rank
correlation with performance over conditions), `choice` (what is lost by choosing a set by the predictor) and
`prediction_errors` (is recall of heads any better than what is cheaper), in their rows of all tasks and base models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from retrieval_heads.claims.choice import SYNTHETIC
from retrieval_heads.claims.prediction import NOTHING
from retrieval_heads.claims.run_predictors import CHEAPER, THRESHOLD
from retrieval_heads.claims.verdict import ALL
from retrieval_heads.errors import ConfigError
from retrieval_heads.store import find_committed
from retrieval_heads.tables import read_table

TABLES = ("correlation_runs", "choice", "prediction_errors")
PROFILE = "report"


@dataclass(frozen=True)
class Predictor:
    """One quantity that may tell good training sets from bad ones."""

    label: str  # what a reader sees
    promising: str  # `low` or `high`, the values that promise performance
    measured_as: str | None  # its name in the report's tables; None where the report has no such quantity
    measured_few: str | None = None  # its name there when the heads come from few probe examples


PREDICTORS = {
    "probe_loss": Predictor("probe loss", "low", "probe_loss"),
    "recall": Predictor("recall of the real heads", "high", "recall", "recall_few"),
    "cosine": Predictor("cosine with the real scores", "high", "cosine", "cosine_few"),
    "base_recall": Predictor("recall of the base's heads", "high", "base_overlap"),
    "base_cosine": Predictor("cosine with the base's scores", "high", None),
    "training_loss": Predictor("training loss", "low", "training_loss"),
    "ngram_overlap": Predictor("overlap of word pairs", "high", "ngram_overlap"),
}
"""In the order in which they are shown."""


def ranked(values: pd.DataFrame) -> pd.DataFrame:
    """Ranks by each predictor, 1 the most promising, NaN where the value is; equal values share the better rank.

    `values` has one row per set and one column per predictor.
    """
    return values.apply(lambda one: one.rank(method="min", ascending=PREDICTORS[one.name].promising == "low"))


def order(values: pd.DataFrame, predictor: str) -> list[str]:
    """The sets from the most promising to the least by one predictor; equal ones as they were given."""
    return list(ranked(values)[predictor].sort_values(kind="stable").index)


@dataclass(frozen=True)
class Worth:
    """What one predictor was worth in the report.

    Attributes:
        spearman, low, high: rank correlation with performance over conditions, 95% interval; the sign is turned so that
            positive means that promising values went with better performance.
        n_conditions: number of conditions behind it.
        regret, random_regret: performance lost by the set that it chooses, and by a random one; NaN if not measured.
        n_choices: number of choices behind these.
    """

    spearman: float
    low: float
    high: float
    n_conditions: int
    regret: float = float("nan")
    random_regret: float = float("nan")
    n_choices: int = 0

    def text(self) -> str:
        """What the report found the predictor to be worth, in words."""
        found = (f"Spearman {self.spearman:+.2f} ({self.low:+.2f} to {self.high:+.2f}) over {self.n_conditions} "
                 "training sets")
        if self.high < 0:
            found += ", so it points the wrong way"
        elif self.low <= 0:
            found += ", so that it tells sets apart is not shown"
        if self.regret == self.regret:
            found += (f"; choosing by it lost {self.regret:.3f} against the best, a random choice "
                      f"{self.random_regret:.3f} ({self.n_choices} choices)")
        return found


@dataclass(frozen=True)
class Calibration:
    """The worth of predictors by their names in the report, and how head recall compares with cheaper ones there.

    Attributes:
        worth: by the report's name of the predictor.
        findings: cheaper predictor to `better`, `worse` or `not shown to be better`: recall of the real heads
            beside it.
    """

    worth: Mapping[str, Worth] = field(default_factory=dict)
    findings: Mapping[str, str] = field(default_factory=dict)

    def of(self, predictor: str, few: bool) -> Worth | None:
        """The worth of a predictor of `PREDICTORS`, with heads found on few probe examples or not; None if unknown."""
        one = PREDICTORS[predictor]
        return self.worth.get((few and one.measured_few) or one.measured_as or "")

    def best(self, predictors: Iterable[str], few: bool) -> str | None:
        """Of these predictors, the one with the highest rank correlation; None where none was measured."""
        return self._first(predictors, few, lambda worth: -worth.spearman)

    def least_regret(self, predictors: Iterable[str], few: bool) -> str | None:
        """Of these predictors, the one whose choices lost least; None where none was measured."""
        return self._first(predictors, few, lambda worth: worth.regret)

    def _first(self, predictors: Iterable[str], few: bool, by: Callable[[Worth], float]) -> str | None:
        known = {name: by(worth) for name in predictors if (worth := self.of(name, few)) and by(worth) == by(worth)}
        return min(known, key=known.__getitem__, default=None)

    def heads_against_cheaper_ones(self) -> str:
        """`recall of the real heads was worse than X; ...`; empty where the report does not say or it was better."""
        return "" if set(self.findings.values()) <= {"better"} else f"recall of the real heads was {self._findings()}"

    def heads_against_cheaper(self) -> str:
        """One plain sentence: was recall of the real run's heads any better than a cheaper predictor?"""
        if not self.findings:
            return "The report does not say how recall of heads compares with cheaper predictors."
        if told := self.heads_against_cheaper_ones():
            return f"The ranking by heads is no better than a cheaper one: in the report, {told}."
        return ("In the report, recall of the real heads predicted performance better than what is cheaper: "
                f"{self._findings()}.")

    def _findings(self) -> str:
        by_finding: dict[str, list[str]] = {}
        for name, finding in self.findings.items():
            by_finding.setdefault(finding, []).append(name.replace("_", " "))
        return "; ".join(f"{finding} than {', '.join(names)}" for finding, names in sorted(by_finding.items()))


def read_calibration() -> Calibration | None:
    """The calibration from the tables that come with the repository; None where they do not.

    Raises:
        ResultError: a table that does not follow the data dictionary.
    """
    try:
        found = {name: find_committed(PROFILE, name) for name in TABLES}
    except ConfigError:  # an installed package, and no folder named for results
        return None
    if None in found.values():
        return None
    return calibration(**{name: read_table(name, path) for name, path in found.items()})


def calibration(
    correlation_runs: pd.DataFrame, choice: pd.DataFrame, prediction_errors: pd.DataFrame
) -> Calibration:
    """The calibration from the report's tables of these names."""
    of_all = correlation_runs[
        (correlation_runs[["conditions", "base", "task"]] == ALL).all(axis=1)
        & (correlation_runs["given"] == NOTHING)  # the others are partial correlations
        & (correlation_runs["threshold"] == THRESHOLD) & (correlation_runs["method"] == "spearman")
    ].dropna(subset=["estimate", "low", "high"]).set_index("predictor")
    chosen = choice[(choice["candidates"] == SYNTHETIC) & (choice["task"] == ALL)].set_index("predictor")
    worth = {}
    for predictor in PREDICTORS.values():
        sign = -1 if predictor.promising == "low" else 1
        for name in {predictor.measured_as, predictor.measured_few} & set(of_all.index):
            row = of_all.loc[name]
            low, high = sorted((sign * row["low"], sign * row["high"]))
            regret = {key: chosen.loc[name, key] for key in ("regret", "random_regret", "n_choices")
                      if name in chosen.index}
            worth[name] = Worth(sign * row["estimate"], low, high, int(row["n_conditions"]), **regret)
    beside = prediction_errors[
        (prediction_errors[["conditions", "task"]] == ALL).all(axis=1) & (prediction_errors["predictor"] == "recall")
        & prediction_errors["reference"].isin(CHEAPER)
    ]
    return Calibration(worth, dict(zip(beside["reference"], beside["finding"], strict=True)))
