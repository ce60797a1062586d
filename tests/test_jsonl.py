"""The format of examples: what is read, what is refused and how, what its schema says, what writing keeps."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from retrieval_heads.data import make_examples
from retrieval_heads.data.example import Example
from retrieval_heads.data.jsonl import SCHEMA, each_example, iterate_examples, read_examples, write_examples
from retrieval_heads.errors import DataError, ResultError

ROOT = Path(__file__).parents[1]
SOUND = {"prompt": "The pier opens at nine. When?", "answer": "nine", "needles": ["The pier opens at nine."]}
VALIDATOR = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))


class Chat:
    """A tokenizer's chat template, as far as reading needs one."""

    chat_template = "given"

    def apply_chat_template(self, messages, tokenize: bool, add_generation_prompt: bool) -> str:
        assert (tokenize, add_generation_prompt) == (False, True)
        return "".join(f"<{one['role']}>{one['content']}" for one in messages) + "<assistant>"


def write(folder: Path, *records: object, name: str = "own.jsonl") -> Path:
    path = folder / name
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records))
    return path


def without_place(example: Example) -> Example:
    """The example without what says where it was read."""
    return replace(example, meta={key: value for key, value in example.meta.items() if key not in ("file", "line")})


def test_keys_and_what_stands_in_for_missing_ones(tmp_path: Path):
    path = write(
        tmp_path, SOUND, {**SOUND, "answers": ["9", "nine"], "task": "mdqa", "id": "b", "note": [1], "joint": ""},
        {"prompt": SOUND["prompt"], "answers": ["nine", "9"], "needles": [[18, 22], [0, 3]]},
    )
    first, second, third = read_examples(path)
    assert (first.task, first.prompt, first.answers, first.joint) == ("own", SOUND["prompt"], ("nine",), " ")
    assert first.meta == {"id": "own.jsonl:1", "file": "own.jsonl", "line": 1}
    assert (second.answer, second.answers, second.task, second.joint) == ("nine", ("nine", "9"), "mdqa", "")
    assert second.meta == {"id": "b", "note": [1], "file": "own.jsonl", "line": 2}
    assert (third.answer, third.needle_texts()) == ("nine", ("The", "nine"))
    assert [example.task for example in read_examples(path, task="other", limit=2)] == ["other", "mdqa"]


def test_messages_are_written_out_by_the_template(tmp_path: Path):
    messages = [{"role": "user", "content": SOUND["prompt"]}]
    path = write(tmp_path, {"messages": messages, "answer": "nine", "needles": SOUND["needles"]})
    [example] = read_examples(path, tokenizer=Chat())
    assert example.text == f"<user>{SOUND['prompt']}<assistant>nine"
    assert example.needle_texts() == tuple(SOUND["needles"])
    with pytest.raises(DataError, match=r"key messages: .* none was given .* Pass `tokenizer=`"):
        read_examples(path)


