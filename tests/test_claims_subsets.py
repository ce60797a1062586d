"""C2: a planted subset is found in sets and strengths, chance is that of stats.overlap, each verdict can be reached."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from claim_tables import CONDITIONS, SYNTHETIC, head_scores, planted
from scipy import stats

from retrieval_heads.claims.arrays import pair_intervals, pair_means
from retrieval_heads.claims.runs import claimed, mixtures, synthetic
from retrieval_heads.claims.strengths import base_share_rows, strength_rows
from retrieval_heads.claims.subsets import layer_chance, subset_rows, subset_verdicts
from retrieval_heads.claims.verdict import IN_PART, NOT, SUPPORTED, UNDECIDED
from retrieval_heads.stats.correlation import correlate
from retrieval_heads.stats.overlap import overlap
from retrieval_heads.tables import conform

FEW = {"n_resamples": 50}


def study(share: float = 0.5, **changes) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    noise = changes.pop("noise", 0.01)
    masks = planted(rng, {"real": 1.0, **dict.fromkeys(SYNTHETIC, share)}, **changes)
    return head_scores(rng, masks, noise=noise)


def matrix(table: pd.DataFrame, column: str, **run) -> np.ndarray:
    rows = table[np.logical_and.reduce([table[name] == value for name, value in run.items()])]
    return rows.pivot(index="layer", columns="head", values=column).to_numpy()


def verdict_of(table: pd.DataFrame) -> str:
    return next(one.verdict for one in subset_verdicts(subset_rows(table, [0.1], **FEW)) if one.task == "all")


def test_the_synthetic_conditions_are_ten_and_sizes_and_controls_are_left_out() -> None:
    assert synthetic([*CONDITIONS, "real_short", "base", "real_4x"]) == list(SYNTHETIC)
    assert synthetic(["set.A", "real", "low_low"]) == ["low_low", "set.A"]  # of the user's own, from a file
    assert len(mixtures(CONDITIONS)) == 3
    assert not {"real_short", "real_shuffled", "real_4x", "base"} & set(claimed([*CONDITIONS, "real_short", "real_4x"]))


def gained_overlap(real: np.ndarray, run: np.ndarray, base: np.ndarray, threshold: float) -> dict[str, float]:
    """Of the heads that the base model does not have: overlap, and its chance from all sets with the same layers."""
    of_real, of_run = ((scores > threshold) & ~(base > threshold) for scores in (real, run))
    chances = np.ones(1)
    for width, n_real, n_run in zip((base <= threshold).sum(1), of_real.sum(1), of_run.sum(1), strict=True):
        chances = np.convolve(chances, stats.hypergeom.pmf(np.arange(n_run + 1), max(width, 1), n_real, n_run))
    common, n = np.arange(len(chances)), of_run.sum()
    return {
        "precision": (of_real & of_run).sum() / n, "recall": (of_real & of_run).sum() / of_real.sum(),
        "precision_layer_chance": chances @ common / n, "n_synthetic": n, "subset_layer_chance": chances[n],
        "precision_layer_chance_high": np.argmax(chances.cumsum() >= 0.975 - 1e-12) / n,
    }


def test_chance_of_many_pairs_is_that_of_each() -> None:
    rng = np.random.default_rng(1)
    scores = rng.random((20, 3, 5, 8))
    real, run, base = (scores[:, i] for i in range(3))
    candidates = base < 0.7
    sets = [((one > 0.6) & candidates).sum(axis=-1) for one in (run, real)]
    expected, quantile, inside = layer_chance(*sets, candidates.sum(axis=-1))
    for i in range(20):
        row = gained_overlap(real[i] > 0.6, run[i] > 0.6, base[i] >= 0.7, 0.5)
        n = sets[0][i].sum()
        assert expected[i] / n == pytest.approx(row["precision_layer_chance"])
        assert quantile[i] / n == pytest.approx(row["precision_layer_chance_high"])
        assert inside[i] == pytest.approx(row["subset_layer_chance"], abs=1e-11)
    assert [len(one) for one in layer_chance(*np.zeros((3, 0, 5), dtype=int))] == [0, 0, 0]


def test_the_means_are_those_of_every_pair_of_seeds_and_halves() -> None:
    table = study(0.5, outside=0.3, noise=0.05, tasks=("mdqa",), seeds=(1, 2, 3), bases=("base",))
    rows = subset_rows(table, [0.2], **FEW).set_index(["condition", "heads"])
    base = matrix(table, "score", condition="rope")
    found: dict[str, list] = {"all": [], "gained": []}
    for seed in (1, 2, 3):
        for other in {1, 2, 3} - {seed}:
            for half, opposite in (("score_even", "score_odd"), ("score_odd", "score_even")):
                run = matrix(table, half, condition="low_low", seed=seed)
                real = matrix(table, opposite, condition="real", seed=other)
                found["all"].append(overlap(real, run, 0.2, n_permutations=1))
                found["gained"].append(gained_overlap(real, run, base, 0.2))
    for heads, pairs in found.items():
        row, mean = rows.loc[("low_low", heads)], pd.DataFrame(pairs).mean(numeric_only=True)
        for name, column in {"precision": "precision", "recall": "recall", "chance": "precision_layer_chance",
                             "chance_high": "precision_layer_chance_high"}.items():
            assert row[name] == pytest.approx(mean[column]), (heads, name)
        assert row["n_pairs"] == 6
        assert row["n_heads"] == pytest.approx(mean["n_synthetic"])


def test_a_planted_subset_is_found_with_its_precision_recall_and_strictness() -> None:
    rows = subset_rows(study(0.5), [0.1], **FEW)
    row = rows[(rows.task == "mdqa") & (rows.condition == "low_low") & (rows.heads == "gained")].iloc[0]
    assert (row.precision, row.recall, row.strict, row.ceiling, row.retest) == (1, 0.5, 1, 1, 1)
    assert row.chance < row.chance_high < 0.5
    assert row.normalised == pytest.approx(1)
    assert (row.bases_above, row.n_bases, row.n_pairs) == (2, 2, 40)
    real = rows[(rows.condition == "real") & (rows.heads == "all")]
    assert (real.strict == 0).all()


@pytest.mark.parametrize(("changes", "verdict"), [
    ({"share": 0.5}, SUPPORTED),
    ({"share": 0.0, "outside": 0.05, "n_base": 12}, IN_PART),  # what the base model had, and one head elsewhere
    ({"share": 0.0, "outside": 0.5, "keep": 0.0}, NOT),
    ({"share": 0.3, "outside": 0.6, "n_base": 0}, UNDECIDED),  # a third of the heads: more than chance, not most
    ({"share": 0.5, "seeds": (1,)}, UNDECIDED),
    ({"share": 0.5, "tasks": ("mdqa",)}, UNDECIDED),
])
def test_each_verdict(changes: dict, verdict: str) -> None:
    assert verdict_of(study(**changes)) == verdict


def test_gained_heads_are_told_by_the_raised_theta_and_of_the_base_models_scored_so() -> None:
    table = study(0.5)
    # the base model at its own length has every head of the runs: were it the measure, nothing would be gained
    own = (table.condition == "base") & (table.layer >= 0)
    table.loc[own, ["score", "score_even", "score_odd"]] = 0.9
    assert verdict_of(table) == SUPPORTED
    one = table[(table.condition != "rope") | (table.base == "base")]
    found = subset_verdicts(subset_rows(one, [0.1], **FEW))
    assert [verdict.verdict for verdict in found] == [IN_PART] * 4
    assert "of 1 of 2 base models, the only one scored with the raised theta" in found[0].detail
    nobody = subset_verdicts(subset_rows(table[table.condition != "rope"], [0.1], **FEW))
    assert nobody[0].verdict == IN_PART
    assert "no base model was scored with the raised theta" in nobody[0].detail


def test_where_the_real_runs_gain_nothing_nothing_is_said_of_what_is_learned() -> None:
    found = subset_verdicts(subset_rows(study(0.5, n_real=0, n_base=12), [0.1], **FEW))
    assert [one.verdict for one in found] == [IN_PART] * 4
    assert "The real runs gain 0 heads on average, so nothing is said of what is learned." in found[0].detail


def test_with_fewer_than_eight_conditions_the_rule_decides_nothing() -> None:
    table = study(0.5)
    found = subset_verdicts(subset_rows(table[table.condition.isin(["real", "base", "rope", *SYNTHETIC[:3]])], [0.1],
                                        **FEW))
    assert {one.verdict for one in found} == {UNDECIDED}
    assert found[0].detail.startswith("Not decided: 3 synthetic conditions are there, the rule needs 8.")


def test_no_heads_and_no_real_runs_are_not_decided() -> None:
    table = study(0.5, tasks=("mdqa", "musique"))
    weak = table.assign(**dict.fromkeys(("score_even", "score_odd"), 0.01))
    assert verdict_of(weak) == UNDECIDED
    assert subset_rows(table[table.condition != "real"], [0.1]).empty


def test_the_partial_correlation_is_that_of_the_pairs() -> None:
    table = study(0.5, noise=0.05, tasks=("mdqa",), seeds=(1, 2), bases=("base",))
    every = base_share_rows(table, **FEW)
    raised, own = (every[every.given == given].partial for given in ("rope", "base"))
    assert raised.tolist() == pytest.approx(own.tolist(), abs=0.03)  # of the same heads, with other noise
    rows = every[every.given == "base"].set_index(["condition", "ranks"])
    base, found = matrix(table, "score", condition="base"), {"all": [], "layer": []}
    for seed, other in ((1, 2), (2, 1)):
        for half, opposite in (("score_even", "score_odd"), ("score_odd", "score_even")):
            run, real = (matrix(table, column, condition=condition, seed=one) for column, condition, one in (
                (half, "low_low", seed), (opposite, "real", other)))
            for ranks in found:
                groups = np.repeat(np.arange(len(base)), base.shape[1]) if ranks == "layer" else None
                found[ranks].append({
                    name: correlate(one.ravel(), two.ravel(), groups=groups, n_resamples=1, n_permutations=1,
                                    covariate=base.ravel() if name == "partial" else None)["estimate"]
                    for name, one, two in (("partial", run, real), ("correlation", run, real), ("base", base, run))})
    for ranks, pairs in found.items():
        mean = pd.DataFrame(pairs).mean(numeric_only=True)
        row = rows.loc[("low_low", ranks)]
        assert row[["partial", "correlation"]].tolist() == pytest.approx(mean[["partial", "correlation"]].tolist())
        assert row["base_run"] == pytest.approx(mean["base"])


def test_intervals_need_three_seeds_and_widen_with_the_chance_of_seeds() -> None:
    rng = np.random.default_rng(2)
    values = np.where(~np.eye(5, dtype=bool), 0.5 + 0.1 * rng.normal(size=(4, 2, 5, 1)), np.nan)
    low, high = pair_intervals(values)
    assert ((low < pair_means(values)) & (pair_means(values) < high)).all()
    steady = np.where(~np.eye(5, dtype=bool), 0.5, np.nan) * np.ones((1, 2, 1, 1))
    assert [float(end[0]) for end in pair_intervals(steady)] == pytest.approx([0.5, 0.5])
    assert np.isnan(pair_intervals(values[..., :2, :2])).all()
    assert np.isnan(pair_intervals(np.full((1, 2, 5, 5), np.nan))).all()


def test_nothing_is_decided_where_the_real_runs_have_no_heads(monkeypatch) -> None:
    monkeypatch.setattr("retrieval_heads.claims.subsets.too_few", lambda *_: "")
    rows = pd.DataFrame([
        {"task": "summhay", "condition": condition, "heads": "all", "threshold": 0.1, "precision": 0.0, "chance": 0.0,
         "chance_high": 0.0, "normalised": 0.0, "n_heads": n_heads, "bases_above": 0, "n_bases": 2,
         "ceiling": 0.0, "recall": 0.0, "bases_known": 2}
        for condition, n_heads in (("real", 0.25), ("high_high", 1.0), ("low_low", 2.0), ("symbolic", 1.5))
    ])
    [verdict, _] = subset_verdicts(rows)
    assert verdict.verdict == "not decided"
    assert "The real runs have 0.25 heads on average" in verdict.detail
    rows.loc[rows.condition == "real", "n_heads"] = 5.0
    assert subset_verdicts(rows)[0].verdict == "not supported"


@pytest.fixture
def table() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    masks = planted(rng, {"real": 1.0, "high_high": 0.5, "symbolic": 0.0}, n_real=16, n_base=4, outside=0.0,
                    tasks=("mdqa",), seeds=(1, 2, 3))
    return head_scores(rng, masks, noise=0.0)


def test_shares_of_planted_heads_come_back(table) -> None:
    table = table[table["condition"] != "rope"]
    rows = conform("strengths", strength_rows(table, n_resamples=100, n_permutations=20)).set_index("condition")
    assert set(rows["heads"]) == {"all"}  # the base model at its own length is no measure of what was gained
    # strengths: .51 of a head, .01 elsewhere (192 heads); the sums are 20 and 12 heads of .5 and 192 x .01
    assert rows.loc["real", "recall"] == pytest.approx(1.0)
    assert rows.loc["high_high", "recall"] == pytest.approx((12 * 0.5 + 1.92) / (20 * 0.5 + 1.92))
    assert rows.loc["symbolic", "recall"] == pytest.approx((4 * 0.5 + 1.92) / (20 * 0.5 + 1.92))
    assert rows["precision"].to_numpy() == pytest.approx(1.0)
    assert (rows["chance_high"] < 0.9).all()
    assert rows.loc["real", "rank_biased_overlap"] == pytest.approx(1.0)
    assert (rows["n_pairs"] == 2 * 6).all()


def test_what_is_gained_is_told_of_where_the_base_was_scored_at_the_same_length(table) -> None:
    rows = strength_rows(table, n_resamples=100, n_permutations=20)
    gained = rows[rows["heads"] == "gained"].set_index("condition")
    assert gained.loc["high_high", "recall"] == pytest.approx(0.5)  # 8 of the 16 that real runs gain
    assert gained.loc["high_high", "precision"] == pytest.approx(1.0)
    assert np.isnan(gained.loc["symbolic", "precision"])  # gains nothing
    assert gained.loc["symbolic", "recall"] == 0
