"""The passages that ship: as the card says, usable, and of the training questions that are listed."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from retrieval_heads.data.official.records import read_ids, read_records
from retrieval_heads.data.official.sources import official_files, read_sources, without_repeats
from retrieval_heads.data.written.cache import Reply
from retrieval_heads.data.written.conditions import state_fact
from retrieval_heads.data.written.orders import Wanted, find_fault
from retrieval_heads.data.written.writers import GivenTexts

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
