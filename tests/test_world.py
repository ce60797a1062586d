"""The text world: names, relations, and the examples of every task and condition."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from retrieval_heads.data import make_examples
from retrieval_heads.data.conditions import CONDITIONS
from retrieval_heads.data.example import TASKS
from retrieval_heads.data.relations import CLASHES, LIMITED, SPLITS, Names, by_subject, draw_path, relations
from retrieval_heads.data.scene import GRASS
from retrieval_heads.data.statements import FORMS
from retrieval_heads.errors import ConfigError, DataError

# shuffled answers are dealt among the whole set and stand in no needle: test_conditions.py
EACH = [(task, name) for task in TASKS for name, condition in CONDITIONS.items() if not condition.shuffled]


def made(task: str, condition: str, n: int = 4, **changes):
    return make_examples(**{"task": task, "condition": condition, "length": 480, "n": n, "seed": 3, **changes})


def test_enough_relations_statements_and_questions():
    assert len(relations()) >= 40
    assert len(FORMS["real"]) >= 8
    assert all(len(set(relation.questions)) >= 4 for relation in relations().values())
    assert len(LIMITED) == len(relations()) // 4
    assert set(LIMITED) <= set(relations())


def test_splits_share_no_name():
    drawn = {split: {Names(random.Random(i), split).entity("person").name for i in range(300)} for split in SPLITS}
    assert all(not drawn[a] & drawn[b] for a in SPLITS for b in SPLITS if a != b)


def test_a_shared_word_and_no_name_twice():
    names = Names(random.Random(0), "test")
    first = names.entity("person")
    others = [names.entity("person", first.word) for _ in range(3)]
    assert all(other.name.endswith(first.word) for other in others)
    assert len({first.name, *(other.name for other in others)}) == 4


def test_paths_join_types_and_avoid_clashes():
    rng = random.Random(1)
    for hops in (1, 2, 3, 4):
        for limited in (False, True):
            path = draw_path(rng, hops, limited)
            assert len(path) == hops
            for before, after in itertools.pairwise(path):
                assert before.object == after.subject
                assert (before.name, after.name) not in CLASHES
            assert not limited or all(relation.name in LIMITED for relation in path)
    assert set(by_subject(limited=True)) <= set(by_subject())


@pytest.mark.parametrize(("task", "condition"), EACH)
def test_needles_hold_the_answer_and_the_prompt_ends_as_promised(task, condition):
    for example in made(task, condition):
        assert example.prompt.endswith("\nAnswer:")
        if task == "summhay":
            blocks = dict(re.findall(r"Document (\d+): [^\n]*\n([^\n]*)\n", example.prompt))
            holding = [number for number, text in blocks.items() if any(n in text for n in example.needle_texts())]
            assert example.answer == ", ".join(holding)
            assert 2 <= len(holding) <= 5
        else:
            assert any(example.answer in needle for needle in example.needle_texts())
            assert len(example.needles) == example.meta["hops"]


@pytest.mark.parametrize(("task", "condition"), EACH)
def test_the_same_seed_gives_the_same_examples_one_by_one(task, condition):
    assert made(task, condition, n=3) == made(task, condition, n=5)[:3]
    assert made(task, condition, n=1) != made(task, condition, n=1, seed=4)


@pytest.mark.parametrize("task", TASKS)
def test_examples_fit_their_length_and_use_it(task):
    from retrieval_heads.data.encode import encode_all
    from retrieval_heads.data.tokenizer import embedded_tokenizer

    for length in (480, 900):
        tokens = [len(e.ids) for e in encode_all(made(task, "real", length=length), embedded_tokenizer())]
        assert max(tokens) <= length
        assert min(tokens) > 0.75 * length


def test_low_context_repeats_the_grass_and_high_context_does_not():
    assert all(GRASS[0] in example.prompt for example in made("mdqa", "high_low"))
    assert all(GRASS[0] not in example.prompt for example in made("mdqa", "high_high"))


def test_low_concept_has_one_template_a_relation():
    forms = {form.split("/", 1)[1] for example in made("mdqa", "low_high", n=20) for form in example.meta["forms"]}
    assert forms == {"noun/0"}


def test_limited_asks_for_a_quarter_of_the_relations():
    asked = {form.split("/")[0] for e in made("mdqa", "real_limited", n=30) for form in e.meta["forms"]}
    assert asked <= set(LIMITED)


def test_musique_chains_run_through_different_documents():
    for example in made("musique", "real", n=12):
        assert 2 <= example.meta["hops"] <= 4
        assert len(example.meta["gold"]) == example.meta["hops"]


def test_bad_requests_name_the_choices():
    with pytest.raises(ConfigError, match="mdqa, musique, summhay"):
        made("nope", "real")
    with pytest.raises(ConfigError, match="real_limited"):
        made("mdqa", "nope")
    with pytest.raises(ConfigError, match="probe"):
        made("mdqa", "real", split="nope")
    with pytest.raises(DataError, match="length"):
        made("summhay", "real", length=100)
