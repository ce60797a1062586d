"""The text world: names that no two splits share, relations, the examples of every task, and what statistics count."""

from __future__ import annotations

import itertools
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_heads.data import make_examples
from retrieval_heads.data.conditions import CONDITIONS
from retrieval_heads.data.example import TASKS, Example
from retrieval_heads.data.relations import (
    CLASHES,
    CONSONANTS,
    LIMITED,
    LINKS,
    SPLITS,
    STEMS,
    TAILS,
    Names,
    by_subject,
    codes,
    draw_path,
    relations,
    word_ends,
)
from retrieval_heads.data.scene import FORMS, GRASS
from retrieval_heads.data.statistics import describe, stated_forms, unseen_shares
from retrieval_heads.data.tokenizer import embedded_tokenizer
from retrieval_heads.errors import ConfigError, DataError

TYPES = sorted({kind for one in relations().values() for kind in (one.subject, one.object)})
SEEDS = st.integers(0, 2**32 - 1)
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


@pytest.mark.parametrize("drawn", [word_ends, codes])
def test_splits_are_disjoint_and_together_all_there_is(drawn):
    for one, other in itertools.combinations(SPLITS, 2):
        assert not set(drawn(one)) & set(drawn(other)), (one, other)
    every = [item for split in SPLITS for item in drawn(split)]
    whole = {word_ends: len(set(STEMS)) * len(set(TAILS)), codes: 90 * len(CONSONANTS) ** 2}
    assert len(every) == len(set(every)) == whole[drawn]
    assert all(len(drawn(split)) > 1000 for split in SPLITS)


def test_the_shares_of_the_splits_cover_every_hash_once():
    assert sorted(place for places in SPLITS.values() for place in places) == list(range(16))


def ends_of(word: str) -> set[tuple[str, str]]:
    """Every way to read a word as first and last syllables, with or without a link between them."""
    found = set()
    for stem in STEMS:
        if word.startswith(stem):
            rest = word[len(stem) :]
            found |= {(stem, rest)} & {(stem, tail) for tail in TAILS}
            found |= {(stem, rest[len(link) :]) for link in LINKS
                      if rest.startswith(link) and rest[len(link) :] in TAILS}
    return found


@settings(deadline=None, max_examples=50)
@given(split=st.sampled_from(sorted(SPLITS)), kind=st.sampled_from(TYPES), seed=SEEDS)
def test_an_entity_is_named_by_a_word_of_its_split(split, kind, seed):
    entity = Names(random.Random(seed), split).entity(kind)
    assert entity.word in entity.name
    assert ends_of(entity.word) & set(word_ends(split))


@settings(deadline=None, max_examples=20)
@given(split=st.sampled_from(sorted(SPLITS)), seed=SEEDS)
def test_codes_come_from_their_split_and_none_twice(split, seed):
    names = Names(random.Random(seed), split)
    drawn = [names.entity("code").name for _ in range(200)]
    assert len(set(drawn)) == 200
    assert set(drawn) <= set(codes(split))


def test_an_unknown_split_names_the_choices():
    with pytest.raises(ConfigError, match=r"split: unknown split \(got 'dev'\)\. Use one of base, train, probe,"):
        Names(random.Random(0), "dev")


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


def examples(condition: str, n: int, task: str = "mdqa", split: str = "train", length: int = 256) -> list[Example]:
    return make_examples(task=task, condition=condition, length=length, n=n, seed=0, split=split)


def test_counts_of_a_set_written_by_hand() -> None:
    prompt = "Document 12: Ann\nAnn met O'Neil.\n\nDocument 15: Bo\nBo met ANN.\n\nQuestion: Who met Ann?\nAnswer:"
    one = Example("mdqa", prompt, "Bo", needles=((57, 61),), meta={"id": "by hand"})
    found = describe([one, one], embedded_tokenizer())
    assert found["documents"] == 2
    assert found["needles"] == 1
    # document 12 ann met o'neil 15 bo question who answer
    assert found["vocabulary"] == 10
    assert found["tokens"] == len(embedded_tokenizer()(one.text)["input_ids"]) + 1  # the end of the sequence


@pytest.mark.parametrize("task", ["mdqa", "musique", "summhay"])
def test_the_means_agree_with_what_the_examples_say_of_themselves(task: str) -> None:
    made = examples("real", 6, task, length=512)
    found = describe(made, embedded_tokenizer())
    assert found["documents"] == sum(one.meta["documents"] for one in made) / 6
    assert found["needles"] == sum(len(one.needles) for one in made) / 6
    assert 300 < found["tokens"] <= 512


def test_the_haystack_of_repeated_sentences_has_fewer_words() -> None:
    words = {name: describe(examples(name, 10), embedded_tokenizer())["vocabulary"] for name in ("low_high", "low_low")}
    assert words["low_low"] < 0.5 * words["low_high"]


def test_shares_by_hand_count_every_occurrence() -> None:
    seen = ["employer/noun/0", "mayor/phrase/1"]
    wanted = ["employer/noun/0", "employer/phrase/1", "rival/noun/0", "rival/joined/2"]
    assert unseen_shares(seen, wanted) == {"unseen": 0.75, "unseen_forms": 0.25, "unseen_relations": 0.5}


def test_less_real_conditions_leave_more_unseen() -> None:
    wanted = stated_forms(examples("real", 60, split="test"))
    shares = {
        name: unseen_shares(stated_forms(examples(name, 200)), wanted)
        for name in ("real", "real_limited", "high_high", "low_high", "symbolic")
    }
    assert shares["real"]["unseen_forms"] == 0
    assert shares["real"]["unseen_relations"] < 0.1 < shares["real_limited"]["unseen_relations"]
    order = [shares[name]["unseen_forms"] for name in ("real", "high_high", "low_high", "symbolic")]
    assert order == sorted(order)
    assert len(set(order)) == 4
    assert set(shares["symbolic"].values()) == {1.0}
    # single pairs of relation and form are rare in 200 examples, whatever their condition
    assert 0 < shares["real"]["unseen"] <= shares["low_high"]["unseen"] < 1


def test_errors_name_the_example_and_the_remedy() -> None:
    foreign = Example("mdqa", "Who? Answer:", "Ann", meta={"id": "file 3"})
    with pytest.raises(DataError, match=r"example file 3.*not known how the needles are worded.*make_examples"):
        stated_forms([foreign])
    with pytest.raises(DataError, match=r"no examples"):
        describe([], embedded_tokenizer())
    with pytest.raises(DataError, match=r"no statement"):
        unseen_shares(["employer/noun/0"], [])
