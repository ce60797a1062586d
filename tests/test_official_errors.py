"""Records that are no official ones, records that make no example, and arguments out of range."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from official_samples import mdqa, musique, save, topic

from retrieval_heads.data.official import load_mdqa, load_musique, load_summhay
from retrieval_heads.errors import ConfigError, DataError


def without(record: dict, key: str) -> dict:
    return {name: value for name, value in record.items() if name != key}


GOOD_PASSAGE = mdqa()["ctxs"][1]
BAD = [
    (load_mdqa, without(mdqa(), "answers"), "field answers: the key is missing; there are others (got ['ctxs',"),
    (load_mdqa, mdqa(answers=[]), "field answers: List should have at least 1 item"),
    (load_mdqa, mdqa(answers=["a", "  "]), "field answers[1]: the text is empty (got '  ')"),
    (load_mdqa, mdqa(answers="Marie Curie"), "field answers: Input should be a valid list (got 'Marie Curie')"),
    (load_mdqa, mdqa(question=None), "field question: Input should be a valid string (got None)"),
    (load_mdqa, mdqa(question="?\ud83d"), "field question: half of a surrogate pair"),
    (load_mdqa, mdqa(ctxs=[]), "field ctxs: List should have at least 1 item"),
    (load_mdqa, mdqa(ctxs=[GOOD_PASSAGE, "text"]), "field ctxs[1]: Input should be"),
    (load_mdqa, mdqa(ctxs=[GOOD_PASSAGE, without(GOOD_PASSAGE, "text")]), "field ctxs[1].text: the key is missing"),
    (load_mdqa, mdqa(ctxs=[GOOD_PASSAGE | {"isgold": "true"}]),
     "field ctxs[0].isgold: Input should be a valid boolean (got 'true')"),
    (load_mdqa, mdqa(ctxs=[GOOD_PASSAGE | {"title": [1] * 9}]),
     "field ctxs[0].title: Input should be a valid string (got 'a list of 9')"),
    (load_mdqa, musique(), "field answers: the key is missing"),
    (load_musique, without(musique(), "question_decomposition"), "field question_decomposition: the key is missing"),
    (load_musique, musique(answer=""), "field answer: the text is empty"),
    (load_musique, musique(question_decomposition=[{"answer": "x", "paragraph_support_idx": 9}]),
     "field question_decomposition[0].paragraph_support_idx: no paragraph has that idx (got 9)"),
    (load_musique, musique(question_decomposition=[{"answer": "x", "paragraph_support_idx": True}]),
     "field question_decomposition[0].paragraph_support_idx: Input should be a valid integer"),
    (load_summhay, topic(documents=[{"document_text": "T", "insights_included": "a"}]),
     "field documents[0].insights_included: Input should be a valid list"),
    (load_summhay, topic(subtopics=[]), "field subtopics: List should have at least 1 item"),
    (load_summhay, topic(subtopics=[{"insights": []}]), "field subtopics: the topic has no insight (got 't')"),
    (load_summhay, topic(documents=[{"document_text": " ", "insights_included": ["a"]}]),
     "field documents[0].document_text: the text is empty"),
]


@pytest.mark.parametrize(("load", "record", "expected"), BAD)
def test_record_in_another_format_names_file_line_and_field(tmp_path: Path, load, record: dict, expected: str):
    path = save(tmp_path, record)
    for choice in ("raise", "drop"):  # a fault of the format is never dropped
        with pytest.raises(DataError) as caught:
            load(path, on_unusable=choice)
        assert str(caught.value).startswith(f"{path}, line 1, {expected}")
        assert caught.value.remedy


UNUSABLE = [
    (load_mdqa, mdqa(), mdqa(answers=["Nobody"]), "no answer stands in the gold passage", "field answers"),
    (load_mdqa, mdqa(), mdqa(ctxs=mdqa()["ctxs"][::2]), "no passage is gold", "field ctxs"),
    (load_musique, musique(), musique(answer_aliases=[]), "a step's answer is not in its paragraph",
     "field question_decomposition[1].answer"),
    (load_musique, musique(), musique(question_decomposition=[{"answer": "x", "paragraph_support_idx": None}]),
     "a step has no supporting paragraph", "field question_decomposition[0]"),
]


@pytest.mark.parametrize(("load", "good", "bad", "reason", "field"), UNUSABLE)
def test_unusable_record_is_raised_or_counted_never_silent(tmp_path: Path, load, good, bad, reason: str, field: str):
    path = save(tmp_path, good, bad, bad)
    with pytest.raises(DataError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}, line 2, {field}: {reason}")
    assert "on_unusable='drop'" in str(caught.value)
    dropped: Counter[str] = Counter()
    assert len(load(path, on_unusable="drop", dropped=dropped)) == 1
    assert dropped == {reason: 2}
    with pytest.warns(UserWarning, match=f"left out 2 of 3 records: 2 because {reason}"):
        load(path, on_unusable="drop")
    with pytest.raises(DataError, match=f"no record is usable: 2 because {reason}"):
        load(save(tmp_path, bad, bad), on_unusable="drop")


def test_more_gold_documents_than_wanted(tmp_path: Path):
    with pytest.raises(DataError, match=r"there are more gold documents than n_documents \(got '2 > 1'\)"):
        load_musique(save(tmp_path, musique()), n_documents=1)
    with pytest.raises(DataError, match=r"subtopics\[0\].insights\[0\]: there are more gold documents"):
        load_summhay(save(tmp_path, topic()), n_documents=1)


@pytest.mark.parametrize("load", [load_mdqa, load_musique, load_summhay])
@pytest.mark.parametrize(
    "settings", [{"needle": "word"}, {"on_unusable": "ignore"}, {"n_documents": 0}, {"limit": 0}, {"limit": "all"}]
)
def test_argument_out_of_range(tmp_path: Path, load, settings: dict):
    with pytest.raises(ConfigError, match=f"{next(iter(settings))}: "):
        load(tmp_path / "any", **settings)
