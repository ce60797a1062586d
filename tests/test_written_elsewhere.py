"""`write` with texts that were written elsewhere: a file of passages, and the requests and answers of a batch."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from written_samples import PLACES, chain_example, example

from retrieval_heads.cli import main
from retrieval_heads.data.jsonl import read_examples, write_examples
from retrieval_heads.data.tokenizer import BASE_PATH
from retrieval_heads.data.written.conditions import SYNTHETIC

N = 6
FILLER = "It is known for its long winters, its two bridges and the market that is held on the square each spring. "


def passage(index: int) -> str:
    return f"{FILLER}{PLACES[index]} was founded by Mara Quill{index} after the great flood, as the old chronicle says."


def prepared(folder: Path, make=example) -> list[str]:
    """A prepared folder, and the arguments that make conditions of it in another one."""
    place = folder / "prepared"
    write_examples(place / "real.jsonl.gz", [make(index) for index in range(N)])
    write_examples(place / "real_short.jsonl.gz", [make(index) for index in range(N)])
    write_examples(place / "real_limited.jsonl.gz", [make(index) for index in (6, 7, 8, 9, 1, 2)])
    write_examples(place / "held_out" / "test_900.jsonl.gz", [make(index) for index in (10, 11)])
    return ["write", "--real", str(place / "real.jsonl.gz"), "--tokenizer", str(BASE_PATH), "--length", "900",
            "--out", str(folder / "out")]


def lines(path: Path, records) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def ids(path: Path) -> list[str]:
    return [one.meta["id"] for one in read_examples(path)]


def test_passages_are_used_checked_and_left_out_of_everything_that_is_compared(tmp_path: Path, capsys):
    call = prepared(tmp_path)
    texts = {index: passage(index) for index in range(N)}
    texts[1] = texts[1].replace("Quill1", "Quilley")
    texts[4] = "Sorry, I cannot write this."
    del texts[3]
    records = [{"id": f"q{index}", "fact": 0, "answer": f"Mara Quill{index}", "text": text, "title": "any"}
               for index, text in texts.items()]
    records.append({"id": "q77", "text": passage(0)})
    assert main([*call, "--texts", lines(tmp_path / "texts.jsonl", records)]) == 0
    out, folder = capsys.readouterr().out, tmp_path / "out"
    for said in ("refused q1, text 0: these exact words do not stand in it: Mara Quill1",
                 "refused q4, text 0: it is a refusal", "refused q3, text 0: there is none in texts.jsonl",
                 "left out 1 because the answer is missing", "1 texts of", "high_high.jsonl.gz: 3 examples",
                 "real.jsonl.gz: 3 examples, the same questions",
                 "low needles: 3 statements, 0 of which quote their question"):
        assert said in out, said
    for name in (*SYNTHETIC, "real", "real_short"):
        assert ids(folder / f"{name}.jsonl.gz") == ["q0", "q2", "q5"], name
    assert ids(folder / "real_limited.jsonl.gz") == ["q6", "q7", "q8"]
    assert ids(folder / "held_out" / "test_900.jsonl.gz") == ["q10", "q11"]
    for one in read_examples(folder / "high_low.jsonl.gz"):
        index = int(one.meta["id"][1:])
        assert passage(index) in one.prompt
        assert [one.prompt[start:end] for start, end in one.needles] == [passage(index)[len(FILLER):]]
    record = json.loads((folder / "written.json").read_text())
    assert record["dropped"] == {"q1": "the answer is missing", "q3": "no text is given", "q4": "the model refused"}
    assert record["templates"] == {"quoting": 0, "types": {"doer": 3}}
    assert record["texts"]["texts"] == 6
    assert record["texts"]["unused"] == 1


def test_all_facts_of_a_chain_need_their_passage(tmp_path: Path):
    call = prepared(tmp_path, chain_example)
    first = [f"{FILLER}In the days of the old kings House {index} stood in the village that is called {PLACES[index]}."
             for index in range(N)]
    records = [{"id": f"c{index}", "fact": fact, "text": text} for index in range(N)
               for fact, text in ((1, passage(index)), (0, first[index])) if (index, fact) != (2, 0)]
    # a first passage that tells the last answer would cut the chain short
    records[1]["text"] += " Mara Quill0 came later."
    assert main([*call, "--conditions", "high_high", "low_low", "--texts", lines(tmp_path / "t.jsonl", records)]) == 0
    for name in ("high_high", "low_low", "real"):
        assert ids(tmp_path / "out" / f"{name}.jsonl.gz") == ["c1", "c3", "c4", "c5"]


def test_an_example_whose_answer_is_everywhere_is_left_out_of_everything(tmp_path: Path, capsys):
    def make(index: int):
        one = example(index)
        return replace(one, answers=(one.answer, "market")) if index == 2 else one  # in each of the documents

    call = prepared(tmp_path, make)
    texts = lines(tmp_path / "t.jsonl", [{"id": f"q{index}", "text": passage(index)} for index in range(N)])
    assert main([*call, "--texts", texts]) == 0
    assert "left out 1 because too few documents lack its answer" in capsys.readouterr().out
    for name in (*SYNTHETIC, "real", "real_short"):
        assert ids(tmp_path / "out" / f"{name}.jsonl.gz") == ["q0", "q1", "q3", "q4", "q5"], name


def test_conditions_without_written_needles_have_the_same_examples(tmp_path: Path):
    call = prepared(tmp_path)
    texts = lines(tmp_path / "t.jsonl", [{"id": f"q{index}", "text": passage(index)} for index in (4, 0)])
    assert main([*call, "--conditions", "low_low", "--texts", texts]) == 0
    assert ids(tmp_path / "out" / "low_low.jsonl.gz") == ids(tmp_path / "out" / "real.jsonl.gz") == ["q0", "q4"]


@pytest.mark.parametrize(("record", "told"), [
    ({"id": "q0"}, "line 1: `text` is not a text"), ({"text": "a"}, "`id` is not a text"),
    ({"id": "q0", "text": "a", "fact": "0"}, "`fact` is not a whole number"),
    ({"id": "q0", "text": "a", "fact": -1}, "`fact` is not a whole number"),
    ({"id": "q0", "text": passage(0), "answer": "Another"}, "another answer"),
])
def test_records_that_are_no_passages(record: dict, told: str, tmp_path: Path, capsys):
    call = prepared(tmp_path)
    assert main([*call, "--texts", lines(tmp_path / "t.jsonl", [record])]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_passages_for_a_fact_and_the_folder_of_the_real_examples_are_refused(tmp_path: Path, capsys):
    call = prepared(tmp_path)
    texts = lines(tmp_path / "t.jsonl", [{"id": "q0", "text": passage(0)}] * 2)
    assert main([*call, "--texts", texts]) == 2
    assert "line 2: two texts are for the same fact" in capsys.readouterr().err
    assert main([*call, "--out", str(tmp_path / "prepared"), "--texts", texts]) == 2
    assert "Give another folder" in capsys.readouterr().err
    assert ids(tmp_path / "prepared" / "real.jsonl.gz") == [f"q{index}" for index in range(N)]


def test_texts_come_from_one_place(tmp_path: Path, capsys):
    call = [*prepared(tmp_path), "--texts", "a.jsonl", "--model", "m"]
    for other in (["--batch-in", "b.jsonl"], ["--batch-out", "b.jsonl"], ["--endpoint", "http://localhost:1"]):
        assert main([*call, *other]) == 2
        assert f"--texts and {other[0]}: texts come from one place" in capsys.readouterr().err


def answer(request: dict, text: str | None, status: int = 200) -> dict:
    """A line of the interface's output."""
    body = {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}
    if status != 200:
        body = {"error": {"message": "the server had an error", "type": "server_error"}}
    return {"id": "batch_req_1", "custom_id": request["custom_id"], "error": None,
            "response": {"status_code": status, "request_id": "r", "body": body}}


