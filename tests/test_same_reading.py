"""`check`, `diagnose` and `rank` read files alike: what one refuses the others refuse, and no day changes a prompt."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
from tiny_study import save_tiny_base
from transformers.utils import chat_template_utils

from retrieval_heads.cli import main
from retrieval_heads.diagnose import Request
from retrieval_heads.diagnose.inputs import read_inputs
from retrieval_heads.errors import ConfigError

TEMPLATE = ("{{ strftime_now('%d %b %Y') }}{% for m in messages %}|{{ m.role }}|{{ m.content }}{% endfor %}|model|"
            "{% if not enable_thinking %}no thoughts|{% endif %}")
PROMPT = "Document 1: a\nPrices rose {}.\nQuestion: Which {}?\nAnswer:"


def record(number: int, **changes) -> dict:
    prompt = PROMPT.format(number, number)
    return {"task": "summhay", "prompt": prompt, "answer": "1", "needles": [f"Prices rose {number}."]} | changes


def chat(number: int, **changes) -> dict:
    messages = [{"role": "user", "content": PROMPT.format(number, number)}]
    return {key: value for key, value in record(number, **{"messages": messages} | changes).items() if key != "prompt"}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alike") / "base"
    save_tiny_base(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def write(folder: Path, last: dict, of=record) -> Path:
    path = folder / "own.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in (*(of(number) for number in range(3)), last)))
    return path


def verbs(base: Path, path: Path, out: Path, *more: str) -> dict[str, list[str]]:
    model = ["--model", str(base), *more]
    return {
        "check": ["check", str(path), *model],
        "diagnose": ["diagnose", "--train", f"A={path}", "--eval", str(path), "--out", str(out), *model],
        "rank": ["rank", "--train", f"A={path}", "--train", f"B={path}", "--probe", str(path), "--out", str(out),
                 *model],
    }


@pytest.mark.parametrize("last", [
    record(3, answer="the first"), record(3, answers=["1", "none"]), record(3, answer="1<eos>"),
    record(3, prompt="A <eos> b.\nQuestion: Which?\nAnswer:", needles=[]), record(3, needles=["not there"]),
    record(3, chat_template={"end": "<|im_end|>"}), chat(3, chat_template={"arguments": {"warmth": 1}}),
    chat(3, messages=[{"role": "user", "content": "A <eos> b."}], needles=[]),
])
def test_what_one_verb_refuses_all_refuse(base: Path, tmp_path: Path, capsys, last: dict):
    path = write(tmp_path, last)
    calls = verbs(base, path, tmp_path / "out")
    if "answers" in last or last["answer"] == "the first":
        del calls["rank"]  # it needs no answer that can be scored
    for verb, call in calls.items():
        assert main(call) == 2, verb
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert "line 4" in out + err or "own.jsonl:4" in out + err, verb
    assert not (tmp_path / "out").exists()


def test_a_file_of_several_tasks_is_told_by_check_and_refused_as_real_examples(base: Path, tmp_path: Path, capsys):
    calls = verbs(base, write(tmp_path, record(3, task="mdqa", answer="rose")), tmp_path / "out")
    assert main(calls.pop("check")) == 0
    assert "warning: the examples are of several tasks (mdqa, summhay)" in capsys.readouterr().out
    for verb, call in calls.items():
        assert main(call) == 2, verb
        assert "own.jsonl: examples of several tasks (got ['mdqa', 'summhay'])" in capsys.readouterr().err


def test_template_arguments_that_no_template_reads_are_refused_by_all(base: Path, tmp_path: Path, capsys):
    path = write(tmp_path, record(3))
    cases = {'{"warmth": 1}': "warmth: the chat template does not read it", "[1]": "not a JSON object"}
    for given, message in cases.items():
        for call in verbs(base, path, tmp_path / "out", "--template-arguments", given).values():
            assert main(call) == 2
            assert message in capsys.readouterr().err


def test_prompts_are_those_of_any_other_day_and_arguments_are_recorded(base: Path, tmp_path: Path, monkeypatch):
    path = write(tmp_path, chat(3), chat)

    def read(**changes) -> tuple[list, list[str], dict]:
        request = Request(str(base), {"A": path}, path, tmp_path / "out", **changes)
        inputs = read_inputs(request)
        return list(inputs.encoded["A"]), [one.prompt for one in inputs.test], request.record("base")

    first = read()
    assert first[1][0].startswith("26 Jul 2024|user|")
    assert first[1][0].endswith("|model|no thoughts|")

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 1, 1)

    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    assert read() == first
    told = read(template_arguments={"enable_thinking": True, "strftime_now": "2025-03-04"})
    assert told[1][0].startswith("04 Mar 2025|user|")
    assert told[1][0].endswith("|model|")
    assert told[2] == first[2] | {"template_arguments": {"enable_thinking": True, "strftime_now": "2025-03-04"}}
    with pytest.raises(ConfigError, match="enable: the chat template does not read it"):
        read(template_arguments={"enable": 1})
