"""How verdicts of tasks make one of the claim, and the means over runs that the claims rest on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from retrieval_heads.claims.runs import cells, frame, one_sign, ratio, sums
from retrieval_heads.claims.verdict import (
    ALL,
    IN_PART,
    NOT,
    SUPPORTED,
    UNDECIDED,
    Verdict,
    as_rows,
    decide,
    over_tasks,
    plain,
)
from retrieval_heads.errors import ConfigError
from retrieval_heads.stats.resample import Interval

ONE = Verdict("mdqa", SUPPORTED, 0.2, 0.1, 0.3, 10, "Counts.", claim="C1", quantity="shortfall", unit="fraction",
              n_of="conditions", rule="A rule.", chapter="02_lora_finetuning", table="shortfall")


def test_the_first_rule_that_holds_decides_unless_one_before_it_is_not_known() -> None:
    assert decide(undecided="", supported=False, in_part=True) == IN_PART
    assert decide(not_supported=True, supported=True) == NOT
    assert decide(supported=None, in_part=True) == UNDECIDED
    assert decide(undecided="Too few.", supported=True) == decide(supported=False) == UNDECIDED


def of_tasks(*verdicts: str) -> list[Verdict]:
    return [replace(ONE, task=task, verdict=verdict, effect=0.1 * (index + 1))
            for index, (task, verdict) in enumerate(zip(("mdqa", "musique", "summhay"), verdicts, strict=False))]


@pytest.mark.parametrize(("verdicts", "expected"), [
    ((SUPPORTED, SUPPORTED, SUPPORTED), SUPPORTED),
    ((SUPPORTED, SUPPORTED, UNDECIDED), SUPPORTED),
    ((SUPPORTED, SUPPORTED, IN_PART), SUPPORTED),
    ((SUPPORTED, SUPPORTED, NOT), IN_PART),
    ((SUPPORTED, IN_PART, UNDECIDED), IN_PART),
    ((IN_PART, IN_PART, IN_PART), IN_PART),
    ((SUPPORTED, NOT, UNDECIDED), UNDECIDED),
    ((SUPPORTED, NOT, NOT), NOT),
    ((NOT, NOT, UNDECIDED), NOT),
    ((SUPPORTED, UNDECIDED, UNDECIDED), UNDECIDED),
    ((NOT, UNDECIDED, UNDECIDED), UNDECIDED),
    ((SUPPORTED, SUPPORTED), SUPPORTED),
    ((SUPPORTED,), UNDECIDED),
])
def test_the_verdict_of_a_claim_follows_from_those_of_its_tasks(verdicts, expected) -> None:
    found = over_tasks(of_tasks(*verdicts))
    assert (found.task, found.verdict) == (ALL, expected)
    assert (found.n, found.n_of) == (sum(one != UNDECIDED for one in verdicts), "tasks")
    assert found.detail.startswith(f"mdqa: {verdicts[0]}")


def test_the_effect_over_tasks_is_the_pooled_one_or_a_mean_without_interval() -> None:
    tasks = of_tasks(SUPPORTED, UNDECIDED, SUPPORTED)
    mean = over_tasks(tasks)
    assert mean.effect == pytest.approx(0.2)
    assert (mean.low, mean.high) == (None, None)
    pooled = over_tasks(tasks, Interval(0.25, 0.125, float("nan")))
    assert (pooled.effect, pooled.low, pooled.high) == (0.25, 0.125, None)
    assert over_tasks(of_tasks(UNDECIDED)).effect is None


def test_an_unknown_verdict_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown verdict"):
        replace(ONE, verdict="proven")


def test_verdicts_become_rows_with_gaps_where_no_number_is_known() -> None:
    rows = as_rows([ONE, replace(ONE, task="musique", effect=None, low=None, high=None)])
    assert rows["claim"].tolist() == ["C1", "C1"]
    assert rows["effect"].tolist()[0] == 0.2
    assert rows[["effect", "low", "high"]].iloc[1].isna().all()
    assert as_rows([]).columns.tolist() == rows.columns.tolist()
    assert ONE.decided


def test_plain_numbers_have_six_digits_and_no_nan() -> None:
    assert plain(Interval(1 / 3, float("nan"), 2e-9)) == (0.333333, None, 2e-9)
    assert cells(Interval(1.0, 0.5, 2.0)) == {"value": 1.0, "low": 0.5, "high": 2.0}
    assert cells(Interval(1.0, 0.5, 2.0), "area") == {"area": 1.0, "area_low": 0.5, "area_high": 2.0}


def repeated(values: np.ndarray) -> pd.DataFrame:
    """Values `[bases, seeds]` as runs."""
    return pd.DataFrame([{"base": f"b{base}", "seed": seed, "value": value}
                         for base, row in enumerate(values) for seed, value in enumerate(row)])


def test_a_mean_over_runs_equals_that_of_the_crossed_bootstrap_in_width() -> None:
    values = np.random.default_rng(0).normal(size=(2, 5))
    found = ratio(repeated(values), "value", n_resamples=20000)
    assert found.estimate == pytest.approx(values.mean())
    # variance of a crossed bootstrap mean: that of the seed means and of the base means, and of the rest once an axis
    rng = np.random.default_rng(1)
    means = [values[rng.integers(2, size=2)][:, rng.integers(5, size=5)].mean() for _ in range(20000)]
    assert np.allclose(found[1:], np.quantile(means, [0.025, 0.975]), atol=0.03)


def test_missing_runs_are_no_zeros_and_runs_without_a_value_are_left_out() -> None:
    runs = repeated(np.array([[1.0, 1.0, 1.0], [1.0, 1.0, np.nan]]))
    assert ratio(runs, "value") == Interval(1.0, 1.0, 1.0)
    assert ratio(runs.iloc[:4], "value") == Interval(1.0, 1.0, 1.0)
    assert np.isnan(ratio(runs.iloc[:0], "value")).all()
    one = ratio(runs.iloc[:1], "value")
    assert one.estimate == 1
    assert np.isnan(one.low)


def test_a_ratio_is_one_of_sums_and_has_no_interval_where_its_unit_may_vanish() -> None:
    runs = repeated(np.array([[1.0, 2.0, 3.0]])).assign(unit=[2.0, 2.0, 2.0])
    assert ratio(runs, "value", "unit").estimate == 1
    vanishing = runs.assign(unit=[0.0, 0.0, 6.0])
    assert ratio(vanishing, "value", "unit").estimate == 1
    assert np.isnan(ratio(vanishing, "value", "unit").low)
    assert np.isnan(ratio(runs.assign(unit=0.0), "value", "unit").estimate)
    total, samples = sums(runs, ["value", "unit"])
    assert total.tolist() == [6, 6]
    assert (samples[:, 1] == 6).all()


def test_a_sign_is_that_of_every_base_model_that_was_studied() -> None:
    means = pd.Series({"a": 0.1, "b": 0.2})
    assert one_sign(means, ["a", "b"])
    assert one_sign(-means, ["a", "b", "b"])
    assert not one_sign(means - 0.15, ["a", "b"])
    assert not one_sign(means, ["a", "b", "c"])
    assert not one_sign(means, [])


def test_rows_keep_numbers_where_all_are_gaps() -> None:
    table = frame([{"task": "mdqa", "value": None, "n": 1, "reason": ""}], "specificity")
    assert table["value"].dtype == "float64"
    assert table["reason"].isna().all()
