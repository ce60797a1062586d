"""Can a training set be chosen by its heads on 20 probe examples? (question Q1 of book/preregistration.md)

In each task, base model and seed the candidate with the best predictor is taken, and its regret is what it falls short
of the best candidate, each being worth its mean performance over the seeds (`stats.prediction`). The real run's heads
are those of the other seeds, also on 20 examples. Training loss, overlap of word sequences and the probe loss (of all
probe examples) need no real run.
"""

from __future__ import annotations

from functools import partial

import pandas as pd

from retrieval_heads.claims.prediction import pooled
from retrieval_heads.claims.run_predictors import OUTCOME
from retrieval_heads.claims.runs import frame, from_cells, mixtures, synthetic, told
from retrieval_heads.claims.verdict import ALL, Verdict, decide, undecided
from retrieval_heads.stats.prediction import choices, summarise_regret
from retrieval_heads.stats.resample import RESAMPLES
from retrieval_heads.wording import PREDICTORS as WORDS
from retrieval_heads.wording import listed

SYNTHETIC, WITH_MIXTURES = "synthetic", "with_mixtures"
"""Values of the column `candidates`."""

OURS, THEIRS = "recall_few", "training_loss"
"""The predictor in question, and the one that it has to beat beside a random choice."""

PREDICTORS = {
    OURS: "high", "cosine_few": "high", "recall": "high", "cosine": "high", THEIRS: "low", "probe_loss": "low",
    "ngram_overlap": "high", "base_overlap": "high",
}
"""What a set is chosen by, and which values promise performance."""

Q1 = partial(
    Verdict, claim="Q1", unit="fraction", n_of="choices", chapter="07_verdicts", table="choice",
    quantity="regret of the training set chosen by recall on 20 probe examples, against a random choice and the "
    "training loss", rule=
    "Supported when the regret is smaller than that of a random choice and of the training loss, both beyond the "
    "interval and in each base model; in part when it is smaller than that of a random choice only; not supported when "
    "it is larger than either, beyond the interval.",
)


def choice_rows(runs: pd.DataFrame, *, n_resamples: int = RESAMPLES) -> pd.DataFrame:
    """The table `choice`: what it costs to choose by each predictor that is defined in some run."""
    names = runs["condition"].unique()
    candidates = {SYNTHETIC: synthetic(names), WITH_MIXTURES: [*synthetic(names), *mixtures(names)]}
    rows = []
    for name, conditions in candidates.items():
        part = runs[runs["condition"].isin(conditions)]
        known = {one: way for one, way in PREDICTORS.items() if part[one].notna().any()}
        if OURS in known:
            rows.append(_rows(part, known, n_resamples).assign(candidates=name, n_candidates=len(conditions)))
    return frame(pd.concat(rows, ignore_index=True) if rows else [], "choice")


def _rows(part: pd.DataFrame, predictors: dict[str, str], n_resamples: int) -> pd.DataFrame:
    chosen = choices(part, predictors, OUTCOME)
    rows = summarise_regret(chosen, OURS, n_resamples=n_resamples)
    # what recall gains over the predictor, not the predictor over recall
    ends = {"": "", "_low": "_high", "_high": "_low"}
    rows = rows.assign(**{f"behind_recall_few{end}": 0 - rows[f"over_reference{other}"] for end, other in ends.items()})
    return rows.merge(_of_bases(chosen), on=["task", "predictor"], how="left")


def _of_bases(chosen: pd.DataFrame) -> pd.DataFrame:
    """In how many base models the mean gain, and the mean regret less that of `recall_few`, are positive."""
    keys = ["task", "base", "seed"]
    ours = chosen[chosen["predictor"] == OURS].set_index(keys)["regret"].rename("ours")
    both = chosen.join(ours, on=keys)
    both = both.assign(gain=both["random_regret"] - both["regret"], behind=both["regret"] - both["ours"])
    both = pd.concat([both, both.assign(task=ALL)])
    means = both.groupby(["task", "predictor", "base"])[["gain", "behind"]].mean()
    counts = (means > 0).groupby(level=["task", "predictor"]).sum()
    sizes = means.groupby(level=["task", "predictor"]).size()
    return counts.set_axis(["bases_gaining", "bases_behind"], axis=1).assign(n_bases=sizes).reset_index()


def choice_verdict(choice: pd.DataFrame) -> Verdict:
    """The verdict on Q1, of all tasks together, among the synthetic conditions."""
    rows = pooled(choice[choice["candidates"] == SYNTHETIC]).set_index("predictor")
    if OURS not in rows.index or THEIRS not in rows.index or pd.isna(rows.loc[OURS, "gain_low"]):
        return undecided(Q1, ALL, "There are no choices of several seeds to compare.")
    ours, theirs = rows.loc[OURS], rows.loc[THEIRS]
    over_random = ours["gain_low"] > 0 and ours["bases_gaining"] == ours["n_bases"]
    over_loss = theirs["behind_recall_few_low"] > 0 and theirs["bases_behind"] == theirs["n_bases"]
    verdict = decide(not_supported=ours["gain_high"] < 0 or theirs["behind_recall_few_high"] < 0,
                     supported=over_random and over_loss, in_part=over_random)
    ordered = [*((f"by {WORDS[name]}", regret) for name, regret in rows["regret"].items()),
               ("at random", ours["random_regret"])]
    regrets = "; ".join(f"{regret:.3f} {how}" for how, regret in sorted(ordered, key=lambda one: one[1]))
    detail = (f"Mean regret, the best first: {regrets}. Against a random choice, which loses {told(ours, 'gain')} "
              f"more, and against the training loss, which loses {told(theirs, 'behind_recall_few')} more, this is "
              f"decided; {_against_others(rows)}")
    return Q1(ALL, verdict, *from_cells(ours, "regret"), int(ours["n_choices"]), detail)


def _against_others(rows: pd.DataFrame) -> str:
    """Beside the rule: which other predictors choose better, and whether full recall beats a random choice."""
    others = rows.drop(index=[OURS, THEIRS])
    better = others[(others["behind_recall_few_high"] < 0) & (others["bases_behind"] == 0)]
    said = [f"{-row.behind_recall_few:.3f} ({-row.behind_recall_few_high:.3f} to {-row.behind_recall_few_low:.3f}) "
            f"more than by {WORDS[name]}" for name, row in better.sort_values("regret").iterrows()]
    text = f"it loses {listed(said)}." if said else "no other predictor is shown to lose less."
    weak = [WORDS[name] for name, row in rows.iterrows() if not row["gain_low"] > 0]
    return text + (f" Not shown to be better than a random choice: {'; '.join(weak)}." if weak else "")
