"""A profile may name every condition, and the examples of a run have the length that its condition is trained at."""

from __future__ import annotations

import pytest

from retrieval_heads import paths
from retrieval_heads.config import load_profile
from retrieval_heads.data.conditions import CONDITIONS
from retrieval_heads.data.example import TASKS
from retrieval_heads.figures.page import folded_examples
from retrieval_heads.keys import study_grid
from retrieval_heads.settings import Profile
from retrieval_heads.stages import base
from retrieval_heads.stages.common import sample_examples, training_examples, training_length
from retrieval_heads.store import load_table


@pytest.fixture
def profile(tmp_path, monkeypatch) -> Profile:
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path))
    return load_profile("smoke", conditions=list(CONDITIONS), base_length=450, train_length=700, n_train=4)


def test_every_condition_has_a_run_whose_name_says_which(profile: Profile) -> None:
    keys = study_grid(profile)
    assert [key.condition for key in keys] == list(CONDITIONS)
    assert len({key.adapter for key in keys}) == len(CONDITIONS)


def test_all_but_the_short_control_are_trained_at_the_long_length(profile: Profile) -> None:
    lengths = {name: training_length(profile, name) for name in CONDITIONS}
    assert lengths.pop("real_short") == 450
    assert set(lengths.values()) == {700}
    # never longer than what training allows
    assert training_length(load_profile("smoke", base_length=512, train_length=256), "real_short") == 256
    key = study_grid(profile)[0]
    short, long = (training_examples(profile, key.to(name)) for name in ("real_short", "real"))
    assert [one.answer for one in short] == [one.answer for one in long]
    assert max(len(one.prompt) for one in short) < min(len(one.prompt) for one in long)


@pytest.mark.parametrize("name", ["real", "high_high", "low_low"])
def test_sizes_train_on_the_first_quarter_and_on_four_times_as_many(profile: Profile, name: str) -> None:
    key = study_grid(profile)[0]
    quarter, plain, four = (training_examples(profile, key.to(f"{name}{size}")) for size in ("_quarter", "", "_4x"))
    assert [len(some) for some in (quarter, plain, four)] == [1, 4, 16]
    assert quarter == plain[:1]
    assert four[:4] == plain
    assert len({one.prompt for one in four}) == 16


def test_the_stage_describes_the_training_examples_of_every_condition(profile: Profile) -> None:
    base.run_data(profile)
    table = load_table("smoke", "examples")
    train = table[table.split == "train"].set_index("condition")
    assert set(train.index) == set(CONDITIONS)
    assert (train.n == [round(4 * CONDITIONS[name].scale) for name in train.index]).all()
    assert (train.tokens <= train.length).all()
    assert train.length["real_short"] == 450 < train.length["real_shuffled"] == 700
    same = ["documents", "needles", "unseen", "unseen_forms", "unseen_relations"]
    assert train.loc["real_shuffled", same].equals(train.loc["real", same].rename("real_shuffled"))


@pytest.mark.parametrize("task", TASKS)
def test_one_example_of_every_condition_with_its_own_is_shown(profile: Profile, task: str) -> None:
    shown = sample_examples(profile, task)
    assert list(shown) == [name for name, condition in CONDITIONS.items() if not condition.members]
    assert all(example.task == task for example in shown.values())
    page = folded_examples(shown)
    assert page.count("<details") == len(shown)
    assert page.count("<mark>") >= len(shown)
