"""The rules of the second study on simulated tables, and the stage `decide` that applies them to tables on disk."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from pretrained_tables import RANKED, SYNTHETIC, TRAINED, answers, heads, knockouts, patches, probe_losses

from retrieval_heads.claims.pretrained import (
    DERIVED,
    interventions,
    judge,
    over_tasks,
    prediction,
    shortfall,
    subsets,
)
from retrieval_heads.claims.pretrained.loading import probed
from retrieval_heads.claims.verdict import IN_PART, NOT, SUPPORTED, UNDECIDED, Verdict
from retrieval_heads.config import load_profile
from retrieval_heads.errors import ResultError
from retrieval_heads.keys import table_path
from retrieval_heads.manifest import Facts, sha256, write_manifest
from retrieval_heads.stages import claims
from retrieval_heads.store import derived_tables, load_table
from retrieval_heads.tables import conform, get_table, read_table, to_csv

FEW = {"n_resamples": 2000}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def c1(tables: dict[str, pd.DataFrame], **settings: int) -> Verdict:
    rows = shortfall.contrasts(tables["answers"], tables["base_answers"], "mdqa", **FEW | settings)
    assert len(conform("contrasts", rows)) == len(rows)
    return shortfall.verdict(rows, "mdqa")


@pytest.mark.parametrize(("levels", "expected"), [
    ({"high_high": 0.1, "low_low": 0.0, "symbolic": 0.05}, SUPPORTED),
    ({"high_high": 0.2, "low_low": 0.0, "symbolic": 0.05}, IN_PART),
    ({"high_high": 0.2, "low_low": 0.2, "symbolic": 0.3}, NOT),
    ({"high_high": 0.3, "low_low": 0.0, "symbolic": 0.0}, UNDECIDED),  # one is better, two fall short
])
def test_c1(rng, levels, expected) -> None:
    assert c1(answers(rng, {"real": 0.2} | levels)).verdict == expected


def test_c1_is_open_within_the_noise_of_seeds_and_not_tested_without_a_gain_or_seeds(rng) -> None:
    levels = {"real": 0.2, "high_high": 0.1, "low_low": 0.1, "symbolic": 0.1}
    assert c1(answers(rng, levels, of_seeds=0.15)).verdict == UNDECIDED
    no_gain = c1(answers(rng, levels, alone=0.2))
    assert (no_gain.verdict, "not tested" in no_gain.detail) == (UNDECIDED, True)
    few = c1(answers(rng, levels, seeds=(1, 2)))
    assert (few.verdict, "over examples only" in few.detail) == (UNDECIDED, True)
    assert not re.search("[a-z]_[a-z]", few.detail), "names of code"
    assert few.effect == pytest.approx(0.1, abs=0.02)


def test_c1_shows_every_outcome_and_says_when_a_run_lacks_examples(rng) -> None:
    tables = answers(rng, {"real": 0.2, "low_low": 0.1})
    rows = shortfall.contrasts(tables["answers"], tables["base_answers"], "mdqa", **FEW)
    assert set(rows["outcome"]) == {"f1", "subspan", "loss", "gain_from_context"}
    assert set(rows["condition"]) == {"low_low", "rope"}
    by = rows.set_index(["condition", "outcome"])["value"]
    assert by["low_low", "loss"] == pytest.approx(by["low_low", "f1"], abs=0.02)  # positive where real is better
    few = {name: table.assign(nll_without=table["nll_without"].where(table["example"] < 100))
           for name, table in tables.items()}  # as the study does: the gain costs a pass more
    n = shortfall.contrasts(few["answers"], few["base_answers"], "mdqa", **FEW).set_index("outcome")["n"]
    assert (set(n["gain_from_context"]), set(n["f1"])) == ({100}, {600})
    unknown = shortfall.contrasts(tables["answers"], pd.DataFrame(), "mdqa", **FEW)
    assert "not known" in shortfall.verdict(unknown, "mdqa").detail
    runs = tables["answers"]
    for short, said in ((runs.drop(index=0), "each seed and example"),
                        (runs[(runs["condition"] != "real") | (runs["example"] > 0)], "same examples")):
        with pytest.raises(ResultError, match=said):
            shortfall.contrasts(short, tables["base_answers"], "mdqa", **FEW)


def c2(tables: dict[str, pd.DataFrame], **settings: int) -> Verdict:
    probes = probed(tables["head_hits"], tables["head_scores"], "mdqa")
    rows = subsets.agreement_rows(probes, "mdqa", **FEW | {"n_permutations": 100} | settings)
    assert len(conform("strength_agreement", rows)) == len(rows)
    return subsets.verdict(rows, "mdqa")


@pytest.mark.parametrize(("first", "others", "alone", "expected"), [
    ((0.6, 0.0), (0.6, 0.0), 0.2, SUPPORTED),  # a part of what the real runs gain, and nothing else
    ((0.3, 0.8), (0.3, 0.8), 0.2, NOT),        # mostly other heads
    ((0.5, 0.0), (0.2, 0.15), 0.9, IN_PART),   # in two sets what all have from the start outweighs what was gained
    ((0.5, 0.0), (0.3, 0.8), 0.2, UNDECIDED),  # it holds in three sets and fails in two
])
def test_c2(rng, first, others, alone, expected) -> None:
    own = {name: first if place < 3 else others for place, name in enumerate(SYNTHETIC)}
    assert c2(heads(rng, {"real": (1.0, 0.0)} | own, alone=alone, n=120)).verdict == expected


def test_c2_is_not_tested_without_stable_gains_seeds_or_theta_alone(rng) -> None:
    nothing = c2(heads(rng, {name: (0.0, 0.0) for name in ("real", *SYNTHETIC)}, n=120))
    assert (nothing.verdict, "nothing stable" in nothing.detail) == (UNDECIDED, True)
    silent = heads(rng, {name: (0.0, 0.0) for name in ("real", *SYNTHETIC)}, n=20)
    silent["head_hits"] = silent["head_hits"][:0]  # no head of any run copies anything
    assert "No strength is gained" in c2(silent).detail
    own = {"real": (1.0, 0.0), **dict.fromkeys(SYNTHETIC, (0.6, 0.0))}
    assert c2(heads(rng, own, seeds=(1, 2), n=60)).verdict == UNDECIDED
    tables = heads(rng, own, n=60)
    tables = {name: rows[rows["condition"] != "rope"] for name, rows in tables.items()}
    assert c2(tables).verdict == UNDECIDED


def test_heads_of_runs_on_other_probe_examples_are_refused(rng) -> None:
    tables = heads(rng, {"real": (1.0, 0.0)}, n=20)
    tables["head_hits"].loc[0, "example"] = 20
    with pytest.raises(ResultError, match="probe examples"):
        probed(tables["head_hits"], tables["head_scores"], "mdqa")
    assert probed(tables["head_hits"], tables["head_scores"], "musique") is None


def c3(points: pd.DataFrame, **settings: int) -> Verdict:
    rows = prediction.correlation_rows(points, "mdqa", **FEW | settings)
    assert len(conform("set_correlation", rows)) == len(rows)
    return prediction.verdict(points, rows, "mdqa")


def points_of(recall: np.ndarray, f1: np.ndarray, alone: np.ndarray, loss: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"task": "mdqa", "condition": RANKED, "f1": f1, "recall": recall, "gained_recall": recall,
                         "alone_overlap": alone, "probe_loss": loss, "n_seeds": 3})


def test_c3(rng) -> None:
    f1, noise = np.linspace(0.05, 0.15, 12), rng.permutation(12)
    small = rng.normal(0, 0.005, 12)
    assert c3(points_of(f1 + small, f1, noise, noise[::-1])).verdict == SUPPORTED
    assert c3(points_of(f1 + 3 * small, f1, noise, f1 + small / 10)).verdict == IN_PART  # the loss says as much
    assert c3(points_of(f1 + small, f1, f1, noise)).verdict == UNDECIDED  # theta alone explains it
    assert c3(points_of(-f1 + small, f1, noise, noise)).verdict == NOT
    assert c3(points_of(np.ones(12), f1, noise, noise)).verdict == UNDECIDED
    few = points_of(f1 + small, f1, noise, noise)
    assert c3(few.iloc[:11]).verdict == UNDECIDED
    assert c3(few.assign(n_seeds=[2] + [3] * 11)).verdict == UNDECIDED


def test_c3_points_are_means_of_the_tables(rng) -> None:
    own = {name: (1.0 if name == "real" else 0.5, 0.0) for name in TRAINED}
    tables = heads(rng, own, n=60) | answers(rng, dict.fromkeys(TRAINED, 0.1), n=50)
    losses = probe_losses(rng, dict.fromkeys(TRAINED, 1.0))
    probes = probed(tables["head_hits"], tables["head_scores"], "mdqa")
    points = prediction.set_points(probes, tables["answers"], losses, "mdqa")
    assert list(conform("set_points", points)["condition"]) == sorted(RANKED)
    one = tables["answers"][tables["answers"]["condition"] == "low_low"]
    row = points.set_index("condition").loc["low_low"]
    assert row["f1"] == pytest.approx(one["score"].mean())
    assert 0.55 < row["recall"] < 0.75  # all of theta alone's .8, half of the gained 3.0: (.8 + 1.5) / 3.8
    assert 0.4 < row["gained_recall"] < 0.6
    assert 0.7 < row["alone_overlap"] < 0.9  # 1, but for the noise of 30 examples


def c4(table: pd.DataFrame, **settings: int) -> Verdict:
    rows = interventions.necessity_rows(table, "mdqa", **FEW | settings).assign(intervention="knockout")
    assert len(conform("loss_effects", rows)) == len(rows)
    return interventions.necessity_verdict(rows, "mdqa")


@pytest.mark.parametrize(("rises", "settings", "expected"), [
    ({"retrieval": 0.8, "random": 0.02}, {}, SUPPORTED),
    ({"retrieval": 0.3, "random": 0.02}, {}, IN_PART),                   # specific, and less than half
    ({"retrieval": 0.05, "random": 0.04}, {}, NOT),
    ({"retrieval": 0.8, "random": 0.02}, {"without": 0.8}, NOT),         # as much without the document: no retrieval
    ({"retrieval": 0.8, "random": 0.5}, {}, IN_PART),                    # random heads destroy much too
    ({"retrieval": 0.8, "random": 0.02}, {"gain": 0.0}, UNDECIDED),      # nothing to lose
    ({"retrieval": 0.8, "random": 0.02}, {"seeds": (1, 2)}, UNDECIDED),
    ({"retrieval": 0.8, "random": 0.02}, {"counts": (3, 7)}, UNDECIDED),
])
def test_c4(rng, rises, settings, expected) -> None:
    controls = dict.fromkeys(interventions.CONTROLS, rises["random"])
    assert c4(knockouts(rng, {"retrieval": rises["retrieval"]} | controls, **settings)).verdict == expected


def test_c4_needs_every_control(rng) -> None:
    missing = c4(knockouts(rng, {"retrieval": 0.8, "random_layer": 0.02, "random_group": 0.02}))
    assert (missing.verdict, missing.detail) == (
        UNDECIDED, "Not known: the rise beyond that without heads of score 0 (k = 3, 7, 14).")


def c5(table: pd.DataFrame, **settings: int) -> Verdict:
    rows = interventions.patching_rows(table, "mdqa", **FEW | settings).assign(intervention="patching")
    assert len(conform("loss_effects", rows)) == len(rows)
    return interventions.patching_verdict(rows, "mdqa")


@pytest.mark.parametrize(("shares", "settings", "expected"), [
    ({"retrieval": 0.5, "random_layer": 0.05, "all": 0.95}, {}, SUPPORTED),
    ({"retrieval": 0.6, "random_layer": 0.05, "all": 0.6}, {}, IN_PART),      # all heads close no more
    ({"retrieval": 0.4, "random_layer": 0.4, "all": 0.95}, {}, NOT),          # no more than random heads
    ({"retrieval": 0.99, "random_layer": 0.05, "all": 1.0}, {}, NOT),         # nothing is left
    ({"retrieval": 0.5, "random_layer": 0.05, "all": 0.95}, {"gap": 0.0}, UNDECIDED),
    ({"retrieval": 0.5, "random_layer": 0.05, "all": 0.95}, {"seeds": (1,)}, UNDECIDED),
    ({"retrieval": 0.5, "random_layer": 0.05, "all": 0.95}, {"conditions": SYNTHETIC[:4]}, UNDECIDED),
])
def test_c5(rng, shares, settings, expected) -> None:
    assert c5(patches(rng, shares, **settings)).verdict == expected


def test_all_claims_from_tables_and_a_second_seed_of_the_resampling_leaves_the_verdicts(rng) -> None:
    names = ("real", *SYNTHETIC)
    tables = answers(rng, {name: 0.2 if name == "real" else 0.05 for name in names}, n=200)
    tables |= heads(rng, {name: (1.0 if name == "real" else 0.6, 0.0) for name in names}, n=60)
    tables["probe_loss"] = probe_losses(rng, dict.fromkeys(names, 1.0))
    tables["knockout_losses"] = knockouts(rng, {"retrieval": 0.8} | dict.fromkeys(interventions.CONTROLS, 0.02))
    tables["patching_losses"] = patches(rng, {"retrieval": 0.5, "random_layer": 0.05, "all": 0.95})
    first, second = ([(one.claim, one.task, one.verdict) for one in judge(tables, seed=seed, **FEW)[1]]
                     for seed in (0, 1))
    assert first == second
    assert [one[2] for one in first[:5]] == [SUPPORTED, SUPPORTED, UNDECIDED, SUPPORTED, SUPPORTED]
    made, verdicts = judge({}, **FEW)
    assert set(made) == set(DERIVED)
    assert verdicts == []


def test_the_first_task_decides_and_the_second_can_take_it_back() -> None:
    def one(task: str, verdict: str) -> Verdict:
        return shortfall.C1(task, verdict, None, None, None, 1, "d")

    def both(first: str, second: str) -> str:
        return over_tasks([one("mdqa", first), one("musique", second)]).verdict

    assert over_tasks([one("mdqa", NOT)]).verdict == NOT
    assert over_tasks([one("musique", SUPPORTED)]).verdict == UNDECIDED
    assert [both(SUPPORTED, other) for other in (SUPPORTED, IN_PART, NOT, UNDECIDED)] == [
        SUPPORTED, IN_PART, UNDECIDED, SUPPORTED]
    assert both(UNDECIDED, SUPPORTED) == UNDECIDED


NAMES = ("real", "high_high", "low_low", "symbolic")
LOSSES = {"conditions": ["real"], "k": [3, 7, 14], "draws": 2, "n": 4}


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRIEVAL_HEADS_HOME", str(tmp_path))
    monkeypatch.setattr(claims.pretrained, "judge", lambda tables: judge(tables, n_resamples=400))
    return load_profile("smoke", gold_loss=LOSSES, n_test=4)


def write(profile, tables) -> None:
    for name, rows in tables.items():
        path = table_path(profile.name, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = [column.name for column in get_table(name).columns]
        for column in columns:
            if column not in rows and not get_table(name).columns[columns.index(column)].absent:
                rows = rows.assign(**{column: 0.0})
        path.write_bytes(to_csv(rows[[column for column in columns if column in rows]]))
        write_manifest(path.with_suffix(".json"), Facts(), table=name, profile=profile.name, config_hash="",
                       base_digest=None, sha256=sha256(path.read_bytes()), rows=len(rows))


def test_tables_on_disk_give_the_verdicts_that_the_rules_give(profile) -> None:
    rng = np.random.default_rng(3)
    tables = answers(rng, {name: 0.2 if name == "real" else 0.05 for name in NAMES}, n=100)
    tables |= heads(rng, {name: (1.0, 0.0) for name in NAMES}, n=20)
    tables |= {"probe_loss": probe_losses(rng, dict.fromkeys(NAMES, 1.0)),
               "knockout_losses": knockouts(rng, dict.fromkeys(
                   ("retrieval", "random_layer", "random_group", "random_zero"), 0.1), n=20)}
    write(profile, tables)
    paths = claims.judge(profile)
    assert [path.stem for path in paths] == [*DERIVED, "verdicts"]
    found = read_table("verdicts", paths[-1])
    expected = {(one.claim, one.task): one.verdict for one in claims.pretrained.judge(tables)[1]}
    assert dict(zip(zip(found["claim"], found["task"], strict=True), found["verdict"], strict=True)) == expected
    assert set(found["claim"]) == {"C1", "C2", "C3", "C4", "C5"}
    assert "Not known" in found.set_index(["claim", "task"]).loc[("C5", "mdqa"), "detail"]  # nothing was patched
    rows = read_table("contrasts", paths[0])
    assert len(rows) == 4 * (len(NAMES) + 1)  # theta alone in place of `real`, and the mean of the named sets
    f1 = rows[rows["outcome"] == "f1"].set_index("condition")
    assert f1["value"]["all"] == pytest.approx(f1["value"][["high_high", "low_low", "symbolic"]].mean(), abs=1e-5)
    assert f1["low"]["all"] < f1["value"]["all"] < f1["high"]["all"]
    assert pd.isna(f1["finding"]["all"])


def test_what_follows_from_the_tables_of_the_repository_is_made_again_without_the_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RETRIEVAL_HEADS_HOME", str(tmp_path))
    profile = load_profile("pretrained")
    committed = {name: load_table(profile.name, name) for name in derived_tables(profile)}
    assert set(committed) == {*DERIVED, "verdicts"}
    for path in claims.judge(profile):
        pd.testing.assert_frame_equal(load_table(profile.name, path.stem), committed[path.stem])


def test_nothing_is_decided_before_there_are_runs_and_nothing_is_made_for_other_profiles(profile) -> None:
    assert len(read_table("verdicts", claims.judge(profile)[-1])) == 0
    assert claims.run_decide(load_profile("smoke")) == []
