"""Statistics of examples: what is counted, and what of a test set a training set never states."""

from __future__ import annotations

import pytest

from retrieval_heads.data import make_examples
from retrieval_heads.data.example import Example
from retrieval_heads.data.statistics import describe, stated_forms, unseen_shares
from retrieval_heads.data.tokenizer import embedded_tokenizer
from retrieval_heads.errors import DataError


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
