"""The result of a ranking, as tables and as the text that a reader sees."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from retrieval_heads.config import load_profile
from retrieval_heads.rank.calibration import PREDICTORS, PROFILE, Calibration, order, ranked
from retrieval_heads.rank.decide import HARDLY, Comparison
from retrieval_heads.settings import UNTUNED

FEW_PROBE = 32
"""Below this many probe examples, heads are calibrated by the report's `_few` predictors (20 examples)."""

FEW_HEADS = 5
"""With fewer heads recall moves in steps of more than a fifth."""

FREE = "ngram_overlap"
"""The predictor that needs no model at all."""


@dataclass(frozen=True, eq=False)
class Result:
    """Values and ranks of all sets, and what is needed to judge them.

    Attributes:
        values: one row per set, one column per predictor; NaN where it is not known.
        calibration: what the report measured; None if its tables are missing.
        n_probe: probe examples; `n_train`: examples used of each set.
        spread: standard deviations over seeds, as `values`; NaN with one seed.
        untuned: the values of the model without fine-tuning.
        n_seeds: fine-tunes of each set.
        compared: every pair of sets by probe loss, see `decide.compared`.
        flaws: by set, why its examples can be solved by reading one place; empty for the others.
        set_warnings: by set, the warnings of `check`.
        n_real_heads, n_base_heads: retrieval heads above `threshold`; None where they are not known.
        real_loss: probe loss after the same fine-tuning on real examples; None without them.
        length, rope_theta: tokens and RoPE theta of the fine-tunes.
        leaked: number of probe examples whose prompt, question, or needle and answer each set has.
    """

    values: pd.DataFrame
    calibration: Calibration | None
    n_probe: int
    n_train: Mapping[str, int]
    spread: pd.DataFrame
    untuned: Mapping[str, float]
    n_seeds: int
    compared: Sequence[Comparison]
    flaws: Mapping[str, str]
    set_warnings: Mapping[str, Sequence[str]]
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
    def ranks(self) -> pd.DataFrame:
        """The place of each set by each predictor, 1 the most promising."""
        return ranked(self.values)

    @property
    def known(self) -> list[str]:
        """The predictors that have a value for every set."""
        return [name for name in self.values if self.values[name].notna().all()]

    @property
    def by(self) -> str:
        """The predictor of the recommended order: the report's best, or probe loss without its tables."""
        return (self.calibration and self.calibration.best(self.known, self.few)) or "probe_loss"

    @property
    def order(self) -> list[str]:
        """By that predictor; sets that can be solved by reading one place come last, whatever their losses."""
        found = order(self.values, self.by)
        return [*(name for name in found if not self.flaws[name]), *(name for name in found if self.flaws[name])]

    def table(self) -> pd.DataFrame:
        """One row per set and known predictor, the untuned model's among them, without a rank."""
        rows = []
        for predictor in self.values:
            rows += [
                {"set": name, "predictor": predictor, "value": self.values.loc[name, predictor],
                 "spread": self.spread[predictor].get(name) if predictor in self.spread else None,
                 "rank": int(self.ranks.loc[name, predictor]), "recommended": predictor == self.by}
                for name in self.values.index if pd.notna(self.values.loc[name, predictor])
            ]
            if pd.notna(value := self.untuned.get(predictor)):
                rows.append({"set": UNTUNED, "predictor": predictor, "value": value, "spread": None, "rank": None,
                             "recommended": predictor == self.by})
        return pd.DataFrame(rows).astype({"rank": "Int64"})

    def warnings(self) -> list[str]:
        """Everything that makes the order less sure, in plain words."""
        found = [f"{name}: {text}" for name, texts in self.set_warnings.items() for text in texts]
        found += [f"{name}: {count} of the {self.n_probe} probe examples share prompt, question or needle with the "
                  "training set; its losses mean nothing" for name, count in self.leaked.items() if count]
        before, best = self.untuned["probe_loss"], float(self.values["probe_loss"].min())
        if before - best < HARDLY * before:
            found.append(f"training hardly moved the model (probe loss {before:.3f} before, {best:.3f} at best): "
                         "nothing can be said about the sets; raise --epochs, --examples or --lr")
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
            found.append("no probe example with needles is short enough for the unextended base model (--base-probe), "
                         "so its own heads are not known")
        if self.calibration is not None:
            size = load_profile(PROFILE).n_train
            if max(self.n_train.values()) < size:
                found.append(f"the report fine-tuned on {size} examples per set, and with less work the predictors may "
                             "be worth less than is said here; its models are small, its texts generated")
        return found

    @property
    def neighbours(self) -> list[Comparison]:
        """The comparisons of neighbours in order of probe loss."""
        by_loss = order(self.values, "probe_loss")
        pairs = {frozenset((one.first, one.second)): one for one in self.compared}
        return [pairs[frozenset(pair)] for pair in itertools.pairwise(by_loss)]

    def undecided(self) -> list[str]:
        """The neighbours in order of probe loss that cannot be distinguished, with the reasons."""
        return [one.text() for one in self.neighbours if not one.told_apart]

    def worth(self) -> list[str]:
        """What the report found about each predictor, and about heads compared with cheaper ones."""
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
            "untuned": {name: value for name, value in self.untuned.items() if pd.notna(value)},
            "n_seeds": self.n_seeds, "flaws": {name: text for name, text in self.flaws.items() if text},
            "compared": [
                {name: None if value != value else value for name, value in asdict(one).items()}  # not defined is null
                | {"told_apart": one.told_apart} for one in self.compared
            ],
            "undecided": self.undecided(), "worth": self.worth(), "warnings": self.warnings(),
        }

    def text(self) -> str:
        """The result for a reader: a table, the order, how sure it is, and warnings."""
        shown = [name for name in self.values if self.values[name].notna().any()]
        width = max(len(PREDICTORS[name].label) for name in shown)
        columns = {one: max(len(one), 10) for one in (*self.order, UNTUNED)}
        lines = [f"{'':<{width}}" + "".join(f"  {one:>{size}}" for one, size in columns.items()) + "  in the report"]
        for name in shown:
            cells = "".join(f"  {self._cell(one, name):>{size}}" for one, size in columns.items())
            worth = self.calibration and self.calibration.of(name, self.few)
            beside = f"{worth.spearman:+.2f}" if worth else "-"
            lines.append(f"{PREDICTORS[name].label:<{width}}{cells}  {beside:>13}")
        lines += ["", f"Each value is a mean over {self.n_seeds} seed{'s' * (self.n_seeds > 1)}, with its rank; 1 is "
                  "the most promising. In the report: Spearman's correlation of promising values with performance, 1 "
                  "for a perfect predictor.",
                  f"Fine-tuned at {self.length} tokens and RoPE theta {self.rope_theta:.6g}.",
                  f"Recommended order, by {PREDICTORS[self.by].label}: {self._order_text()}"]
        if self.real_loss is not None:
            lines.append(f"The same fine-tuning on real examples: probe loss {self.real_loss:.3f}")
        lines += ["", "How sure this is:", *(f"  {one.text()}" for one in self.neighbours)]
        lines += ["", "What the report measured:", *(f"  {line}" for line in self.worth())]
        return "\n".join([*lines, "", *(f"warning: {line}" for line in self.warnings())]).rstrip()

    def _order_text(self) -> str:
        """The order, with `~` between neighbours that are not told apart, and which sets stand last for a flaw."""
        apart = {frozenset((one.first, one.second)) for one in self.compared if one.told_apart}
        text = self.order[0]
        for one, other in itertools.pairwise(self.order):
            text += (", " if frozenset((one, other)) in apart else " ~ ") + other
        flawed = [name for name in self.order if self.flaws[name]]
        return text + (f" (~: not told apart; {', '.join(flawed)} last, as one place solves it)" if flawed else
                       " (~: not told apart)" if "~" in text else "")

    def _cell(self, one: str, predictor: str) -> str:
        if one == UNTUNED:
            value = self.untuned.get(predictor)
            return "-" if pd.isna(value) else f"{value:.3f}    "
        value = self.values.loc[one, predictor]
        return "-" if pd.isna(value) else f"{value:.3f} ({self.ranks.loc[one, predictor]:.0f})"
