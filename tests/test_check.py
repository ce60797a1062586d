"""`check`: every line is counted, oddities are told, the first broken line is shown, and the exit status follows."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from retrieval_heads import cli
from retrieval_heads.check import check_files
from retrieval_heads.check.findings import Findings
from retrieval_heads.data.encode import encode
from retrieval_heads.data.example import Example
from retrieval_heads.data.jsonl import write_examples
from retrieval_heads.errors import ConfigError, DataError


def record(answer: str = "nine", hour: str | None = None, more: str = "", **changes) -> dict:
    needle = f"The pier opens at {hour or answer}."
    prompt = f"{needle} {more}\nQuestion: When does the pier open{more}?\nAnswer:"
    return {"prompt": prompt, "answer": answer, "needles": [needle], **changes}


def write(folder: Path, *records: dict | str, name: str = "train.jsonl") -> Path:
    path = folder / name
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records))
    return path


@pytest.fixture
def check(tmp_path: Path, tiny_tokenizer):
    """Check one file of the given records."""

    def run(*records: dict | str, against: tuple[Path, ...] = (), **limits: int) -> Findings:
        [findings] = check_files([write(tmp_path, *records)], tiny_tokenizer, limits, against)
        return findings

    return run


@pytest.fixture
def model(tmp_path: Path, tiny_tokenizer) -> Path:
    """A folder with tokenizer and config: weights are not needed to count tokens."""
    folder = tmp_path / "model"
    tiny_tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 60}))
    return folder


def test_a_sound_file_has_its_counts_and_no_warning(check, tiny_tokenizer):
    records = [record(), record("seven", more=" at the far end of the town"), record("ten", more=" today")]
    found = check(*records, limit=1000)
    lengths = [encode(Example("x", one["prompt"], one["answer"]), tiny_tokenizer) for one in records]
    assert list(found.tokens) == [len(one.ids) for one in lengths]
    assert list(found.answer_tokens) == [one.answer_length for one in lengths]
    content = found.as_json()
    ordered = sorted(found.tokens)
    assert content["tokens"] == {"min": ordered[0], "median": ordered[1], "max": ordered[2]}
    assert (content["records"], content["usable"], content["tasks"]) == (3, 3, {"train": 3})
    assert found.warnings() == []
    assert found.first_broken is None


ODD: dict[str, tuple[dict, str]] = {
    "without_needles": (record(needles=[]), "no needle"),
    "answer_in_no_needle": (record("nine", hour="ten"), "none of their needles holds"),
    "answer_shares_no_token": (record(needles=["The"]), "no token of the answer"),
    "prompt_ends_in_space": ({"prompt": "It is nine. When? ", "answer": "nine", "needles": ["nine"]}, "white space"),
    "answer_in_space": (record(" nine", hour="nine"), "white space around the answer"),
}


@pytest.mark.parametrize("name", ODD)
def test_oddities_are_counted_and_told(check, name: str):
    odd, words = ODD[name]
    found = check(record(), odd)
    assert found.as_json()[name] == 1
    assert any(words in text and text.startswith("1 of 2 examples ") and text.endswith("(line 2)")
               for text in found.warnings())
    assert found.as_json()["first_lines"][name] == [2]
    assert found.usable == 2
    assert check(record()).as_json()[name] == 0


def test_answers_that_are_numbers_of_documents_need_not_stand_in_needles(check):
    assert check(record("nine", hour="ten", task="summhay")).odd["answer_in_no_needle"].count == 0


def test_a_file_of_several_tasks_is_told_so(check):
    found = check(record(), record("ten", task="musique"))
    [warning] = found.warnings()
    assert warning == ("the examples are of several tasks (musique, train): such a file can be trained on, but "
                       "`diagnose --eval` and `rank --probe` take one task at a time")
    assert found.as_json()["tasks"] == {"train": 1, "musique": 1}


def test_lengths_above_the_limits(check):
    found = check(record(), record("ten", more=" in winter" * 20), short=5, middle=60, long=1000)
    assert {name: lines.first for name, lines in found.exceeded.items()} == {"short": [1, 2], "middle": [2]}
    assert [text for text in found.warnings() if "longer" in text] == [
        "2 of 2 examples are longer than 5 tokens (short) (lines 1, 2)",
        "1 of 2 examples are longer than 60 tokens (middle) (line 2)",
    ]


def test_all_broken_lines_are_counted_by_reason_and_the_first_is_kept(check):
    lost = record(needles=["at ten"])
    many = [record("nine", more=f" {number}") for number in range(20)]
    outside = [record(more=" so" * count, needles=[[0, 900]]) for count in (1, 40)]
    found = check(*many, lost, "{", *outside, lost, *many)
    assert (found.records, found.usable) == (45, 40)
    assert found.broken["the needle is not in the prompt"] == 2
    assert found.broken["needle span outside the prompt of N characters, empty, or out of order"] == 2
    assert len(found.broken) == 3
    assert found.needles_lost == 4
    assert ", line 21, key needles[0]: the needle is not in the prompt (got 'at ten')" in str(found.first_broken)


def test_what_has_no_tokens_of_its_own_breaks_its_own_record_alone(check, tmp_path: Path):
    joined = {"prompt": "Question: An", "answer": "swer:", "joint": ""}
    found = check(record(), joined, record("ten"), "[]")
    assert list(found.needles) == [1, 1]
    assert set(found.broken) == {
        "the last characters of the prompt and the answer share a token", "the record is not a JSON object",
    }
    assert str(found.first_broken).startswith(f"{tmp_path / 'train.jsonl'}, line 2: the last characters of the prompt")
    assert found.first_broken.remedy


def test_a_needle_that_no_token_covers_is_counted_as_lost(tmp_path: Path):
    letters = Tokenizer(models.WordLevel({"nine": 0, "?": 1, "": 2}, unk_token=""))
    letters.pre_tokenizer = pre_tokenizers.Whitespace()
    path = write(tmp_path, {"prompt": "nine \t nine ?", "answer": "nine", "needles": [[4, 7]]})
    [found] = check_files([path], PreTrainedTokenizerFast(tokenizer_object=letters))
    assert (found.needles_lost, dict(found.broken)) == (1, {"no token covers the needle": 1})


def test_repeats_inside_a_file(check):
    same_question = record() | {"prompt": "Elsewhere. " + record()["prompt"].upper().replace("QUESTION", "Question"),
                                "needles": []}
    found = check(record(), record("ten"), same_question, record())
    assert (found.repeats["prompt"].count, found.repeats["prompt"].first) == (1, (4, 1))
    assert (found.repeats["question and answer"].count, found.repeats["question and answer"].first) == (2, (3, 1))
    assert sum("repeat the" in text for text in found.warnings()) == 2


def test_examples_known_from_another_file(check, tmp_path: Path):
    test = write(tmp_path, record(), record("ten", more=" on Sunday"), name="test.jsonl")
    needle_alone = {"prompt": "The pier opens at ten. So?", "answer": "ten", "needles": ["The pier opens at ten."]}
    question_alone = {"prompt": "No needle. Question: when does the PIER open\n Answer:", "answer": "five"}
    key_question = {"prompt": "Nothing.", "answer": "six", "question": "When does the pier open on Sunday?\nAnswer"}
    found = check(record("two", more=" x"), needle_alone, question_alone, key_question, record(), against=(test,))
    leaks = found.leaks[str(test)]
    assert (leaks["prompt"].count, leaks["prompt"].first) == (1, (5, 1))
    assert (leaks["question"].count, leaks["question"].first) == (3, (3, 1))
    assert (leaks["needle and answer"].count, leaks["needle and answer"].first) == (2, (2, 2))
    assert sum(str(test) in text for text in found.warnings()) == 3


def test_a_file_compared_with_itself_is_refused(check, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"--against: the file is to be compared with itself \(got .*train\.jsonl"):
        check(record(), against=(tmp_path / "." / "train.jsonl",))


def test_a_broken_file_to_compare_with_is_refused(tiny_tokenizer, tmp_path: Path):
    path, broken = write(tmp_path, record()), write(tmp_path, "{", name="test.jsonl")
    with pytest.raises(DataError, match=r"test\.jsonl, line 1"):
        check_files([path], tiny_tokenizer, against=[broken])


def test_memory_does_not_grow_with_the_texts(tiny_tokenizer, tmp_path: Path):
    def peak(n: int) -> int:
        path = tmp_path / "long.jsonl"
        texts = (f"It is nine. {number} " + "grass " * 300 for number in range(n))
        write_examples(path, (Example("own", text + "When?", "nine", needles=((0, 11),)) for text in texts))
        tracemalloc.start()
        check_files([path], tiny_tokenizer)
        _, top = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return top

    peak(20)  # what the first call allocates for good is none of the file's
    assert peak(400) - peak(40) < 360 * 1000  # the prompts alone are 1,800 letters each


def test_the_command_on_sound_odd_and_broken_files(tmp_path: Path, model: Path, capsys):
    sound, odd = write(tmp_path, record(), name="sound.jsonl"), write(tmp_path, record(), record(), name="odd.jsonl")
    test = write(tmp_path, record(), name="test.jsonl")
    assert cli.main(["check", str(sound), str(odd), "--model", str(model), "--against", str(test)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{sound}\n  records ")
    assert "longer than 60" in out
    assert "warning: 1 of 2 examples repeat the prompt of an earlier one (first: line 2, that of line 1)" in out
    assert f"warning: 2 of 2 examples have the prompt of one in {test} (first: line 1, line 1)" in out
    broken, absent, report = write(tmp_path, record(), "[]", name="broken.jsonl"), tmp_path / "no.jsonl", tmp_path / "o"
    files = [str(broken), str(sound), str(absent)]
    assert cli.main(["check", *files, "--model", str(model), "--length", "9", "--json", str(report)]) == 2
    out, err = capsys.readouterr()
    assert f"first broken: {broken}, line 2: the record is not a JSON object (got 'a list of 0'). Write one" in out
    assert out.endswith(f"{absent}\n  not read: no such file\n")  # and no zeros
    assert err == f"error: {absent}: no such file. Check the path.\n"
    assert cli.main(["check", *files[:2], "--model", str(model)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {broken}: 1 of 2 records are broken.")
    content = json.loads(report.read_text())
    assert [one["usable"] for one in content["files"]] == [1, 1, 0]
    assert content["files"][0]["longer_than"]["--length"] == {"tokens": 9, "examples": 1}


@pytest.mark.parametrize(("arguments", "message"), [
    (("--length", "0"), "--length: not a length (got 0)"),
    (("--model", "nowhere"), "no such folder"),
    (("--json", "train.jsonl/inside"), "inside: the file cannot be written"),
])
def test_wrong_arguments_are_one_line(tmp_path: Path, model: Path, capsys, monkeypatch, arguments, message: str):
    write(tmp_path, record())
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check", "train.jsonl", "--model", str(model), *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_chat_messages_are_checked_with_the_template_of_the_model(tmp_path: Path, model: Path, capsys):
    messages = [{"role": "user", "content": "It is nine. When?"}]
    path = write(tmp_path, {"messages": messages, "answer": "nine", "needles": ["It is nine."]})
    assert cli.main(["check", str(path), "--model", str(model)]) == 2
    assert "key messages: the tokenizer has no chat template" in capsys.readouterr().out
    (model / "chat_template.jinja").write_text("{% for m in messages %}<bos>{{ m.content }}\n{% endfor %}A: ")
    assert cli.main(["check", str(path), "--model", str(model)]) == 0
    assert "warning" not in capsys.readouterr().out  # nothing is put between this prompt and the answer
