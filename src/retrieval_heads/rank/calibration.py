"""What the report measured each predictor to be worth, read from its committed tables; no number of it stands here.

Three tables say it (`results/README.md`): `correlation_runs` (rank correlation with performance over conditions),
`choice` (what is lost by choosing a set by the predictor) and `prediction_errors` (is recall of heads any better than
what is cheaper). All rows are those of all tasks and base models together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from retrieval_heads.claims.choice import SYNTHETIC
from retrieval_heads.claims.prediction import NOTHING
from retrieval_heads.claims.run_predictors import CHEAPER, THRESHOLD
from retrieval_heads.claims.verdict import ALL
from retrieval_heads.errors import ConfigError
from retrieval_heads.rank.predictors import PREDICTORS
from retrieval_heads.store import find_committed
from retrieval_heads.tables import read_table

TABLES = ("correlation_runs", "choice", "prediction_errors")
PROFILE = "report"


@dataclass(frozen=True)
class Worth:
    """What one predictor was worth in the report.

    Attributes:
        spearman, low, high: rank correlation with performance over conditions, 95% interval; the sign is turned so that
            positive means that promising values went with better performance.
        n_conditions: how many conditions that rests on.
        regret, random_regret: performance lost by the set that it chooses, and by a random one; NaN if not measured.
        n_choices: choices that those rest on.
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
        """The worth of a predictor of `PREDICTORS`; None where the report has none."""
        return self.worth.get(PREDICTORS[predictor].name_in_report(few) or "")

    def best(self, predictors: Iterable[str], few: bool) -> str | None:
        """Of these predictors the one of the highest rank correlation; None where none was measured."""
        known = {name: found.spearman for name in predictors if (found := self.of(name, few)) is not None}
        return max(known, key=known.__getitem__) if known else None

    def least_regret(self, predictors: Iterable[str], few: bool) -> str | None:
        """Of these predictors the one whose choices lost least; None where none was measured."""
        known = {name: found.regret for name in predictors
                 if (found := self.of(name, few)) is not None and found.regret == found.regret}
        return min(known, key=known.__getitem__) if known else None

    def heads_against_cheaper_ones(self) -> str:
        """`recall of the real heads was worse than X; ...`; empty where the report does not say or it was better."""
        if set(self.findings.values()) <= {"better"}:
            return ""
        return f"recall of the real heads was {self._findings()}"

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
        for name in {predictor.measured_as, predictor.measured_few} & set(of_all.index):
            row = of_all.loc[name]
            ends = (row["low"], row["high"])
            sign = -1 if predictor.promising == "low" else 1
            low, high = sorted(sign * end for end in ends)
            regret = {}
            if name in chosen.index:
                regret = {key: chosen.loc[name, key] for key in ("regret", "random_regret", "n_choices")}
            worth[name] = Worth(sign * row["estimate"], low, high, int(row["n_conditions"]), **regret)
    beside = prediction_errors[
        (prediction_errors[["conditions", "task"]] == ALL).all(axis=1) & (prediction_errors["predictor"] == "recall")
        & prediction_errors["reference"].isin(CHEAPER)
    ]
    return Calibration(worth, dict(zip(beside["reference"], beside["finding"], strict=True)))
