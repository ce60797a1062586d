"""The synthetic conditions of real examples: lengths, needles, answers, contexts; and the passages that ship."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from written_samples import chain_example, citing_example, example

from retrieval_heads.data.encode import encode_all
from retrieval_heads.data.example import Example
from retrieval_heads.data.examples import token_counter
from retrieval_heads.data.official.records import read_ids, read_records
from retrieval_heads.data.official.sources import official_files, read_sources, without_repeats
from retrieval_heads.data.scene import GRASS
from retrieval_heads.data.tokenizer import embedded_tokenizer
from retrieval_heads.data.written.cache import Reply
from retrieval_heads.data.written.conditions import SYNTHETIC, make_condition, state_fact
from retrieval_heads.data.written.orders import Wanted, contains, find_fault
from retrieval_heads.data.written.real import Real, take_apart
from retrieval_heads.data.written.scenes import Piece, insert, insert_into_text, needle_piece, pool_of_records
from retrieval_heads.data.written.writers import GivenTexts
from retrieval_heads.errors import DataError

LENGTH = 1500
MAKERS = {"mdqa": example, "musique": chain_example, "summhay": citing_example}


@pytest.fixture(scope="module")
def tokenizer():
    return embedded_tokenizer()


def reals_of(task: str, n: int = 6, **options) -> list[Real]:
    return [take_apart(MAKERS[task](index, **options)) for index in range(n)]


def written_for(reals: list[Real]) -> dict[str, list[Piece]]:
    """Needle documents as a writer would have given them."""
    return {
        real.id: [
            needle_piece(real, index, f"There is much to say. It was {fact.answer or fact.question} then. So be it.")
            for index, fact in enumerate(real.facts * (len(real.gold) if real.cites else 1))
        ]
        for real in reals
    }


def made(reals: list[Real], condition: str, tokenizer, length: int = LENGTH) -> list[Example]:
    pool = pool_of_records(reals, token_counter(tokenizer))
    return make_condition(reals, condition, tokenizer, length, pool=pool, written=written_for(reals))


@pytest.mark.parametrize("task", MAKERS)
@pytest.mark.parametrize("condition", SYNTHETIC)
def test_every_condition_of_every_task(task: str, condition: str, tokenizer):
    reals = reals_of(task)
    examples = made(reals, condition, tokenizer)
    assert examples == made(reals, condition, tokenizer)
    assert [one.meta["id"] for one in examples] == [real.id for real in reals]
    for one, real, encoded in zip(examples, reals, encode_all(examples, tokenizer), strict=True):
        assert 0.93 * LENGTH < len(encoded.ids) <= LENGTH
        parsed = take_apart(replace(one, meta=one.meta | {"steps": [
            {"question": "q", "answer": one.answer, "title": ""}]}))
        assert len(parsed.documents) == one.meta["documents"]
        assert (one.meta["condition"], one.meta["hops"], one.task) == (condition, len(real.facts), task)
        needles = one.needle_texts()
        assert len(needles) == (len(real.gold) if real.cites else len(real.facts))
        texts = [parsed.documents[index][2] for index in parsed.gold]
        assert all(any(needle in text for text in texts) for needle in needles)
        if task == "summhay":
            assert one.answer == ", ".join(map(str, one.meta["gold"]))
            assert len(one.meta["gold"]) == len(real.gold)
        elif condition == "symbolic":
            assert one.answers == (one.answer,)
            assert one.prompt.count(one.answer) == 1
            wanted, found = token_counter(tokenizer)([f" {real.example.answer}", f" {one.answer}"])
            assert wanted == found
        else:
            assert one.answers == real.example.answers
            assert any(one.answer in needle for needle in needles)
            outside = one.prompt
            for needle in needles:
                outside = outside.replace(needle, "", 1)
            assert not any(contains(outside, answer) for answer in one.answers)


@pytest.mark.parametrize("condition", ["low_low", "high_low", "symbolic"])
def test_as_many_documents_as_the_real_example_with_needles_at_the_same_places(condition: str, tokenizer):
    for task in ("mdqa", "summhay"):
        reals = reals_of(task)
        for one, real in zip(made(reals, condition, tokenizer), reals, strict=True):
            assert one.meta["documents"] == len(real.documents)
            assert one.meta["gold"] == real.example.meta["gold"]


def test_needles_are_as_deep_as_the_real_ones_among_more_documents(tokenizer):
    reals = reals_of("mdqa", 10)
    for one, real in zip(made(reals, "low_high", tokenizer, 1500), reals, strict=True):
        depth = (one.meta["gold"][0] - 1) / (one.meta["documents"] - 1)
        assert depth == pytest.approx(real.gold[0] / 5, abs=0.5 / (one.meta["documents"] - 1) + 1e-9)


def test_the_context_is_of_its_level(tokenizer):
    reals = reals_of("mdqa")
    everything = {text for real in reals for _, _, text in real.documents}
    for real, high, low in zip(
        reals, made(reals, "high_high", tokenizer), made(reals, "low_low", tokenizer), strict=True
    ):
        own = {text for _, _, text in real.documents}
        others = [text for number, _, text in take_apart(high).documents if number not in high.meta["gold"]]
        assert others
        assert set(others) <= everything - own
        assert len(set(others)) == len(others)
        for _, title, text in take_apart(low).documents:
            for needle in low.needle_texts():
                text = text.replace(needle, "")
            assert title == "Notes"
            assert not set(text.replace(".", "").split()) - set(" ".join(GRASS).replace(".", "").split())


def test_a_chain_of_codes_leads_from_the_question_to_the_answer(tokenizer):
    for one in made(reals_of("musique"), "symbolic", tokenizer):
        pairs = dict(pair.rstrip(".").split(": ") for pair in one.needle_texts())
        key = one.meta["question"].removesuffix("?").split()[-1]
        assert one.meta["question"] == f"What is the value of the value of {key}?"
        assert pairs[pairs[key]] == one.answer


def test_the_lists_that_hold_the_asked_code_are_cited(tokenizer):
    for one in made(reals_of("summhay"), "symbolic", tokenizer):
        code = one.meta["question"].removesuffix("?").split()[-1]
        holding = [number for number, _, text in take_apart(one).documents if code in text]
        assert holding == one.meta["gold"]


def test_the_frame_of_a_chat_template_is_kept(tokenizer):
    head, tail = "<bos>Read the documents.\n\n", "<eos>"
    template = {"end": "<eos>"}
    reals = [replace(real, example=replace(real.example, chat_template=template))
             for real in reals_of("mdqa", head=head, tail=tail)]
    for condition in SYNTHETIC:
        for one in made(reals, condition, tokenizer):
            assert one.prompt.startswith(f"{head}Document 1: ")
            assert one.prompt.endswith(f"\nAnswer:{tail}")
            assert (one.joint, one.chat_template) == ("", template)


def test_needles_of_written_documents_are_those_of_the_real_ones():
    text = "Who knows? It was Mara Quill0, as all say. Mara Quill0 died."
    real = take_apart(example(0))
    for kind, spans in (("sentence", ("It was Mara Quill0, as all say.", "Mara Quill0 died.")),
                        ("passage", (text,)), ("answer", ("Mara Quill0", "Mara Quill0"))):
        piece = needle_piece(replace(real, example=replace(real.example, meta=real.example.meta | {"needle": kind})),
                             0, text)
        assert tuple(text[start:end] for start, end in piece.needles) == spans


def test_inserted_sentences_are_where_the_spans_say():
    for seed in range(20):
        rng = random.Random(seed)
        for piece in (insert("A b.", ["C d."] * 3, rng), insert_into_text("A b.", Piece("", "C d. E f! G"), rng),
                      insert("A b.", [], rng), insert_into_text("A b.", Piece("", "C"), rng)):
            ((start, end),) = piece.needles
            assert piece.text[start:end] == "A b."
            assert piece.text.count("A b.") == 1
            assert "  " not in piece.text


def test_a_length_too_short_and_a_pool_too_small(tokenizer):
    reals = reals_of("mdqa")
    with pytest.raises(DataError, match=r"q\d, length: the documents that `low_low` needs are \d+ tokens.*Allow"):
        made(reals, "low_low", tokenizer, 60)
    with pytest.raises(DataError, match=r"too few documents without the answer to fill.*--distractors"):
        made(reals, "low_high", tokenizer, 20_000)
    with pytest.raises(DataError, match="too few documents without the answer to put"):
        made(reals[:1], "low_high", tokenizer)


@pytest.mark.parametrize(("changes", "told"), [
    ({"prompt": "Question: who?\nAnswer:", "needles": ()}, "key prompt: is not in the layout"),
    ({"prompt": "Document 1: A\nText.\n\nWho?", "needles": ()}, "key prompt: is not in the layout"),
    ({"meta": {"id": "x"}}, "key gold: is not a list of document numbers"),
    ({"meta": {"id": "x", "gold": [9]}}, "key gold: names documents that are not among the 6"),
    ({"meta": {"id": "x", "gold": ["1"]}}, "key gold: is not a list"),
    ({"task": "musique"}, "key steps: is missing"),
    ({"meta": {"id": "x", "gold": [1], "steps": [{"question": "q"}]}}, "key steps: holds something else"),
    ({"meta": {"id": "x", "gold": [1], "steps": []}}, "key steps: does not end in the reference answer"),
    ({"meta": {"id": "x", "gold": [1], "steps": "q"}}, "key steps: holds something else"),
])
def test_real_examples_that_cannot_be_taken_apart(changes: dict, told: str):
    with pytest.raises(DataError, match=told):
        take_apart(replace(example(0), **changes))


def test_a_line_in_a_text_is_no_heading():
    prompt = example(0).prompt.replace("Travellers", "\nDocument 9: Not one\nTravellers", 1)
    assert len(take_apart(replace(example(0), prompt=prompt, needles=())).documents) == 6


FOLDER = Path(__file__).parents[1] / "data" / "written"
CARD = (FOLDER / "README.md").read_text(encoding="utf-8")
TASKS = {"mdqa": (400, 400), "musique": (669, 300)}
WORDS = 90


def _records(task: str) -> list[dict]:
    return [record.data for record in read_records(FOLDER / f"{task}_needles.jsonl.gz")]


@pytest.mark.parametrize("task", TASKS)
def test_the_card_tells_numbers_and_digests(task: str):
    path, records = FOLDER / f"{task}_needles.jsonl.gz", _records(task)
    numbers = (len(records), len(read_ids(path)))
    assert numbers == TASKS[task]
    assert f"| `{path.name}` | {numbers[0]} | {numbers[1]} |" in CARD
    assert f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" in CARD
    GivenTexts(path)


@pytest.mark.parametrize("task", TASKS)
def test_every_passage_holds_its_answer_and_is_plain_text(task: str):
    faults = Counter()
    for record in _records(task):
        fault = find_fault(Reply(text=record["text"]), Wanted(WORDS, (record["answer"],)))
        faults[fault.reason if fault else None] += 1
    # lengths depend on the real document, so they are no matter here
    assert set(faults) <= {None, "the text is too short", "the text is too long"}
    assert faults[None] > 0.95 * faults.total()


@pytest.mark.parametrize(("task", "least"), [("mdqa", 0.7), ("musique", 0.75)])
def test_most_facts_have_a_statement_that_does_not_quote_the_question(task: str, least: float):
    statements = [state_fact(record["question"], record["answer"]) for record in _records(task)]
    assert sum(not one.quotes for one in statements) > least * len(statements)
    for record, one in zip(_records(task), statements, strict=True):
        assert record["answer"].rstrip(".") in one.text
        assert re.fullmatch(r"\S.*\S\.", one.text), one.text
        assert one.quotes == (f'"{record["question"]}"' in one.text)


def test_the_listed_records_are_apart_and_trained_on_are_those_with_passages():
    for path in sorted(FOLDER.glob("records_*.json")):
        sets = json.loads(path.read_text(encoding="utf-8"))
        task = path.stem.removeprefix("records_")
        assert tuple(sets["train"]) == read_ids(FOLDER / f"{task}_needles.jsonl.gz")
        held_out = [one for name in ("probe", "test", "dev") for one in sets.get(name, ())]
        assert len(set(held_out)) == len(held_out) > 0
        assert not {*sets["train"], *sets["limited"]} & set(held_out)


def test_the_official_files_have_the_questions_of_the_passages():
    folder = os.environ.get("RETRIEVAL_HEADS_DATA")
    if not folder:
        pytest.skip("RETRIEVAL_HEADS_DATA names no folder of official files")
    for task in TASKS:
        files = [path for path in official_files(folder, task) if ".sample10." not in path.name]
        known = {source.id: source for source in without_repeats(read_sources(task, files))}
        for record in _records(task):
            source = known[record["id"]]
            if task == "mdqa":
                assert (source.question, source.answers[0]) == (record["question"], record["answer"])
