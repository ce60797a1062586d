"""What makes a set solvable without reading: each way is found where it was put in, and not where it was not."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from one_place import question, questions, write_case

from retrieval_heads.check import check_files
from retrieval_heads.check.shortcuts import Places, Shortcuts, documents_of, name_of, places, quotes
from retrieval_heads.data import make_examples
from retrieval_heads.data.example import Example


def found(examples: list[Example]) -> Shortcuts:
    cuts = Shortcuts()
    for example in examples:
        cuts.add(example)
    return cuts


def test_the_flawed_set_is_found_and_the_sound_ones_are_not(tmp_path: Path, tiny_tokenizer):
    folder = write_case(tmp_path)
    names = ("A", "B", "real")
    checked = check_files([folder / f"{name}.jsonl" for name in names], tiny_tokenizer, {}, [folder / "eval.jsonl"])
    warnings = {name: one.warnings() for name, one in zip(names, checked, strict=True)}
    [flaw] = [text for text in warnings["B"] if "stand in the" in text]
    assert flaw == ("48 of 48 needles stand in the first document (evenly spread it would be 16): whoever reads that "
                    "place alone solves them, whatever is asked")
    assert not [text for name in ("A", "real") for text in warnings[name] if "stand in the" in text]
    assert checked[1].as_json()["needle_places"]["by_document"] == {1: 48}
    assert checked[0].as_json()["needle_places"]["by_document"] == {1: 16, 2: 16, 3: 16}


@pytest.mark.parametrize(("gold", "words"), [(0, "the first document"), (2, "the third document"), (9, "document 10")])
def test_any_one_place_is_named(gold: int, words: str):
    said = found(questions([gold] * 12, n_documents=14)).places.one_place()
    assert said == f"12 of 12 needles stand in {words} (evenly spread it would be 1)"


def test_the_last_of_any_number_of_documents_is_one_place():
    def made(n: int) -> Example:
        text = "".join(f"Document {number}:\nGrass grows {number}.\n" for number in range(1, n))
        prompt = f"{text}Document {n}:\nIt is nine.\n\nQuestion: when?\nAnswer:"
        return Example("own", prompt, "nine", needles=((prompt.index("It is"), prompt.index("It is") + 11),))

    places = found([made(n) for n in range(5, 17)]).places
    assert places.one_place().startswith("12 of 12 needles stand in the last document ")
    assert "by document from the end 1: 12" in places.text()


def test_chance_is_no_place():
    for seed in range(20):  # of even places, three times as many as any would have are never all at one
        rng = random.Random(seed)
        assert found([question(rng, rng.randrange(3)) for _ in range(24)]).places.one_place() == ""
    assert found(questions([0] * 5)).places.one_place() == ""  # too few to tell
    assert "30 of 45" in found(questions([0] * 30 + [1, 2] * 7 + [1])).places.one_place()  # most of them


def test_places_without_documents_are_told_by_the_text():
    def at(part: float) -> Example:
        before = "The grass is green and it grows. " * round(40 * part)
        prompt = f"{before}It is nine.{' The sky is blue.' * round(40 * (1 - part))}\nQuestion: when?\nAnswer:"
        return Example("own", prompt, "nine", needles=((len(before), len(before) + 11),))

    late = found([at(0.9 + number / 200) for number in range(10)]).places
    assert late.one_place().startswith("nine in ten of 10 needles begin between 0.9")
    assert found([at(number / 10) for number in range(10)]).places.one_place() == ""
    whole = [Example("own", "It is nine. Question: when?", "nine", needles=((0, 11),))] * 10
    assert found(whole).places.one_place() == ""  # the needle is the text


def test_document_and_place_of_an_example():
    example = questions([1])[0]
    assert documents_of(example) == ([2], 3)
    bare = Example("own", "No needle. Question: so?", "x")
    assert documents_of(bare) is None
    assert places([example, bare]) == ["document 2", ""]
    chapters = replace(example, prompt=example.prompt.replace("Document", "Chapters"))
    assert places([chapters, bare]) == ["middle third", ""]
    bracketed = Example("own", "[1] One.\n[2] Two is it.\n[3] Three.\nQuestion: so?", "Two", needles=((13, 24),))
    assert documents_of(bracketed) == ([2], 3)
    assert (name_of(2, False), name_of(7, False), name_of(2, True)) == (
        "the second document", "document 7", "document 2 from the end")


def test_answers_outside_needles_and_in_questions_are_counted_with_their_lines():
    def made(line: int, more: str, asked: str = "") -> Example:
        return Example("own", f"It is nine. {more}\nQuestion: when{asked}?\nAnswer:", "nine", needles=((0, 11),),
                       meta={"line": line})

    cuts = found([made(1, "Grass."), made(2, "Nine it was."), made(3, "ninety"), made(4, "", " is nine")])
    assert (cuts.outside.count, cuts.outside.first) == (1, [2])
    assert (cuts.in_question.count, cuts.in_question.first) == (1, [4])
    assert any("have the answer in the question" in text and "(line 4)" in text for text in cuts.warnings())
    assert any("1 of 4 examples have the answer outside their needles" in text for text in cuts.warnings())
    assert not any("outside" in text for text in found([made(1, "Nine."), *[made(2, "")] * 9]).warnings())


def test_generated_conditions_have_the_flaws_that_their_names_promise():
    def warnings(condition: str) -> str:
        return " ".join(found(make_examples(task="mdqa", condition=condition, length=512, n=8, seed=0)).warnings())

    assert "haystacks repeat themselves" in warnings("high_low")
    assert "quotes a needle" in warnings("low_high")
    assert warnings("real") == warnings("high_high") == ""


def test_a_quote_is_most_of_the_question_in_a_row():
    needle = "The number of Arle and of the old lighthouse is 40."
    assert quotes("Question: what is the number of Arle and of the old lighthouse?\nAnswer:", needle)
    assert not quotes("Question: which number has the lighthouse of Arle, an old one?\nAnswer:", needle)
    assert not quotes("Question: the number of?\nAnswer:", needle)  # too short to tell


def test_nothing_is_said_without_needles():
    assert found([Example("own", "Question: so?", "x")]).warnings() == []
    assert Places().text() == Places().one_place() == ""