def requests(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def index_of(request: dict) -> int:
    told = request["body"]["messages"][1]["content"]
    return next(index for index in range(N) if f"Mara Quill{index}" in told)


def test_a_batch_is_asked_answered_in_any_order_and_asked_again(tmp_path: Path, capsys):
    call = [*prepared(tmp_path), "--model", "m", "--parameters", '{"max_tokens": 300}']
    asked, given = tmp_path / "requests.jsonl", tmp_path / "answers.jsonl"
    assert main([*call, "--batch-out", str(asked)]) == 0
    assert f"{asked}: 6 requests" in capsys.readouterr().out
    first = requests(asked)
    assert {(one["method"], one["url"], one["body"]["model"], one["body"]["max_tokens"]) for one in first} == {
        ("POST", "/v1/chat/completions", "m", 300)}
    assert len({one["custom_id"] for one in first}) == N
    assert all(len(one["custom_id"]) <= 64 for one in first)
    answers = []
    for one in first:
        index = index_of(one)
        text = passage((index + 1) % N) if index == 2 else passage(index)
        answers.append(answer(one, text, 500 if index == 3 else 200))
    random.Random(0).shuffle(answers)
    strangers = [{"custom_id": "mine", "response": {"status_code": 200, "body": {}}, "error": None}]
    lines(given, [*answers, *strangers])
    with given.open("a") as file:
        file.write('{"custom_id": "half')
    assert main([*call, "--batch-in", str(given)]) == 0
    out = capsys.readouterr().out
    assert "5 answers" in out
    for said in ("(q3, text 0): the server had an error", "custom_id mine: it answers no request", "line 8",
                 "refused q2, text 0: these exact words do not stand in it: Mara Quill2",
                 "refused q3, text 0: the batches hold no answer to it"):
        assert said in out, said
    assert ids(tmp_path / "out" / "high_high.jsonl.gz") == ids(tmp_path / "out" / "real.jsonl.gz") == [
        "q0", "q1", "q4", "q5"]

    assert main([*call, "--batch-out", str(asked)]) == 0
    second = {index_of(one): one for one in requests(asked)}
    assert sorted(second) == [2, 3]
    assert [message["role"] for message in second[2]["body"]["messages"]] == ["system", "user", "assistant", "user"]
    again = lines(tmp_path / "again.jsonl", [answer(one, passage(index)) for index, one in second.items()])
    assert main([*call, "--batch-in", str(given), again]) == 0
    assert ids(tmp_path / "out" / "high_high.jsonl.gz") == [f"q{index}" for index in range(N)]
    assert main([*call, "--batch-out", str(tmp_path / "none.jsonl")]) == 0
    assert "nothing to ask" in capsys.readouterr().out
    assert not (tmp_path / "none.jsonl").exists()


def test_answers_to_other_requests_are_an_error(tmp_path: Path, capsys):
    call = prepared(tmp_path)
    assert main([*call, "--model", "m", "--batch-out", str(tmp_path / "r.jsonl")]) == 0
    given = lines(tmp_path / "a.jsonl", [answer(one, "text") for one in requests(tmp_path / "r.jsonl")])
    assert main([*call, "--model", "other", "--batch-in", given]) == 2
    err = capsys.readouterr().err
    assert "no line answers a request" in err
    assert "--batch-out" in err
    assert main([*call, "--batch-out", str(tmp_path / "r.jsonl")]) == 2
    assert "--model" in capsys.readouterr().err
