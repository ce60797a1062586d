"""The official formats as examples: layout, needles, document numbers; and answers that nearly every text holds."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from official_samples import GOLD, mdqa, musique, save, topic

from retrieval_heads.data.official import load_mdqa, load_musique, load_summhay
from retrieval_heads.data.official.answers import Forbidden, find_answer, not_searched, searched, sentences
from retrieval_heads.data.prompt_format import place, write_citation, write_prompt
from retrieval_heads.data.written.orders import Wanted, contains, forbiddable
from retrieval_heads.errors import ConfigError, DataError


def test_layout_and_document_spans():
    prompt, spans = write_prompt([(1, "T", "one"), (7, "", "two\nlines")], "why?", instruction="Read.")
    assert prompt == "Read.\n\nDocument 1: T\none\n\nDocument 7:\ntwo\nlines\n\nQuestion: why?\nAnswer:"
    assert [prompt[start:end] for start, end in spans] == ["one", "two\nlines"]
    assert prompt[slice(*place((4, 9), spans[1]))] == "lines"
    assert write_prompt([], "why?")[0] == "Question: why?\nAnswer:"
    assert write_citation([11, 2, 5]) == "2, 5, 11"


def test_sentences():
    text = " Dr. A. Bee of the U.S. Army (c. 1900) left.  Was it 3.5 km? “Yes.” He\nran\n\nA heading\n\nEnd"
    assert [text[start:end] for start, end in sentences(text)] == [
        "Dr. A. Bee of the U.S. Army (c. 1900) left.", "Was it 3.5 km?", "“Yes.”", "He\nran", "A heading", "End",
    ]


def test_mdqa_takes_the_answer_that_the_gold_passage_holds(tmp_path: Path):
    [example] = load_mdqa(save(tmp_path, mdqa()))
    assert example.prompt == (
        "Document 1: Radium\nMarie Curie is named here too.\n\n"
        f"Document 2: Prizes\n{GOLD}\n\nDocument 3: Warsaw\nA city.\n\nQuestion: who got the prize\nAnswer:"
    )
    assert example.answer == "Marie Curie"
    assert set(example.answers) == {"M. Curie", "Marie Curie"}
    assert example.needle_texts() == ("The prize went to Marie Curie!", "Marie Curie stayed.")
    assert example.meta == {
        "id": "data.jsonl:1", "needle": "sentence", "whole_words": True, "file": "data.jsonl", "line": 1,
        "documents": 3, "gold": [2],
    }


@pytest.mark.parametrize(
    ("needle", "texts"), [("passage", (GOLD,)), ("answer", ("Marie Curie", "Marie Curie"))]
)
def test_mdqa_needle_kinds(tmp_path: Path, needle: str, texts: tuple[str, ...]):
    [example] = load_mdqa(save(tmp_path, mdqa()), needle=needle)
    assert example.needle_texts() == texts


def test_answer_inside_longer_words_comes_last_and_is_marked(tmp_path: Path):
    path = save(tmp_path, mdqa(answers=["urie", "Warsaw"]), mdqa(answers=["urie"]))
    first, second = load_mdqa(path)
    assert (first.answer, first.meta["whole_words"]) == ("Warsaw", True)
    assert (second.answer, second.meta["whole_words"]) == ("urie", False)


@pytest.mark.parametrize(
    ("n", "titles"), [(1, ["Prizes"]), (2, ["Radium", "Prizes"]), (9, ["Radium", "Prizes", "Warsaw"])]
)
def test_fewer_documents_keep_the_gold_one_and_their_order(tmp_path: Path, n: int, titles: list[str]):
    [example] = load_mdqa(save(tmp_path, mdqa()), n_documents=n, instruction="Answer from the documents.")
    assert example.prompt.startswith(f"Answer from the documents.\n\nDocument 1: {titles[0]}\n")
    assert [line.split(": ")[1] for line in example.prompt.splitlines() if line.startswith("Document")] == titles
    assert example.meta["gold"] == [titles.index("Prizes") + 1]
    assert example.needle_texts()[0] == "The prize went to Marie Curie!"


def test_musique_marks_every_step(tmp_path: Path):
    [example] = load_musique(save(tmp_path, musique()))
    assert example.answer == "Warsaw"
    assert example.answers == ("Warsaw", "Warszawa")
    assert example.needle_texts() == (
        "Marie Curie was born in Warsaw.", "The prize went to Marie Curie!", "Marie Curie stayed.",
    )
    assert example.meta["hops"] == 2
    assert example.meta["gold"] == [1, 3]
    assert example.meta["id"] == "2hop__1_2"
    [short] = load_musique(save(tmp_path, musique()), n_documents=2)
    assert short.meta["gold"] == [1, 2]
    assert short.needle_texts() == example.needle_texts()


def test_musique_steps_may_share_a_paragraph_and_idx_need_not_be_the_position(tmp_path: Path):
    record = musique(paragraphs=[{"idx": 5, "title": "T", "paragraph_text": "Marie Curie was born in Warsaw."}])
    for step in record["question_decomposition"]:
        step["paragraph_support_idx"] = 5
    [example] = load_musique(save(tmp_path, record))
    assert example.needle_texts() == ("Marie Curie was born in Warsaw.",)


def test_summhay_cites_all_documents_of_an_insight(tmp_path: Path):
    dropped: Counter[str] = Counter()
    path = save(tmp_path, topic())
    first, second = load_summhay(path, on_unusable="drop", dropped=dropped)
    assert dropped == {"no document contains the insight": 1}
    assert first.answer == "1, 3"
    assert first.prompt.endswith("\n\nQuestion: Which documents say that The car burns 5 litres of fuel?\nAnswer:")
    assert first.needle_texts() == tuple(topic()["documents"][i]["document_text"] for i in (0, 2))
    assert (first.meta["id"], first.meta["gold"], second.answer) == ("a", [1, 3], "3")
    marked, _ = load_summhay(path, limit=2, needle="sentence")
    assert marked.needle_texts() == ("Some 5 litres of fuel it burns.", "Hear: The car burns 5 litres of fuel.")


def test_summhay_sample_holds_all_gold_documents_and_follows_the_seed(tmp_path: Path):
    documents = [{"document_text": f"Text {i}.", "insights_included": ["a"] * (i in (4, 30))} for i in range(40)]
    path = save(tmp_path, topic(documents=documents))
    samples = [load_summhay(path, 1, n_documents=6, seed=seed)[0] for seed in (0, 0, 1)]
    assert samples[0] == samples[1]
    assert samples[0].prompt != samples[2].prompt
    for example in samples:
        assert example.needle_texts() == ("Text 4.", "Text 30.")
        assert example.meta["documents"] == 6
        assert example.answer == write_citation(example.meta["gold"])


def test_pretty_printed_and_packed_topic_files(tmp_path: Path):
    plain = load_summhay(save(tmp_path, topic(), name="topic.json"), 2)
    (tmp_path / "pretty").mkdir()
    (tmp_path / "pretty" / "topic.json").write_bytes(gzip.compress(json.dumps(topic(), indent=1).encode()))
    assert load_summhay(tmp_path / "pretty" / "topic.json", 2) == plain


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