BROKEN = {
    "no prompt": ({"prompt": None}, "key prompt: `prompt` is not a text", "JSON string"),
    "both": ({"messages": []}, "key prompt: needs either `prompt` or `messages`", "Give the text"),
    "empty prompt": ({"prompt": " ", "needles": []}, "the prompt is empty", "non-empty prompt"),
    "no answer": ({"answer": ...}, "key answer: the record has no answer", "Give `answer`"),
    "no text": ({"answer": 9}, "key answer: `answer` is not a text (got 9)", "JSON string"),
    "half a character": ({"answer": "\ud83d"}, "key answer: `answer` is not a text", "JSON string"),
    "no list": ({"needles": "The pier opens at nine."}, "key needles: `needles` is not a list", "JSON list"),
    "no span": ({"needles": [[0, 1.5]]}, "key needles[0]: the needle is not a span", "two whole numbers"),
    "lost": ({"needles": ["The pier", "at ten"]}, "key needles[1]: the needle is not in the prompt", "letter for"),
    "twice": ({"needles": ["pe"], "prompt": "pepe?"}, "key needles[0]: the needle stands in the prompt more", "a span"),
    "itself": ({"needles": ["aa"], "prompt": "aaa?"}, "key needles[0]: the needle stands in the prompt more", "a span"),
    "outside": ({"needles": [[3, 99]]}, "needle span outside the prompt", "disjoint (start, end)"),
    "overlap": ({"needles": [[0, 5], [4, 8]]}, "needle span outside the prompt", "disjoint (start, end)"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_record_names_line_key_value_and_remedy(tmp_path: Path, name: str):
    changes, problem, remedy = BROKEN[name]
    record = {key: value for key, value in (SOUND | changes).items() if value is not ...}
    path = write(tmp_path, SOUND, record)
    with pytest.raises(DataError) as caught:
        read_examples(path)
    assert str(caught.value).startswith(f"{path}, line 2")
    assert problem in str(caught.value)
    assert remedy in caught.value.remedy
    assert len(list(zip(range(1), iterate_examples(path), strict=False))) == 1  # the sound one before it is handed out


def test_a_file_is_read_to_its_end_whatever_is_broken_in_it(tmp_path: Path):
    path = write(tmp_path, SOUND, '{"prompt": "cut', "", "[1]", {"answer": "nine"}, "\x00", {**SOUND, "id": "last"})
    path.write_bytes(path.read_bytes() + b'{"prompt": "\xff"}\n' + json.dumps(SOUND).encode())
    outcomes = list(each_example(path))
    good = [one for one in outcomes if isinstance(one, Example)]
    bad = [str(one) for one in outcomes if isinstance(one, DataError)]
    assert [example.meta["line"] for example in good] == [1, 7, 9]
    assert [int(re.search(r", line (\d+)", text)[1]) for text in bad] == [2, 4, 5, 6, 8]
    assert "Write one whole JSON object per line." in bad[0]


@pytest.mark.parametrize(("name", "content", "message"), [
    ("empty.jsonl", b"\n\n", "the file holds no record"),
    # without the time, by which the processes of xdist would name it differently
    ("cut.jsonl.gz", gzip.compress(json.dumps(SOUND).encode() * 50, mtime=0)[:60], "the gzip stream is damaged"),
    ("array.json", f"[{json.dumps(SOUND)}, ".encode(), "the record breaks off"),
])
def test_what_makes_a_file_unreadable_is_its_last_outcome(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    *before, last = each_example(tmp_path / name)
    assert all(isinstance(one, Example) for one in before)
    assert isinstance(last, DataError)
    assert message in str(last)
    [missing] = each_example(tmp_path / "absent.jsonl")
    assert "no such file" in str(missing)


@pytest.mark.parametrize("name", ["own.jsonl", "own.jsonl.gz"])
def test_what_was_written_is_read_as_equal_examples(tmp_path: Path, name: str):
    examples = [
        *(one for task in ("mdqa", "musique", "summhay")
          for one in make_examples(task=task, condition="real", length=400, n=2, seed=1)),
        Example("own", "Ünïcode \u2028 🙂:\n", "ja", ("ja", "si"), ((0, 7),), {"id": "x", "note": {"a": None}}, ""),
    ]
    path = tmp_path / name
    assert write_examples(path, iter(examples)) == len(examples)
    assert [without_place(one) for one in read_examples(path)] == examples
    content = path.read_bytes()
    write_examples(path, read_examples(path))
    assert path.read_bytes() == content


def test_half_a_character_in_other_keys_survives(tmp_path: Path):
    path = write(tmp_path, {**SOUND, "note": "\ud83d"})
    write_examples(tmp_path / "again.jsonl", read_examples(path))
    assert read_examples(tmp_path / "again.jsonl")[0].meta["note"] == "\ud83d"


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path):
    path = write(tmp_path, SOUND, {"answer": "nine"})
    with pytest.raises(DataError, match="line 2"):
        write_examples(tmp_path / "copy.jsonl.gz", iterate_examples(path))
    assert sorted(tmp_path.iterdir()) == [path]
    with pytest.raises(ResultError, match=r"the file cannot be written.*Give a place"):
        write_examples(path / "inside.jsonl", [])


@pytest.mark.parametrize("name", [name for name in BROKEN if name not in ("half a character", "outside", "overlap")])
def test_the_schema_refuses_what_the_reader_refuses_by_its_form(name: str):
    record = {key: value for key, value in (SOUND | BROKEN[name][0]).items() if value is not ...}
    seen_in_the_prompt = name in ("lost", "twice", "itself")
    assert VALIDATOR.is_valid(record) == seen_in_the_prompt


def test_the_examples_of_the_page_and_of_the_module_are_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = (ROOT / "book/data_format.md").read_text(encoding="utf-8")
    records = re.findall(r"```json\n(\{.*?\})\n```", page)
    assert len(records) == 4
    path = write(tmp_path, *records, name="page.jsonl")
    assert all(example.needles for example in read_examples(path, tokenizer=Chat()))
    assert all(VALIDATOR.is_valid(json.loads(record)) for record in records)
    assert read_examples(path, limit=2)[1].needle_texts() == ("Ada wrote Tides.", "Ada was born in Oslo.")
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    variables: dict = {}
    exec(code, variables)
    assert [example.needle_texts() for example in variables["examples"]] == [("The pier opens at nine.",)]


def test_exported_records_fit_the_schema(tmp_path: Path):
    path = tmp_path / "all.jsonl"
    write_examples(path, make_examples(task="musique", condition="symbolic", length=300, n=3, seed=0))
    for line in path.read_text().splitlines():
        VALIDATOR.validate(json.loads(line))
