"""Accepted answers that nearly every text holds: which are looked for, and how."""

from __future__ import annotations

import pytest

from retrieval_heads.data.official.answers import Forbidden, find_answer, not_searched, searched
from retrieval_heads.data.written.orders import Wanted, contains, forbiddable

EVERYWHERE = ("That many units often went to battle is what it is for us all; then the phone rang. Who knew? It did, "
              "on the arbitrary part of the whole, and I am not sure. A man at the door, to be honest, said so. "
              "It's late, it's dark, It’s cold; I'm off.")


@pytest.mark.parametrize("answer", [
    "it", "It", "IT", "a", "A", "I", "the", "The Who", "who", "WHO", "us", "US", "U.S.", "u.s.", "the US", "ten", "at",
    "AT&T", "R&B", "b", "B", "C", "The Ma", "one", "Or", "OR", "Is it", "not", "II", "To Be", "no",
    "it's", "It’s", "I'm",
])
def test_an_answer_of_few_letters_does_not_forbid_every_document(answer: str):
    assert not Forbidden([answer]).held_by("A title", EVERYWHERE)


@pytest.mark.parametrize(("answer", "text"), [
    ("IT", "He works in IT, he says."), ("IT", "The I.T. of the bank"), ("US", "the U.S. and"), ("U.S.", "the US army"),
    ("The US", "The US army"), ("u.s.", "in the U.S. since"), ("WHO", "The WHO warned."), ("The Who", "by The\nWho"),
    ("ten", "It has Ten wells."), ("AT&T", "sold to AT & T then"), ("R&B", "an R&B song"), ("B", "vitamin B helps"),
    ("II", "World War II began"), ("one", "There is one."), ("NASA", "by NASA in"), ("5", "in 2015"),
    ("well-known", "a well known man"), ("Oslo", "in OSLO"), ("no", "She said no."),
])
def test_and_is_found_where_it_stands(answer: str, text: str):
    assert Forbidden(["it", answer]).held_by("", text)
    assert Forbidden([answer]).held_by(text, "")


def test_what_is_not_looked_for_is_counted():
    assert searched(["it", "IT", "Oslo", "a"]) == ("IT", "Oslo")
    assert not_searched([["it", "Oslo"], ["it", "a", "it"], ["US"]]) == {"it": 2, "a": 1}


def test_a_needle_is_no_function_word_where_another_answer_is_known():
    text = "It lies in the north. Its harbour is Oslo Harbour."
    held = find_answer({0: text}, ["It", "it", "Oslo Harbour"], "answer")
    assert (held.answer, held.needles) == ("Oslo Harbour", {0: [(37, 49)]})
    assert find_answer({0: text}, ["It", "Bergen"], "answer") is None
    assert find_answer({0: text}, ["It"], "answer").needles == {0: [(0, 2)]}  # the only one: as it is


def test_written_texts_are_not_kept_from_function_words():
    assert forbiddable(("it", "IT", "Oslo", "a"), "about Bergen") == ("IT", "Oslo")
    assert not contains("They said it is so.", "IT")
    assert contains("They work in IT.", "IT")
    assert Wanted(10, absent=forbiddable(("the",))).absent == ()
