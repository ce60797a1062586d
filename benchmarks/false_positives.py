"""How often do the rules of the second study find what is not there? On permuted labels, and where nothing differs.

    python benchmarks/false_positives.py --out results/benchmarks/false_positives.csv      # one core, ten minutes

Each data set is one in which a finding is false by construction: labels of runs of the first study are permuted
(training sets within each seed, performance over sets), or tables are simulated without a difference. The rules
are the code that decides, with fewer resamples; what lies within the Monte Carlo error counts as not found, as it does
there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import pretrained_tables as simulated  # noqa: E402

from retrieval_heads.claims.pretrained import interventions, prediction, shortfall, subsets  # noqa: E402
from retrieval_heads.claims.pretrained.loading import NAMED, SYNTHETIC, probed  # noqa: E402
from retrieval_heads.claims.verdict import IN_PART, NOT, SUPPORTED  # noqa: E402
from retrieval_heads.data.conditions import kind_of  # noqa: E402
from retrieval_heads.stats.resample import bootstrap_two_level  # noqa: E402

REPORT = ROOT / "results/report"
TASKS = ("mdqa", "musique")
Counts = dict[str, tuple[int, int]]
"""By finding, how often it came up and how often it could have."""


def c1_permuted(rng: np.random.Generator, n_resamples: int) -> Counts:
    """Three seeds of the first study, with the labels of the training sets permuted within each seed."""
    task = str(rng.choice(TASKS))
    answers = _report("answers")
    answers = answers[(answers["task"] == task) & (answers["base"] == "base")]
    names = [name for name in answers["condition"].unique() if not (kind_of(name).control or kind_of(name).sized)]
    parts = []
    for seed in rng.choice(sorted(answers["seed"].unique()), 3, replace=False):
        label = dict(zip(names, rng.permutation(names), strict=True))
        own = answers[(answers["seed"] == seed) & answers["condition"].isin(names)]
        parts.append(own.assign(condition=own["condition"].map(label)))
    alone = _report("base_answers")
    alone = alone[(alone["task"] == task) & (alone["base"] == "base")]
    return _c1(pd.concat(parts), alone, task, n_resamples)


def c1_simulated(rng: np.random.Generator, n_resamples: int) -> Counts:
    """No training set differs from another one but by its seeds (standard deviation .02 of F1)."""
    names = ("real", *SYNTHETIC, "real_limited", "real_quarter")
    tables = simulated.answers(rng, dict.fromkeys(names, 0.1), of_seeds=0.02, n=300)
    plain = _plain_bootstrap(tables["answers"])
    return _c1(tables["answers"], tables["base_answers"], "mdqa", n_resamples) | plain


def c1_margin(rng: np.random.Generator, n_resamples: int) -> Counts:
    """The named sets differ from `real` by exactly the margin of .03, so that none is equivalent."""
    levels = {name: 0.1 if name in NAMED else 0.13 for name in ("real", *SYNTHETIC, "real_limited", "real_quarter")}
    tables = simulated.answers(rng, levels, of_seeds=0.005, n=300)
    rows = shortfall.contrasts(tables["answers"], tables["base_answers"], "mdqa", n_resamples=n_resamples)
    found = rows["finding"].dropna()
    return {"a contrast is equivalent": (int((found == shortfall.EQUIVALENT).any()), 1)}


def _c1(answers: pd.DataFrame, alone: pd.DataFrame, task: str, n_resamples: int) -> Counts:
    answers, alone = answers.drop(columns=["nll", "nll_without", "subspan"], errors="ignore"), alone.drop(
        columns=["nll", "nll_without", "subspan"], errors="ignore")
    rows = shortfall.contrasts(answers, alone, task, n_resamples=n_resamples)
    named = rows[rows["condition"].isin(NAMED) & (rows["outcome"] == "f1")]
    beyond = (named["low"] > 0) | (named["high"] < 0)
    directed = named["finding"].isin([shortfall.SHORT, shortfall.BETTER]).any()
    return {
        "an interval of a contrast excludes 0": (int(beyond.sum()), len(named)),
        "any of the three contrasts is short or better": (int(directed), 1),
        "C1 supported or in part": (int(shortfall.verdict(rows, task).verdict in (SUPPORTED, IN_PART)), 1),
    }


def _plain_bootstrap(answers: pd.DataFrame) -> Counts:
    """What the percentile bootstrap over three seeds and the examples would have found."""
    cubes = {name: rows.pivot_table(index="seed", columns="example", values="score").to_numpy()
             for name, rows in answers.groupby("condition") if name in ("real", *NAMED)}
    ends = [bootstrap_two_level(cubes["real"] - cubes[name], n_resamples=1000) for name in NAMED]
    return {"the same by resampling three seeds": (sum(one.low > 0 or one.high < 0 for one in ends), len(ends))}


def c2_exchangeable(rng: np.random.Generator, n_resamples: int) -> Counts:
    """All runs gain the same heads, whatever they are trained on."""
    rows, verdict = _c2(simulated.heads(rng, dict.fromkeys(("real", *SYNTHETIC), (1.0, 0.0)), n=100), n_resamples)
    return {"a set fails": (int((rows["finding"] == subsets.FAILS).sum()), len(rows)),
            "C2 not supported": (int(verdict == NOT), 1)}


def c2_permuted(rng: np.random.Generator, n_resamples: int) -> Counts:
    """As before, but the heads of every synthetic run are permuted within each layer."""
    tables = simulated.heads(rng, dict.fromkeys(("real", *SYNTHETIC), (1.0, 0.0)), n=100)
    layers, width = simulated.LAYERS, simulated.WIDTH
    orders = {(name, seed): np.stack([rng.permutation(width) for _ in range(layers)])
              for name in SYNTHETIC for seed in simulated.SEEDS}
    for table in tables.values():
        moved = table["condition"].isin(SYNTHETIC)
        table.loc[moved, "head"] = [orders[row.condition, row.seed][row.layer, row.head]
                                    for row in table[moved].itertuples()]
    rows, verdict = _c2(tables, n_resamples)
    return {"a set holds": (int((rows["finding"] == subsets.HOLDS).sum()), len(rows)),
            "C2 supported or in part": (int(verdict in (SUPPORTED, IN_PART)), 1)}


def c2_edge(rng: np.random.Generator, n_resamples: int) -> Counts:
    """Synthetic runs whose precision is .8 of the ceiling on average, which is where the rule begins."""
    own = {"real": (1.0, 0.0), **dict.fromkeys(SYNTHETIC, (0.6, _edge()))}
    rows, verdict = _c2(simulated.heads(rng, own, n=100), n_resamples)
    return {"a set holds": (int((rows["finding"] == subsets.HOLDS).sum()), len(rows)),
            "a set fails": (int((rows["finding"] == subsets.FAILS).sum()), len(rows)),
            "C2 supported": (int(verdict == SUPPORTED), 1)}


def _edge(found: list[float] = []) -> float:  # noqa: B006 - kept between calls
    """How much of other heads a synthetic run has to gain for a mean precision of .8 of the ceiling."""
    if not found:
        levels = np.linspace(0.05, 0.3, 6)
        rng, means = np.random.default_rng(1), []
        for level in levels:
            own = {"real": (1.0, 0.0), **dict.fromkeys(SYNTHETIC, (0.6, level))}
            rows = [_c2(simulated.heads(rng, own, n=100), 20)[0] for _ in range(5)]
            means.append(np.mean([one["difference"].mean() for one in rows]))
        found.append(float(np.interp(0.0, -np.array(means), levels)))
    return found[0]


def _c2(tables: dict[str, pd.DataFrame], n_resamples: int) -> tuple[pd.DataFrame, str]:
    probes = probed(tables["head_hits"], tables["head_scores"], "mdqa")
    rows = subsets.agreement_rows(probes, "mdqa", n_resamples=n_resamples, n_permutations=20)
    gained = rows[(rows["heads"] == "gained") & rows["condition"].isin(SYNTHETIC)]
    return gained, subsets.verdict(rows, "mdqa").verdict


def c3_permuted(rng: np.random.Generator, n_resamples: int) -> Counts:
    """Training sets of the first study with their performance permuted."""
    points = _points(rng)
    return _c3(points.assign(f1=rng.permutation(points["f1"])), n_resamples)


def c3_alone(rng: np.random.Generator, n_resamples: int) -> Counts:
    """The overlap of theta alone makes both recall and performance, and nothing else joins the two."""
    points = _points(rng)
    cause = rng.normal(size=len(points))
    return _c3(points.assign(alone_overlap=cause, recall=cause + 0.5 * rng.normal(size=len(points)),
                             f1=0.1 + 0.02 * (cause + 0.5 * rng.normal(size=len(points)))), n_resamples)


def _points(rng: np.random.Generator) -> pd.DataFrame:
    runs = _report("run_predictors")
    runs = runs[(runs["task"] == rng.choice(TASKS)) & (runs["base"] == "base") & (runs["condition"] != "real")]
    means = runs.groupby("condition")[["performance", "recall", "base_overlap", "probe_loss"]].mean().reset_index()
    renamed = means.rename(columns={"performance": "f1", "base_overlap": "alone_overlap"})
    return renamed.assign(task="mdqa", gained_recall=renamed["recall"], n_seeds=3)


def _c3(points: pd.DataFrame, n_resamples: int) -> Counts:
    rows = prediction.correlation_rows(points, "mdqa", n_resamples=n_resamples)
    of_all = rows[(rows["predictor"] == "recall") & (rows["sets"] == "all")]
    found = (of_all["p"] < 0.05) & (of_all["value"] > 0)
    given = of_all["given"].notna()
    verdict = prediction.verdict(points, rows, "mdqa").verdict
    return {
        "recall is correlated (p < .05, positive)": (int(found[~given].any()), 1),
        "given the overlap of theta alone, by ranks": (int(found[given & (of_all["scale"] == "ranks")].any()), 1),
        "given the overlap of theta alone, by values": (int(found[given & (of_all["scale"] == "values")].any()), 1),
        "C3 supported or in part": (int(verdict in (SUPPORTED, IN_PART)), 1),
    }


def c4_exchangeable(rng: np.random.Generator, n_resamples: int) -> Counts:
    """The strongest heads and all controls cost the same, with the gold document as without."""
    rises = dict.fromkeys(("retrieval", *interventions.CONTROLS), 0.2)
    table = simulated.knockouts(rng, rises, without=0.2, of_seeds=0.03)
    rows = interventions.necessity_rows(table, "mdqa", n_resamples=n_resamples)
    over = rows[rows["effect"] == interventions.OVER]
    verdict = interventions.necessity_verdict(rows.assign(intervention="knockout"), "mdqa").verdict
    return {"the rise over a control lies above 0": (int((over["low"] > 0).sum()), len(over)),
            "C4 supported or in part": (int(verdict in (SUPPORTED, IN_PART)), 1)}


def c5_exchangeable(rng: np.random.Generator, n_resamples: int) -> Counts:
    """The strongest heads close as much of the gap as random ones."""
    return _c5(rng, {"retrieval": 0.3, "random_layer": 0.3, "all": 0.9}, n_resamples)


def c5_whole(rng: np.random.Generator, n_resamples: int) -> Counts:
    """The strongest heads close the whole gap, as all heads do."""
    return _c5(rng, {"retrieval": 1.0, "random_layer": 0.05, "all": 1.0}, n_resamples)


def _c5(rng: np.random.Generator, shares: dict[str, float], n_resamples: int) -> Counts:
    rows = interventions.patching_rows(simulated.patches(rng, shares, of_seeds=0.03), "mdqa", n_resamples=n_resamples)
    pooled = rows[rows["condition"] == "all"].set_index(["effect", "k", "control"])
    over = pooled.loc[(interventions.CLOSED_OVER, 14, interventions.LAYERS), "low"]
    closed = pooled.loc[(interventions.CLOSED, 14, "retrieval"), "high"]
    verdict = interventions.patching_verdict(rows, "mdqa").verdict
    if shares["retrieval"] == 1:
        return {"the share closed lies below 1": (int(closed < 1), 1), "C5 supported": (int(verdict == SUPPORTED), 1)}
    return {"more than random heads": (int(over > 0), 1),
            "C5 supported or in part": (int(verdict in (SUPPORTED, IN_PART)), 1)}


def _report(name: str, kept: dict[str, pd.DataFrame] = {}) -> pd.DataFrame:  # noqa: B006 - read once
    if name not in kept:
        path = next(REPORT.glob(f"{name}.csv*"))
        kept[name] = pd.read_csv(path, keep_default_na=False, na_values=[""])
    return kept[name]


DATA: tuple[tuple[str, Callable[[np.random.Generator, int], Counts], int, int], ...] = (
    ("C1", c1_permuted, 300, 4000), ("C1", c1_simulated, 300, 4000), ("C1", c1_margin, 300, 4000),
    ("C2", c2_exchangeable, 100, 2000), ("C2", c2_permuted, 50, 2000), ("C2", c2_edge, 200, 2000),
    ("C3", c3_permuted, 500, 4000), ("C3", c3_alone, 500, 4000),
    ("C4", c4_exchangeable, 200, 4000), ("C5", c5_exchangeable, 200, 4000), ("C5", c5_whole, 200, 4000),
)
"""Claim, data, how often they are made, and resamples of each."""


def rates(scale: float = 1.0, only: str | None = None) -> Iterator[dict]:
    """One row a data set and finding, of one claim if given; `scale` multiplies how often data are made."""
    for claim, make, repeats, n_resamples in DATA:
        if only not in (None, claim):
            continue
        totals: dict[str, np.ndarray] = {}
        repeats = max(1, round(repeats * scale))
        for repeat in range(repeats):
            for finding, counts in make(np.random.default_rng([repeat, 14]), n_resamples).items():
                totals[finding] = totals.get(finding, np.zeros(2, dtype=int)) + counts
        for finding, (count, possible) in totals.items():
            ends = binomtest(int(count), int(possible)).proportion_ci(method="exact")
            yield {"claim": claim, "data": make.__name__, "meaning": (make.__doc__ or "").strip(), "finding": finding,
                   "count": int(count), "possible": int(possible), "rate": round(count / possible, 4),
                   "low": round(ends.low, 4), "high": round(ends.high, 4), "repeats": repeats, "resamples": n_resamples}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the CSV file to write")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies how often each data set is made")
    parser.add_argument("--claim", help="only the data sets of one claim")
    chosen = parser.parse_args()
    rows = pd.DataFrame(rates(chosen.scale, chosen.claim))
    rows.to_csv(chosen.out, index=False, lineterminator="\n")
    print(rows.drop(columns="meaning").to_string(index=False))


if __name__ == "__main__":
    main()
