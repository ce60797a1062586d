"""`write` from the command line and `produce`, against a server that is good, lying, or gone in the middle."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from chat_server import ChatServer, completion, good, running, write
from written_samples import chain_example, citing_example, example

from retrieval_heads.cli import main
from retrieval_heads.data.jsonl import read_examples, write_examples
from retrieval_heads.data.tokenizer import BASE_PATH
from retrieval_heads.data.written.conditions import SYNTHETIC

pytest.importorskip("openai")
MAKERS = {"mdqa": example, "musique": chain_example, "summhay": citing_example}


@pytest.fixture
def chat():
    with running() as server:
        yield server


def files(folder: Path, task: str = "mdqa", n: int = 6) -> list[str]:
    """Real examples in a file, and the arguments that make conditions of them."""
    write_examples(folder / "real.jsonl.gz", [MAKERS[task](index) for index in range(n)])
    return ["write", "--real", str(folder / "real.jsonl.gz"), "--tokenizer", str(BASE_PATH), "--length", "900",
            "--out", str(folder)]


def at(chat: ChatServer) -> list[str]:
    return ["--endpoint", chat.url, "--model", "m", "--concurrency", "3"]


def result(folder: Path, condition: str = "high_high"):
    return read_examples(folder / f"{condition}.jsonl.gz")


@pytest.mark.parametrize("task", MAKERS)
def test_all_conditions_have_the_same_examples_and_a_second_run_is_free(
    task: str, chat: ChatServer, tmp_path: Path, capsys,
):
    chat.delay = 0.02
    call = [*files(tmp_path, task), *at(chat), "--price-in", "1", "--price-out", "2"]
    assert main(call) == 0
    n = len(chat.bodies)
    assert n == 6 * (1 if task == "mdqa" else 2)
    assert 1 < chat.most_at_once <= 3
    out = capsys.readouterr().out
    assert f"{n} requests, 0 from the cache, {n * 100:,} tokens in, {n * 50} out, cost 0.0" in out
    real = read_examples(tmp_path / "real.jsonl.gz")
    stored = {name: (tmp_path / f"{name}.jsonl.gz").read_bytes() for name in SYNTHETIC}
    for name in SYNTHETIC:
        assert f"{name}.jsonl.gz: 6 examples" in out
        assert [one.meta["id"] for one in result(tmp_path, name)] == [one.meta["id"] for one in real]
    assert main(call) == 0
    assert len(chat.bodies) == n
    assert f"0 requests, {n} from the cache" in capsys.readouterr().out
    assert stored == {name: (tmp_path / f"{name}.jsonl.gz").read_bytes() for name in SYNTHETIC}


def test_low_and_symbolic_conditions_need_no_endpoint(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    call = files(tmp_path)
    assert main([*call, "--conditions", "low_high", "low_low", "symbolic", "--count", "4"]) == 0
    assert [len(result(tmp_path, name)) for name in ("low_high", "low_low", "symbolic")] == [4, 4, 4]
    assert main([*call, "--conditions", "high_low"]) == 2
    assert "no address of an endpoint" in capsys.readouterr().err


LIES = {
    "the answer is missing": lambda text: text.replace("Quill3", "Quell"),
    "the model refused": lambda text: "I'm sorry, I can't help with that request of yours, which is about a person.",
    "the text is empty": lambda text: "",
    "a line that reads like part of the prompt": lambda text: f"{text}\nQuestion: who?",
    "the text is too short": lambda text: " ".join(text.split()[-9:]),
}


@pytest.mark.parametrize("reason", LIES)
def test_a_text_that_fails_is_asked_again_and_then_left_out(reason: str, chat: ChatServer, tmp_path: Path, capsys):
    def answer(body: dict) -> str:
        text = good(body)
        return LIES[reason](text) if "Quill3" in body["messages"][1]["content"] else text

    chat.answer = answer
    assert main([*files(tmp_path), *at(chat)]) == 0
    assert f"left out 1 because {reason}" in capsys.readouterr().out
    asked = [body["messages"] for body in chat.bodies if "Quill3" in body["messages"][1]["content"]]
    assert [len(messages) for messages in asked] == [2, 4, 6]
    for name in SYNTHETIC:
        assert [one.meta["id"] for one in result(tmp_path, name)] == ["q0", "q1", "q2", "q4", "q5"]
    record = json.loads((tmp_path / "written.json").read_text())
    assert record["dropped"] == {"q3": reason}


def test_a_writer_that_mends_its_text_loses_no_example(chat: ChatServer, tmp_path: Path):
    chat.answer = lambda body: good(body) if len(body["messages"]) > 2 else good(body).replace("Quill", "Quell")
    assert main([*files(tmp_path), *at(chat), "--conditions", "high_low"]) == 0
    assert len(result(tmp_path, "high_low")) == 6
    again = [body["messages"][-1]["content"] for body in chat.bodies if len(body["messages"]) > 2]
    assert len(again) == 6
    assert all(re.search(r"these exact words do not stand in it: Mara Quill\d", text) for text in again)


def test_a_forbidden_name_in_a_link_of_a_chain(chat: ChatServer, tmp_path: Path, capsys):
    def answer(body: dict) -> str:
        prompt = body["messages"][1]["content"]
        index = re.search(r"House (\d) >> village", prompt)
        return good(body) + (f" Mara Quill{index[1]} came later." if index and index[1] in "02" else "")

    chat.answer = answer
    assert main([*files(tmp_path, "musique"), *at(chat), "--conditions", "high_high"]) == 0
    assert "left out 2 because a forbidden name is there" in capsys.readouterr().out
    assert [one.meta["id"] for one in result(tmp_path)] == ["c1", "c3", "c4", "c5"]


def test_later_examples_stand_in_for_those_that_were_left_out(chat: ChatServer, tmp_path: Path, capsys):
    chat.answer = lambda body: completion_of(body, bad="Quill1")
    call = [*files(tmp_path), *at(chat), "--conditions", "high_low", "symbolic", "--attempts", "1"]
    assert main([*call, "--count", "3"]) == 0
    assert [one.meta["id"] for one in result(tmp_path, "high_low")] == ["q0", "q2", "q3"]
    assert len(chat.bodies) == 4
    assert main([*call, "--count", "6"]) == 2
    assert "only 5 examples can be made (1 because the answer is missing)" in capsys.readouterr().err
    assert len(result(tmp_path, "symbolic")) == 3


def completion_of(body: dict, bad: str) -> str:
    text = good(body)
    return text.replace(bad, "nobody") if bad in body["messages"][1]["content"] else text


def test_written_documents_fill_the_context_and_none_holds_the_answer(chat: ChatServer, tmp_path: Path, capsys):
    def answer(body: dict) -> str:
        prompt = body["messages"][1]["content"]
        number = re.search(r"passage number (\d+)", prompt)
        if number and int(number[1]) <= 5:  # these tell every answer there is
            return write(prompt, "Mara Quill0, Mara Quill1, Mara Quill2, Mara Quill3, M. Quill4 and M. Quill5 met.")
        return write(prompt)

    chat.answer = answer
    assert main([*files(tmp_path), *at(chat), "--conditions", "high_high", "low_high", "--distractors", "60"]) == 0
    assert "left out 5 documents of the context because a forbidden name is there" in capsys.readouterr().out
    for name in ("high_high", "low_high"):
        for one in result(tmp_path, name):
            assert one.meta["documents"] > 4
            assert one.prompt.count("Remark ") >= one.meta["documents"] - 1
            assert one.prompt.count(one.answer) == len(one.needles) == 1


def test_an_error_in_the_middle_loses_nothing_that_was_paid(chat: ChatServer, tmp_path: Path, capsys):
    chat.answer = lambda body: good(body) if len(chat.bodies) <= 3 else (404, b'{"error": {"message": "gone"}}')
    call = [*files(tmp_path), "--endpoint", chat.url, "--model", "m", "--concurrency", "1"]
    assert main(call) == 2
    captured = capsys.readouterr()
    assert "error: http://127.0.0.1" in captured.err
    assert "3 requests, 0 from the cache" in captured.out
    assert not (tmp_path / "high_high.jsonl.gz").exists()
    asked = Counter(json.dumps(body["messages"]) for body in chat.bodies[:3])
    chat.bodies.clear()
    chat.answer = good
    assert main(call) == 0
    assert "3 requests, 3 from the cache" in capsys.readouterr().out
    assert not asked & Counter(json.dumps(body["messages"]) for body in chat.bodies)


def test_a_killed_run_loses_nothing_that_was_paid(chat: ChatServer, tmp_path: Path, capsys):
    served, gone = 0, threading.Event()

    def answer(body: dict) -> str:
        nonlocal served
        served += 1
        if served > 4:
            gone.wait(20)
        return good(body)

    chat.answer = answer
    call = [*files(tmp_path), "--endpoint", chat.url, "--model", "m", "--concurrency", "1"]
    process = subprocess.Popen([sys.executable, "-m", "retrieval_heads", *call], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while served <= 4 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
        gone.set()
    assert served == 5
    chat.answer = good
    assert main(call) == 0
    assert "2 requests, 4 from the cache" in capsys.readouterr().out
    assert len(result(tmp_path)) == 6


def test_a_dry_run_sends_nothing_and_knows_the_cache(chat: ChatServer, tmp_path: Path, capsys):
    call = [*files(tmp_path), *at(chat)]
    assert main([*call, "--dry-run", "--price-in", "1", "--price-out", "1", "--distractors", "4"]) == 0
    told = capsys.readouterr().out
    assert "6 examples of high_high, high_low, low_high, low_low, symbolic: 10 requests, 0 from the cache" in told
    assert re.search(r"[\d,]{5,} tokens in, [\d,]{3,} out, cost 0\.\d+", told)
    assert not chat.bodies
    assert main([*call, "--conditions", "high_low"]) == 0
    sent = len(chat.bodies)
    assert main([*call, "--dry-run"]) == 0
    assert "0 requests, 6 from the cache, 0 tokens in, 0 out" in capsys.readouterr().out
    assert len(chat.bodies) == sent
    assert main([*call[:-4], "--conditions", "low_low", "--dry-run"]) == 0
    assert "0 requests, 0 from the cache" in capsys.readouterr().out


def test_parameters_are_sent(chat: ChatServer, tmp_path: Path):
    call = [*files(tmp_path, n=2), *at(chat), "--conditions", "high_low", "--parameters"]
    assert main([*call, '{"temperature": 0, "max_tokens": null, "seed": 5}']) == 0
    assert {tuple(sorted(set(body) - {"messages", "model"})) for body in chat.bodies} == {("seed", "temperature")}


@pytest.mark.parametrize(("more", "told"), [
    (["--parameters", "[1]"], "--parameters: not a JSON object"), (["--parameters", "{"], "not a JSON object"),
    (["--conditions", "real"], "--conditions: not a condition"), (["--count", "0"], "--count: too small"),
    (["--distractors", "-1"], "--distractors: too small"), (["--length", "0"], "--length: too small"),
    (["--concurrency", "0"], "concurrency: not a count"), (["--attempts", "0"], "attempts: not a count"),
    (["--tokenizer", "nowhere/at_all"], "no such folder"), (["--length", "50"], "longer than the whole length"),
    (["--real", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
])
def test_bad_arguments(more: list[str], told: str, chat: ChatServer, tmp_path: Path, capsys):
    assert main([*files(tmp_path, n=2), *at(chat), *more]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error
    assert not list(tmp_path.glob("*_*.jsonl.gz"))


def test_cut_off_answers_of_the_endpoint(chat: ChatServer, tmp_path: Path, capsys):
    chat.answer = lambda body: (200, completion(good(body), finish="length"))
    assert main([*files(tmp_path), *at(chat), "--attempts", "2"]) == 2
    assert "only 0 examples can be made (6 because the text is cut off)" in capsys.readouterr().err
    assert len(chat.bodies) == 12
