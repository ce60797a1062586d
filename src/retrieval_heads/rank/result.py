"""The result of a ranking, as tables and as the text that a reader sees."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from retrieval_heads.config import load_profile
from retrieval_heads.rank.calibration import PROFILE, Calibration
from retrieval_heads.rank.predictors import PREDICTORS, order

FEW_PROBE = 32
"""Below this many probe examples, heads are calibrated by the report's `_few` predictors (20 examples)."""

FEW_HEADS = 5
"""With fewer heads recall moves in steps of more than a fifth."""

FREE = "ngram_overlap"
"""The predictor that needs no model at all."""

SURE = 0.95
"""Below this probability that the better of two sets is the better one, they are not told apart."""


@dataclass(frozen=True, eq=False)
class Result:
    """Values and ranks of all sets, and what is needed to judge them.

    Attributes:
        values, ranks: one row a set, one column a predictor; NaN where it is not known.
        calibration: what the report measured; None where its tables are not there.
        n_probe: probe examples; `n_train`: examples used of each set.
        compared: each two sets by probe loss, see `predictors.compared`.
        n_real_heads, n_base_heads: retrieval heads above `threshold`; None where they are not known.
        real_loss: probe loss after the same fine-tuning on real examples; None without them.
        length, rope_theta: tokens and RoPE theta of the fine-tunes.
        leaked: probe examples whose prompt stands in each set, too.
    """

    values: pd.DataFrame
    ranks: pd.DataFrame
    calibration: Calibration | None
    n_probe: int
    n_train: Mapping[str, int]
    compared: Sequence[Mapping[str, Any]]
    n_real_heads: int | None
    n_base_heads: int | None
    real_loss: float | None
    threshold: float
    length: int
    rope_theta: float
    leaked: Mapping[str, int]

    @property
    def few(self) -> bool:
        return self.n_probe < FEW_PROBE

    @property
    def known(self) -> list[str]:
        """The predictors that every set has a value of."""
        return [name for name in self.values if self.values[name].notna().all()]

    @property
    def by(self) -> str:
        """The predictor that the recommended order is by, the report's best, or probe loss without its tables."""
        return (self.calibration and self.calibration.best(self.known, self.few)) or "probe_loss"

    @property
    def order(self) -> list[str]:
        return order(self.values, self.by)

    def table(self) -> pd.DataFrame:
        """One row a set and known predictor: `set`, `predictor`, `value`, `rank`, `recommended` (orders by it)."""
        rows = [
            {"set": name, "predictor": predictor, "value": self.values.loc[name, predictor],
             "rank": int(self.ranks.loc[name, predictor]), "recommended": predictor == self.by}
            for predictor in self.values for name in self.values.index if pd.notna(self.values.loc[name, predictor])
        ]
        return pd.DataFrame(rows)

    def warnings(self) -> list[str]:
        """Everything that makes the order less sure, in plain words."""
        found = [f"{name}: {count} of the {self.n_probe} probe examples are in the training set, too; its losses mean "
                 "nothing" for name, count in self.leaked.items() if count]
        if self.n_probe < FEW_PROBE:
            found.append(f"few probe examples ({self.n_probe}): with {FEW_PROBE} or more the order is surer")
        if len(set(self.n_train.values())) > 1:
            sizes = ", ".join(f"{name} {count}" for name, count in self.n_train.items())
            found.append(f"the sets differ in size ({sizes}), and so do their losses and word overlaps for that reason")
        for what, count in (("real", self.n_real_heads), ("base's", self.n_base_heads)):
            if count is not None and count < FEW_HEADS:
                found.append(f"few heads: {count} of the {what} heads score above {self.threshold:g}, so recall "
                             + ("moves in large steps" if count else "has no value"))
        if self.n_real_heads is None:
            found.append("no real heads are known (--real-heads or --real-train)"
                         + ("; the base model's own stand in" if self.n_base_heads else ""))
        if self.n_base_heads is None:
            found.append("no probe example with needles is short enough for the base model as it is (--base-probe), "
                         "so its own heads are not known")
        if self.calibration is not None:
            size = load_profile(PROFILE).n_train
            if max(self.n_train.values()) < size:
                found.append(f"the report fine-tuned on {size} examples a set, and with less work the predictors may "
                             "be worth less than is said here; its models are small, its texts generated")
        return found

    def undecided(self) -> list[str]:
        """The neighbours in order of probe loss that the probe examples cannot tell apart."""
        by_loss = order(self.values, "probe_loss")
        pairs = {(one["first"], one["second"]): one for one in self.compared}
        told = []
        for first, second in itertools.pairwise(by_loss):
            one = pairs.get((first, second)) or pairs[second, first]
            if one["probability"] < SURE:
                told.append(f"{one['first']} and {one['second']} cannot be told apart by probe loss: the probability "
                            f"that {one['first']} is better is {one['probability']:.3f}, below {SURE:g}")
        return told

    def worth(self) -> list[str]:
        """What the report found: of each predictor, and of heads beside what is cheaper."""
        if self.calibration is None:
            return ["no calibration is there: the tables of the report (results/report) did not come with this "
                    "installation, so nothing says what these predictors are worth"]
        lines = []
        for name in self.known:
            worth = self.calibration.of(name, self.few)
            lines.append(f"{PREDICTORS[name].label}: {worth.text() if worth else 'not measured by the report'}")
        if self.n_real_heads or self.n_base_heads:
            lines.append(self.calibration.heads_against_cheaper())
        if self.by != FREE and FREE in self.known and order(self.values, FREE) == self.order:
            lines.append(f"The order is the same as that by {PREDICTORS[FREE].label}, which needs no fine-tuning.")
        cheapest = self.calibration.least_regret(self.known, self.few)
        if cheapest not in (None, self.by):
            lines.append(f"Where only the first place counts: choices by {PREDICTORS[cheapest].label} lost less in the "
                         f"report than those by {PREDICTORS[self.by].label}.")
        return lines

    def as_json(self) -> dict[str, Any]:
        """The content of `rank.json`."""
        return {
            "order": self.order, "by": self.by, "n_probe": self.n_probe, "n_train": dict(self.n_train),
            "length": self.length, "rope_theta": self.rope_theta, "threshold": self.threshold,
            "n_real_heads": self.n_real_heads, "n_base_heads": self.n_base_heads, "real_loss": self.real_loss,
            "sets": {name: {
                predictor: {"value": float(row[predictor]), "rank": int(self.ranks.loc[name, predictor])}
                for predictor in self.values if pd.notna(row[predictor])
            } for name, row in self.values.iterrows()},
            "compared": [dict(one) for one in self.compared], "undecided": self.undecided(), "worth": self.worth(),
            "warnings": self.warnings(),
        }

    def text(self) -> str:
        """The result for a reader: a table, the order, how sure it is, and warnings."""
        shown = [name for name in self.values if self.values[name].notna().any()]
        width = max(len(PREDICTORS[name].label) for name in shown)
        columns = {one: max(len(one), 10) for one in self.order}
        lines = [f"{'':<{width}}" + "".join(f"  {one:>{size}}" for one, size in columns.items()) + "  in the report"]
        for name in shown:
            cells = "".join(f"  {self._cell(one, name):>{size}}" for one, size in columns.items())
            worth = self.calibration and self.calibration.of(name, self.few)
            beside = f"{worth.spearman:+.2f}" if worth else "-"
            lines.append(f"{PREDICTORS[name].label:<{width}}{cells}  {beside:>13}")
        lines += ["", "Each value with its rank; 1 is the most promising. In the report: Spearman's correlation of "
                  "promising values with performance, 1 for a perfect predictor.",
                  f"Fine-tuned at {self.length} tokens and RoPE theta {self.rope_theta:.6g}.",
                  f"Recommended order, by {PREDICTORS[self.by].label}: {', '.join(self.order)}"]
        if self.real_loss is not None:
            lines.append(f"The same fine-tuning on real examples: probe loss {self.real_loss:.3f}")
        lines += ["", "How sure this is:", *(f"  {line}" for line in self.undecided() or (
            [f"each two neighbours by probe loss are told apart: probability of at least {SURE:g} that the first is "
             "better"]))]
        lines.append("  (over probe examples only, not over seeds of the fine-tuning: see whether another --seed, in "
                     "another --out, gives the same order)")
        lines += ["", "What the report measured:", *(f"  {line}" for line in self.worth())]
        return "\n".join([*lines, "", *(f"warning: {line}" for line in self.warnings())]).rstrip()

    def _cell(self, one: str, predictor: str) -> str:
        value = self.values.loc[one, predictor]
        return "-" if pd.isna(value) else f"{value:.3f} ({self.ranks.loc[one, predictor]:.0f})"
