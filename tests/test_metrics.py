"""The scores of one prediction against cases worked out by hand from the official scripts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_heads.data.example import task_of
from retrieval_heads.data.task import (
    best_subspan_em,
    citation_scores,
    citations,
    exact_match,
    normalize_answer,
    token_f1,
)
from retrieval_heads.errors import DataError
from retrieval_heads.evaluation import main_metric, metric_names

TEXT = st.text(alphabet="aA tThHeE.,-n1\n", max_size=20)


@pytest.mark.parametrize(("text", "normal"), [
    ("The  Copper\tBridge!", "copper bridge"),
    ("a an the", ""),
    ("theatre another ant", "theatre another ant"),
    ("U.S.", "us"),
    ("the-end", "theend"),
    ("it's 3,000 km", "its 3000 km"),
    ("“The” Café", "“ ” café"),  # typographic quotes are no ASCII punctuation, and the article inside them goes
    ("", ""),
])
def test_normal_form(text, normal):
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(("prediction", "answers", "expected"), [
    ("the Oslo Harbour.", ["Oslo Harbour"], 1.0),
    ("Oslo", ["Oslo Harbour"], 0.0),
    ("oslo", ["Bergen", "Oslo"], 1.0),
    ("", ["Oslo"], 0.0),
    ("", ["the"], 1.0),
])
def test_exact_match(prediction, answers, expected):
    assert exact_match(prediction, answers) == expected


@pytest.mark.parametrize(("prediction", "answers", "expected"), [
    ("Oslo Harbour", ["Oslo Harbour"], 1.0),
    ("in Oslo", ["Oslo Harbour"], 0.5),
    ("red red blue", ["red blue blue"], 2 / 3),  # multiplicity: one red and one blue are common
    ("the Oslo", ["Oslo Harbour North"], 0.5),  # precision 1/1, recall 1/3
    ("Bergen", ["Oslo"], 0.0),
    ("Oslo", ["Bergen", "Oslo Harbour", "Oslo Fjord Line"], 2 / 3),
    ("", ["Oslo"], 0.0),
    ("Oslo", ["the"], 0.0),
    ("a", ["the"], 1.0),  # both empty after normalising: they agree
])
def test_token_f1(prediction, answers, expected):
    assert token_f1(prediction, answers) == pytest.approx(expected)


@pytest.mark.parametrize(("prediction", "answers", "expected"), [
    ("It was the Oslo Harbour, I think", ["oslo harbour"], 1.0),
    ("I think\nOslo", ["Oslo"], 0.0),  # only the first line
    ("France", ["ran"], 1.0),  # characters, not words
    ("Oslo", ["Oslo Harbour"], 0.0),
    ("anything", ["the"], 1.0),  # an answer that normalises to nothing is in everything
    ("", ["Oslo"], 0.0),
])
def test_best_subspan(prediction, answers, expected):
    assert best_subspan_em(prediction, answers) == expected


@pytest.mark.parametrize(("text", "numbers"), [
    ("2, 5, 11", {2, 5, 11}),
    ("[3][7, 3]", {3, 7}),
    ("The 2 storms of 1999 [3, 7]", {3, 7}),
    ("Documents 12 and 12", {12}),
    ("[a] 4", {4}),
    ("[, ] 4", {4}),
    ("none", set()),
    ("", set()),
    ("007", {7}),
])
def test_citations(text, numbers):
    assert citations(text) == numbers


def test_citations_survive_endless_digits():
    assert len(citations("1" * 10_000)) == 1


@pytest.mark.parametrize(("prediction", "expected"), [
    ("2, 5, 11", (1.0, 1.0, 1.0)),
    ("11, 2, 5, 2", (1.0, 1.0, 1.0)),
    ("2, 7", (1 / 2, 1 / 3, 2 / 5)),
    ("1, 3", (0.0, 0.0, 0.0)),
    ("", (0.0, 0.0, 0.0)),
    ("no number", (0.0, 0.0, 0.0)),
])
def test_citation_scores(prediction, expected):
    assert citation_scores(prediction, ["2, 5, 11"]) == pytest.approx(expected)


def test_citation_scores_take_the_best_accepted_answer_as_a_whole():
    # the first answer has the better precision, the second the better F1: no mixture of the two
    assert citation_scores("1, 2", ["1, 2, 3, 4, 5, 6, 7", "2, 9"]) == pytest.approx((1 / 2, 1 / 2, 1 / 2))
    assert citation_scores("1, 2", ["9", "1, 2, 3, 4, 5, 6"]) == pytest.approx((1.0, 1 / 3, 1 / 2))


def test_an_answer_without_numbers_is_an_error_for_citations():
    with pytest.raises(DataError, match=r"no document number.*'Oslo'"):
        citation_scores("1", ["Oslo"])


def test_no_accepted_answer_is_an_error():
    with pytest.raises(DataError, match="no accepted answer"):
        exact_match("Oslo", [])


@pytest.mark.parametrize("task", ["mdqa", "musique", "summhay", "my_task"])
def test_scores_have_the_names_of_the_task(task):
    scores = task_of(task).score("5, 2", ["2, 5"])
    assert tuple(scores) == metric_names(task)
    assert main_metric(task) in scores
    assert scores["exact_match"] == 0.0
    assert scores[main_metric(task)] == 1.0


def test_every_accepted_answer_counts():
    assert task_of("mdqa").score("Oslo", ("Bergen", "Oslo")) == {"exact_match": 1.0, "f1": 1.0, "best_subspan_em": 1.0}


@settings(deadline=None)
@given(TEXT, TEXT)
def test_bounds_and_symmetry(first, second):
    f1 = token_f1(first, [second])
    assert 0.0 <= f1 <= 1.0
    assert f1 == token_f1(second, [first])
    assert exact_match(first, [second]) <= f1
    assert normalize_answer(first).lower() == normalize_answer(first)


@settings(deadline=None)
@given(TEXT)
def test_an_answer_scores_one_against_itself(text):
    assert exact_match(text, [text]) == token_f1(text, [text]) == 1.0
    line = text.split("\n")[0]
    assert best_subspan_em(line, [line]) == 1.0


@settings(deadline=None)
@given(st.sets(st.integers(0, 50)), st.sets(st.integers(0, 50), min_size=1), st.randoms())
def test_citation_scores_are_those_of_sets_in_any_order(cited, wanted, random):
    order = list(cited) * 2
    random.shuffle(order)
    precision, recall, f1 = citation_scores(", ".join(map(str, order)), [", ".join(map(str, wanted))])
    assert precision == (len(cited & wanted) / len(cited) if cited else 0.0)
    assert recall == len(cited & wanted) / len(wanted)
    assert f1 == pytest.approx(2 * len(cited & wanted) / (len(cited) + len(wanted)))
