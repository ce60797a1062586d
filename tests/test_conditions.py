"""Levels of realism are in order, mixtures take from both members, controls change only what they say; in profiles."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from retrieval_heads import paths
from retrieval_heads.config import load_profile
from retrieval_heads.data import make_examples
from retrieval_heads.data.conditions import CONDITIONS, LEVELS
from retrieval_heads.data.encode import encode_all
from retrieval_heads.data.example import TASKS, Example
from retrieval_heads.data.examples import build_scene, swap_answers, token_counter
from retrieval_heads.data.scene import CLAUSES, FORMS, NESTED, POOL, QUESTIONS
from retrieval_heads.data.statistics import describe, ngram_overlap, stated_forms, unseen_shares
from retrieval_heads.data.tokenizer import embedded_tokenizer
from retrieval_heads.errors import ConfigError, DataError
from retrieval_heads.figures.page import folded_examples
from retrieval_heads.keys import study_grid
from retrieval_heads.settings import Profile
from retrieval_heads.stages import base
from retrieval_heads.stages.common import sample_examples, training_examples, training_length
from retrieval_heads.store import load_table

MIXTURES = [name for name, one in CONDITIONS.items() if len(one.members) > 1]
SIZES = [name for name, one in CONDITIONS.items() if one.sized]


def made(task: str, condition: str, n: int = 8, length: int = 900, **changes) -> list[Example]:
    return make_examples(**{"task": task, "condition": condition, "length": length, "n": n, "seed": 0, **changes})


def test_there_are_nine_synthetic_conditions_four_mixtures_two_controls_and_six_sizes() -> None:
    assert {f"{concept}_{context}" for concept in LEVELS for context in LEVELS} <= set(CONDITIONS)
    assert MIXTURES == ["real_limited-high_high", "real_limited-low_low", "high_high-symbolic", "high_low-low_high"]
    assert [name for name, one in CONDITIONS.items() if one.control] == ["real_short", "real_shuffled"]
    assert {name: one.scale for name, one in CONDITIONS.items() if one.sized} == {
        f"{name}_{size}": scale for name in ("real", "high_high", "low_low")
        for size, scale in (("quarter", 0.25), ("4x", 4))
    }
    assert all(CONDITIONS[name].dissected for name in (*MIXTURES, "real", "real_limited", "low_mid", "symbolic"))
    assert not any(one.dissected for one in CONDITIONS.values() if one.control or one.sized)
    assert all(one.name == name for name, one in CONDITIONS.items())


def test_only_real_examples_the_controls_and_mixtures_with_them_are_not_synthetic() -> None:
    assert [name for name, one in CONDITIONS.items() if not one.synthetic] == [
        "real", "real_limited", "real_limited-high_high", "real_limited-low_low", "real_short", "real_shuffled",
        "real_quarter", "real_4x",
    ]


@pytest.mark.parametrize("task", TASKS)
def test_the_vocabulary_grows_with_the_realism_of_the_haystack(task: str) -> None:
    for concept in LEVELS:
        words = [
            describe(made(task, f"{concept}_{context}", length=2048), embedded_tokenizer())["vocabulary"]
            for context in reversed(LEVELS)
        ]
        assert 2 * words[0] < words[1] < words[2] / 2


@pytest.mark.parametrize("task", TASKS)
def test_the_middle_haystack_repeats_a_few_documents(task: str) -> None:
    for context, repeated in (("mid", POOL), ("high", 0)):
        for example in made(task, f"high_{context}", length=2048, n=3):
            blocks = example.prompt.split("\n\n")[:-1]
            texts = Counter(block.split("\n")[1] for block in blocks)
            assert sum(times > 1 for times in texts.values()) == repeated
            assert all(texts[text] == 1 for text in texts for needle in example.needle_texts() if needle in text)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("context", LEVELS)
def test_more_real_needles_leave_fewer_forms_unseen(task: str, context: str) -> None:
    wanted = stated_forms(made(task, "real", n=60, length=600, split="test"))
    shares = [
        unseen_shares(stated_forms(made(task, name, n=100, length=600)), wanted)["unseen_forms"]
        for name in (f"low_{context}", f"mid_{context}", f"high_{context}", "real")
    ]
    assert shares == sorted(set(shares), reverse=True)


def test_a_level_may_do_all_that_the_level_below_may() -> None:
    for table in (FORMS, CLAUSES, QUESTIONS, NESTED):
        assert set(table["low"]) <= set(table["mid"]) <= set(table["high"]) <= set(table["real"])
    assert len(FORMS["low"]) < len(FORMS["mid"]) < len(FORMS["high"])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("mixture", MIXTURES)
def test_a_mixture_has_its_members_examples_in_turn(task: str, mixture: str) -> None:
    first, second = (made(task, member, n=7) for member in mixture.split("-"))
    mixed = made(task, mixture, n=7)
    assert mixed[0::2] == first[0::2]
    assert mixed[1::2] == second[1::2]
    # half of the answer tokens of each, up to the odd example
    tokens = [
        sum(one.answer_length for one in encode_all(some, embedded_tokenizer())) for some in (mixed, first, second)
    ]
    assert min(tokens[1:]) * 0.7 <= tokens[0] <= max(tokens[1:]) * 1.3


def test_a_mixture_has_no_scene() -> None:
    for name in (*MIXTURES, "real_short", "real_4x"):
        first = CONDITIONS[name].members[0]
        with pytest.raises(ConfigError, match=f"Use {first}( or|[.])"):
            build_scene(random.Random(0), "mdqa", name, 400, "train", lambda texts: [len(text) for text in texts])


def test_short_real_examples_ask_for_the_same_facts() -> None:
    for task in ("mdqa", "musique"):
        short, long = made(task, "real_short", length=480), made(task, "real", length=900)
        assert [one.answer for one in short] == [one.answer for one in long]
        for one, other in zip(short, long, strict=True):  # the documents stand in another order
            assert sorted(one.meta["forms"]) == sorted(other.meta["forms"])
        assert max(len(one.prompt) for one in short) < min(len(one.prompt) for one in long)


@pytest.mark.parametrize("task", TASKS)
def test_shuffled_examples_differ_from_real_ones_in_their_answers_alone(task: str) -> None:
    real, shuffled = made(task, "real", n=40, length=600), made(task, "real_shuffled", n=40, length=600)
    for one, other in zip(real, shuffled, strict=True):
        assert (one.prompt, one.needles) == (other.prompt, other.needles)
        assert one.answer != other.answer
        assert other.answers == (other.answer,)
    by_id = {one.meta["id"]: one.answer for one in real}
    assert [by_id[one.meta["answer_of"]] for one in shuffled] == [one.answer for one in shuffled]
    assert sorted(one.answer for one in real) == sorted(one.answer for one in shuffled)
    assert shuffled[3].meta["id"] == f"{task}-real_shuffled-train-0-3"
    assert shuffled == made(task, "real_shuffled", n=40, length=600)
    assert shuffled != made(task, "real_shuffled", n=40, length=600, seed=1)
    assert max(len(one.ids) for one in encode_all(shuffled, embedded_tokenizer(), max_length=600)) <= 600
    if task != "summhay":
        assert not any(one.answer in needle for one in shuffled for needle in one.needle_texts())


def test_answers_that_are_all_equal_cannot_be_swapped() -> None:
    same = [Example("mdqa", f"{k}? Answer:", "Ann", meta={"id": f"mdqa-real-train-0-{k}"}) for k in range(3)]
    with pytest.raises(DataError, match=r"real_shuffled.*cannot be swapped.*two with different answers"):
        swap_answers(same, "real_shuffled", random.Random(0), token_counter(embedded_tokenizer()))
    with pytest.raises(DataError, match="cannot be swapped"):
        made("mdqa", "real_shuffled", n=1)


def test_swapped_answers_keep_prepared_examples_within_their_length() -> None:
    count = token_counter(embedded_tokenizer())
    answers = ["7", "9", "a much longer answer", "another answer of many words"]
    sizes = count([f" {answer}" for answer in answers])
    assert sizes[0] == sizes[1] < min(sizes[2:])
    examples = [
        Example("mdqa", f"{k}? Answer:", answer, meta={"id": f"m-real-train-0-{k}", "length": 50, "tokens": 50 - room})
        for k, (answer, room) in enumerate(zip(answers, (0, 0, 40, 40), strict=True))
    ]
    for seed in range(20):
        swapped = swap_answers(examples, "real_shuffled", random.Random(seed), count)
        assert [one.answer for one in swapped[:2]] == ["9", "7"], "these two have no room for a longer answer"
        assert sorted(one.answer for one in swapped) == sorted(answers)
        assert all(one.answer != own.answer for one, own in zip(swapped, examples, strict=True))
    with pytest.raises(DataError, match="too long"):
        swap_answers([examples[0], examples[2]], "real_shuffled", random.Random(0), count)


def written(*prompts: str) -> list[Example]:
    return [Example("mdqa", prompt, "x") for prompt in prompts]


TRAIN = written("The cat sat on the mat.", "A dog barks")
TARGET = written("the CAT sat; the dog barks, the cat sat")
"""Six different pairs: the cat, cat sat, sat the, the dog, dog barks, barks the."""


@pytest.mark.parametrize(("n", "share"), [
    (1, 5 / 5),  # the cat sat dog barks
    (2, 3 / 6),  # the cat, cat sat, dog barks
    (3, 1 / 6),  # the cat sat
    (4, 0.0),
])
def test_different_ngrams_by_hand(n: int, share: float) -> None:
    assert ngram_overlap(TRAIN, TARGET, n) == pytest.approx(share)


def test_no_ngram_reaches_into_the_next_prompt() -> None:
    assert ngram_overlap(written("mat", "a dog"), written("mat a"), 2) == 0.0
    assert ngram_overlap(written("mat a", "dog"), written("mat a"), 2) == 1.0


def test_a_set_has_all_of_itself_and_nothing_has_none() -> None:
    some = made("mdqa", "real", n=3, length=300)
    assert ngram_overlap(some, some, 8) == 1.0
    assert ngram_overlap([], some) == 0.0


def test_more_examples_never_have_less() -> None:
    test = made("mdqa", "real", n=5, length=512, split="test")
    train = made("mdqa", "real", n=40, length=512)
    shares = [ngram_overlap(train[:count], test) for count in (0, 10, 20, 40)]
    assert shares == sorted(set(shares))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("n", [2, 4])
def test_a_more_real_haystack_has_more_of_the_words_of_real_prompts(task: str, n: int) -> None:
    test = made(task, "real", n=20, length=1024, split="test")
    shares = [
        ngram_overlap(made(task, name, n=20, length=1024), test, n)
        for name in ("symbolic", "low_low", "low_mid", "low_high")
    ]
    assert shares == sorted(set(shares))


def test_what_has_no_overlap_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="at least one word"):
        ngram_overlap(TRAIN, TARGET, 0)
    with pytest.raises(DataError, match=r"no prompt has 20 words.*smaller n"):
        ngram_overlap(TRAIN, TARGET, 20)
    with pytest.raises(DataError, match="no prompt has 2 words"):
        ngram_overlap(TRAIN, [])


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
