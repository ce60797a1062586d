"""Claim C1 on simulated answers of which the truth is known."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

from retrieval_heads.claims.axes import CELLS, axis_effects, axis_sentence, size_effects, size_sentence, sized_names
from retrieval_heads.claims.shortfall import _counts, gains, judge_shortfall, shortfall
from retrieval_heads.claims.verdict import NOT, SUPPORTED, UNDECIDED
from retrieval_heads.data.conditions import CONDITIONS
from retrieval_heads.errors import ResultError
from retrieval_heads.stats.resample import bootstrap_crossed

SYNTHETIC = (*CELLS, "symbolic")
BASES = ("one", "two")
RESAMPLES = 300


def simulated(
    chances: dict[str, float | tuple[float, ...]], *, task: str = "mdqa", n: int = 60, seeds: int = 3,
    bases: tuple[str, ...] = BASES, seed: int = 0,
) -> pd.DataFrame:
    """Answers that are right by chance, with a probability a condition, or one for each base model."""
    rng, rows = np.random.default_rng(seed), []
    difficulty = rng.normal(scale=0.1, size=n)
    for condition, chance in chances.items():
        for index, base in enumerate(bases):
            p = chance[index] if isinstance(chance, tuple) else chance
            for one in range(1, seeds + 1):
                right = (rng.random(n) < np.clip(p + difficulty, 0, 1)).astype(float)
                rows.append(pd.DataFrame({
                    "task": task, "condition": condition, "seed": one, "base": base, "example": np.arange(n),
                    "exact_match": right if task != "summhay" else 0.0, "score": right,
                }))
    return pd.concat(rows, ignore_index=True)


def rope_answers(chance: float | tuple[float, ...] = 0.1, **settings) -> pd.DataFrame:
    return simulated({"rope": chance, "base": 0.0}, seeds=1, seed=1, **settings).drop(columns="seed")


def chances(short: int = 10, better: int = 0, real: float = 0.6, by: float = 0.3) -> dict[str, float]:
    """Ten synthetic conditions: some fall short by `by`, some are better by it, the others equal `real`."""
    values = [real - by] * short + [real + by] * better + [real] * (10 - short - better)
    return {"real": real, **dict(zip(SYNTHETIC, values, strict=True))}


def verdict_of(answers: pd.DataFrame, rope: pd.DataFrame | None = None, task: str = "mdqa"):
    if rope is None:
        rope = rope_answers(n=answers.example.nunique(), bases=tuple(answers.base.unique()))
    judged = judge_shortfall(answers, base_answers=rope, n_resamples=RESAMPLES, n_deciding=RESAMPLES)
    return next(one for one in judged.verdicts if one.task == task)


@pytest.mark.parametrize(("numbers", "expected"), [
    ({"short": 10}, SUPPORTED), ({"short": 8}, SUPPORTED), ({"short": 6}, UNDECIDED),
    ({"short": 9, "better": 1}, UNDECIDED),
    ({"short": 8, "better": 2}, UNDECIDED), ({"short": 6, "better": 4}, NOT), ({"short": 7, "better": 3}, NOT),
])
def test_the_counting_rule_of_a_task(numbers, expected) -> None:
    found = verdict_of(simulated(chances(**numbers), n=150))
    assert found.verdict == expected
    assert f"Of 10 synthetic conditions {numbers['short']} fall short" in found.detail
    assert (found.n, found.n_of, found.chapter) == (10, "conditions", "02_lora_finetuning")


def test_without_a_gain_over_the_raised_theta_nothing_is_decided() -> None:
    answers = simulated(chances())
    assert verdict_of(answers, rope_answers(0.6)).verdict == UNDECIDED
    assert "the claim is not tested" in verdict_of(answers, rope_answers(0.6)).detail
    assert judge_shortfall(answers, n_resamples=50, n_deciding=50).verdicts[0].verdict == UNDECIDED
    # a gain on the whole that one of the base models does not have
    bases = tuple("abcde")
    answers, rope = simulated(chances(), bases=bases), rope_answers((0.75, *(0.0,) * 4), bases=bases)
    assert gains(answers, rope, n_resamples=RESAMPLES).low[0] > 0
    found = verdict_of(answers, rope)
    assert found.verdict == UNDECIDED
    assert "not of one sign in all base models" in found.detail


def test_a_sign_has_to_be_that_of_each_base_model() -> None:
    # with two base models an interval that excludes 0 has hardly ever two signs; with five it may
    settings = {"n": 200, "seeds": 2, "bases": tuple("abcde")}
    clear, split = (0.9,) * 5, (0.5, *(0.9,) * 4)
    for chance, same in ((clear, True), (split, False)):
        answers = simulated({**chances(short=7), **dict.fromkeys(SYNTHETIC[7:], chance)}, **settings)
        rows = shortfall(answers, n_resamples=RESAMPLES, n_deciding=RESAMPLES).set_index(["condition", "metric"])
        assert rows.loc[(SYNTHETIC[7], "exact_match"), "high"] < 0
        assert rows.loc[(SYNTHETIC[7], "exact_match"), "same_sign"] == same
        assert verdict_of(answers).verdict == (NOT if same else UNDECIDED)
    # the same for what falls short, with the smaller of its costs on the other side
    mirrored = {name: 0.2 for name in SYNTHETIC[:7]} | dict.fromkeys(SYNTHETIC[7:], (0.7, *(0.2,) * 4))
    assert verdict_of(simulated({"real": 0.6, **mirrored}, **settings)).verdict == UNDECIDED


def test_the_rule_needs_the_ten_conditions_and_counts_no_other() -> None:
    few = {name: chance for name, chance in chances().items() if name in ("real", *SYNTHETIC[:5])}
    found = verdict_of(simulated(few))
    assert found.verdict == UNDECIDED
    assert "Not decided: 5 synthetic conditions are there, the rule needs 8." in found.detail
    others = {**chances(short=7), "real_limited": 0.1, "real_short": 0.1, "real_shuffled": 0.1, "high_high_4x": 0.1,
              "high_high-symbolic": 0.1, "real_limited-low_low": 0.1}
    found = verdict_of(simulated(others))
    assert found.verdict == UNDECIDED
    assert found.n == 10


def test_all_tasks_together_and_the_metric_of_each() -> None:
    tasks = ("mdqa", "musique", "summhay")
    answers = pd.concat([simulated(chances(), task=task, seed=index) for index, task in enumerate(tasks)])
    rope = pd.concat([rope_answers(task=task) for task in tasks])
    judged = judge_shortfall(answers, base_answers=rope, n_resamples=RESAMPLES, n_deciding=RESAMPLES)
    assert [one.verdict for one in judged.verdicts] == [SUPPORTED] * 4
    assert judged.verdicts[-1].low > 0.2
    assert judged.verdicts[-1].high < 0.4
    means = judged.tables["mean_shortfall"].set_index("task")
    assert means.loc["all", "value"] == pytest.approx(means.loc[list(tasks), "value"].mean(), abs=1e-5)
    assert means.loc["summhay", "metric"] == "citation_f1"
    assert means.loc["all", "same_sign"]
    assert set(judged.tables["shortfall"].query("task == 'mdqa'").metric) == {"exact_match", "f1"}


def test_differences_are_paired_and_runs_without_a_partner_left_out() -> None:
    answers = simulated({"real": 0.6, "symbolic": 0.4}, n=30)
    lacking = answers[~((answers.condition == "symbolic") & (answers.seed == 2) & (answers.base == "two"))]
    row = shortfall(lacking, n_resamples=RESAMPLES, n_deciding=RESAMPLES).iloc[0]
    assert (row.n, row.n_seeds, row.n_bases) == (30, 2, 2)
    kept = answers[answers.seed != 2].pivot(index=["base", "seed", "example"], columns="condition",
                                            values="exact_match")
    assert row.value == pytest.approx((kept.real - kept.symbolic).mean(), abs=1e-5)
    # a base model without any pair leaves no sign of its own
    alone = answers[(answers.condition == "real") | (answers.base == "one")]
    none = shortfall(alone, n_resamples=50, n_deciding=50).iloc[0]
    assert none.n_bases == 1
    assert not none.same_sign
    cube = np.stack([[kept.loc[(base, seed)].real - kept.loc[(base, seed)].symbolic for seed in (1, 3)]
                     for base in BASES])
    exact = shortfall(lacking, n_deciding=20_000).iloc[0]
    expected = bootstrap_crossed(cube, n_resamples=20_000, seed=1)
    assert (exact.low, exact.high) == pytest.approx(expected[1:], abs=3 * exact.low_error + 0.02)
    fixed = bootstrap_crossed(cube, fixed=(0,), n_resamples=20_000, seed=1)
    assert (exact.fixed_low, exact.fixed_high) == pytest.approx(fixed[1:], abs=3 * exact.low_error + 0.02)
    assert exact.resamples == 20_000


def test_an_end_within_its_monte_carlo_error_of_0_decides_nothing() -> None:
    columns = ("low", "high", "low_error", "high_error", "same_sign", "fixed_low", "bases_above", "n_bases")
    rows = pd.DataFrame([(0.002, 0.2, 0.001, 0.001, True, 0.1, 2, 2), (0.0009, 0.2, 0.001, 0.001, True, 0.1, 1, 2),
                         (-0.3, -0.0005, 0.001, 0.001, True, -0.2, 0, 2), (-0.3, -0.2, 0.001, 0.001, True, -0.2, 0, 2)],
                        columns=columns)
    assert _counts(rows) == {"short": 1, "better": 1, "clearly_better": 1, "in_doubt": 2, "fixed": 2, "every_base": 1}


def test_the_interval_of_a_shortfall_covers_the_truth() -> None:
    covered = []
    for seed in range(120):
        answers = simulated({"real": 0.6, "symbolic": 0.4}, n=40, seeds=4, seed=seed)
        rows = shortfall(answers, n_resamples=RESAMPLES, n_deciding=RESAMPLES)
        covered.append(rows.low[0] <= 0.2 <= rows.high[0])
    assert np.mean(covered) >= 0.9  # it counts the chance of single cells once an axis, so it is on the wide side


def test_the_gain_over_the_raised_theta_is_paired_by_example() -> None:
    answers, by_example = simulated({"real": 0.6}, n=200), rope_answers(0.3, n=200)
    paired = gains(answers, by_example).iloc[0]
    alone = by_example[by_example.condition == "rope"]
    assert paired.value == pytest.approx(answers.exact_match.mean() - alone.exact_match.mean(), abs=1e-5)
    assert paired.low < paired.value < paired.high
    assert paired.paired
    assert gains(answers).empty


def test_axes_and_their_interaction() -> None:
    cost = {"high": 0.0, "mid": 0.1, "low": 0.2}
    even = {"real": 0.8} | {name: 0.75 - cost[name.split("_")[0]] for name in CELLS}
    answers = simulated(even, n=200)
    table = axis_effects(answers, n_resamples=RESAMPLES)
    rows = table.set_index(["scale", "effect"])
    assert rows.loc[("difference", "concept"), "value"] == pytest.approx(0.2, abs=0.06)
    assert rows.loc[("difference", "context"), "value"] == pytest.approx(0.0, abs=0.06)
    assert rows.loc[("log_odds", "concept"), "same_sign"]
    assert "concept expression costs more. No interaction is shown." in axis_sentence(table, "mdqa")
    assert axis_sentence(table, "musique") == ""
    assert axis_effects(answers[answers.condition != "mid_mid"]).empty
    # the floor alone: odds multiply, so the sum of costs is not reached
    odds = {name: 0.7 / (1 - 0.7) / np.prod([{"high": 1, "mid": 4, "low": 20}[part] for part in name.split("_")])
            for name in CELLS}
    floor = {"real": 0.8} | {name: one / (1 + one) for name, one in odds.items()}
    text = axis_sentence(axis_effects(simulated(floor, n=300, seed=3), n_resamples=RESAMPLES), "mdqa")
    assert "which costs more is not decided" in text
    both = {"real": 0.8} | dict.fromkeys(CELLS, 0.75) | {"low_low": 0.15, "mid_low": 0.7}
    text = axis_sentence(axis_effects(simulated(both, n=200), n_resamples=RESAMPLES), "mdqa")
    assert "They interact: both together cost more than the sum of each alone" in text


def test_an_interaction_that_log_odds_reverse_is_not_said_to_be_one() -> None:
    both = {"real": 0.8} | dict.fromkeys(CELLS, 0.75) | {"low_low": 0.15}
    table = axis_effects(simulated(both, n=200), n_resamples=RESAMPLES)
    reversed_odds = table.assign(value=np.where((table.scale == "log_odds") & (table.effect == "interaction"), -0.5,
                                                table.value))
    assert "not with the same sign in log-odds" in axis_sentence(reversed_odds, "mdqa")


@pytest.mark.skipif("low_low_4x" not in CONDITIONS, reason="there are no sized conditions")
@pytest.mark.parametrize(("large", "said"), [
    (0.4, "still fall short"), (0.6, "not shown to fall short"), (0.8, "are better")])
def test_whether_more_examples_make_up_for_it(large, said) -> None:
    assert sized_names()["low_low"] == {0.25: "low_low_quarter", 1.0: "low_low", 4.0: "low_low_4x"}
    answers = simulated({"real": 0.6, "real_quarter": 0.3, "low_low": 0.3, "low_low_quarter": 0.1, "low_low_4x": large,
                         "high_high": 0.5}, n=200)
    table = size_effects(answers, n_resamples=RESAMPLES)
    assert set(table.condition) == {"real", "low_low"}
    row = table.set_index(["condition", "scale"]).loc[("low_low", 4.0)]
    assert row.value == pytest.approx(large, abs=0.06)
    assert row.shortfall == pytest.approx(0.6 - large, abs=0.08)
    assert np.isnan(table.set_index(["condition", "scale"]).loc[("real", 1.0), "shortfall"])
    assert said in size_sentence(table, "mdqa")
    assert size_sentence(table, "musique") == ""


def test_one_run_of_each_has_an_interval_over_examples_and_no_verdict_is_made_up() -> None:
    answers = simulated({"real": 0.6, "symbolic": 0.2}, seeds=1, bases=("one",))
    rope = rope_answers(bases=("one",))
    judged = judge_shortfall(answers, base_answers=rope, n_resamples=RESAMPLES, n_deciding=RESAMPLES)
    assert judged.tables["shortfall"].low.notna().all()
    assert judged.verdicts[-1].verdict == UNDECIDED
    assert judge_shortfall(answers[answers.condition == "symbolic"]).verdicts == ()


def test_runs_on_other_examples_are_refused() -> None:
    answers = simulated({"real": 0.6, "symbolic": 0.2}, n=5)
    with pytest.raises(ResultError, match="not tested on the same examples"):
        shortfall(answers.iloc[1:])
    with pytest.raises(ResultError, match="other examples"):
        gains(answers, rope_answers(n=4))


def test_the_whole_grid_takes_seconds() -> None:
    every = {**chances(), "real_limited": 0.5, "real_limited-high_high": 0.5, "real_limited-low_low": 0.4,
             "high_high-symbolic": 0.4, "real_short": 0.2, "real_shuffled": 0.1}
    tasks = ("mdqa", "musique", "summhay")
    answers = pd.concat([simulated(every, task=task, n=200, seeds=5) for task in tasks])
    rope = pd.concat([rope_answers(task=task, n=200) for task in tasks])
    start = time.process_time()
    assert judge_shortfall(answers, base_answers=rope, n_deciding=50_000).verdicts[-1].verdict == SUPPORTED
    assert time.process_time() - start < 20
