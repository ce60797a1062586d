"""`export` and `convert`: generated tasks and official files in the one format, read back as equal examples."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from official_samples import mdqa, musique, save, topic

from retrieval_heads import cli
from retrieval_heads.data import make_examples
from retrieval_heads.data.example import Example
from retrieval_heads.data.jsonl import read_examples
from retrieval_heads.data.official import load_mdqa, load_musique, load_summhay

LOADERS = {"mdqa": partial(load_mdqa, gold="in turn"), "musique": load_musique, "summhay": load_summhay}
RECORDS = {"mdqa": mdqa, "musique": musique, "summhay": topic}
REAL = {
    "mdqa": "nq-open-20_total_documents_gold_at_9.first300.jsonl.gz", "musique": "musique_ans_train_sample100.jsonl",
    "summhay": "topic_news1.json",
}
LIMITS = {"mdqa": 20, "musique": 20, "summhay": 3}  # a topic is 100 documents


def placeless(examples: list[Example]) -> list[Example]:
    """The examples without file and line, which say where each was read."""
    places = ("file", "line")
    return [replace(one, meta={key: value for key, value in one.meta.items() if key not in places}) for one in examples]


def run(*arguments: object) -> int:
    return cli.main(list(map(str, arguments)))


@pytest.mark.parametrize(("task", "condition"), [
    ("mdqa", "real"), ("musique", "symbolic"), ("summhay", "high_low"), ("mdqa", "real_shuffled"),
])
def test_exported_examples_are_those_of_make_examples(tmp_path: Path, capsys, task: str, condition: str):
    out = tmp_path / f"{condition}.jsonl.gz"
    assert run("export", "--task", task, "--condition", condition, "--length", 400, "--n", 3, "--seed", 2, "--split",
               "probe", "--out", out) == 0
    assert capsys.readouterr().out == f"{out}: 3 examples\n"
    made = make_examples(task=task, condition=condition, length=400, n=3, seed=2, split="probe")
    assert placeless(read_examples(out)) == placeless(made)


def test_export_counts_in_the_tokens_of_another_tokenizer(tmp_path: Path, tiny_tokenizer):
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    line = ("export", "--task", "mdqa", "--condition", "real", "--length", 900, "--n", 2)
    assert run(*line, "--tokenizer", tmp_path / "model", "--out", tmp_path / "a.jsonl") == 0
    made = make_examples(task="mdqa", condition="real", length=900, n=2, seed=0, tokenizer=tiny_tokenizer)
    assert placeless(read_examples(tmp_path / "a.jsonl")) == made


@pytest.mark.parametrize(("changes", "message"), [
    ({"--condition": "unreal"}, "unreal"), ({"--n": 0}, "--n: not a number of examples"), ({"--length": 20}, "length"),
    ({"--tokenizer": "nowhere"}, "nowhere"), ({"--out": "taken/a.jsonl"}, "the file cannot be written"),
])
def test_export_that_cannot_be_made_writes_nothing(tmp_path: Path, capsys, monkeypatch, changes: dict, message: str):
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("")
    sound = {"--task": "mdqa", "--condition": "real", "--length": 400, "--n": 2, "--out": "a.jsonl"}
    assert run("export", *(part for pair in (sound | changes).items() for part in pair)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("task", LOADERS)
def test_converted_files_are_read_as_what_the_loaders_give(tmp_path: Path, task: str):
    official, out = save(tmp_path, RECORDS[task]()), tmp_path / "out.jsonl"
    assert run("convert", task, official, "--out", out, "--drop-unusable") == 0
    examples = LOADERS[task](official, on_unusable="drop", dropped=Counter())
    assert examples
    assert placeless(read_examples(out)) == placeless(examples)
    needle = "sentence" if task == "summhay" else "answer"
    assert run("convert", task, official, "--out", out, "--limit", 1, "--needle", needle, "--n-documents", 2,
               "--instruction", "Read.") == 0
    [example] = read_examples(out)
    assert placeless([example]) == placeless(LOADERS[task](official, 1, needle=needle, n_documents=2,
                                                           instruction="Read."))


def test_unusable_records_are_refused_or_left_out_and_counted(tmp_path: Path, capsys):
    official, out = save(tmp_path, mdqa(), mdqa(answers=["Nobody"])), tmp_path / "out.jsonl"
    assert run("convert", "mdqa", official, "--out", out) == 2
    err = capsys.readouterr().err
    assert f"{official}, line 2, field answers: no answer stands in the gold passage (got ['Nobody'])" in err
    assert "Give --drop-unusable" in err
    assert not out.exists()
    assert run("convert", "mdqa", official, "--out", out, "--drop-unusable") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{out}: 1 examples", "left out 1 records: no answer stands in the gold passage",
    ]
    assert len(read_examples(out)) == 1


def test_a_file_of_another_task_is_one_error(tmp_path: Path, capsys):
    assert run("convert", "musique", save(tmp_path, mdqa()), "--out", tmp_path / "out.jsonl") == 2
    assert "official format" in capsys.readouterr().err
    assert run("convert", "summhay", save(tmp_path, topic()), "--needle", "answer", "--out", tmp_path / "o.jsonl") == 2
    assert "needle: unknown choice (got 'answer'). Give one of document, sentence" in capsys.readouterr().err


@pytest.mark.parametrize("task", REAL)
def test_real_files_convert_to_equal_examples(real_data: Path, tmp_path: Path, capsys, task: str):
    official, out = real_data / task / REAL[task], tmp_path / "out.jsonl.gz"
    assert run("convert", task, official, "--out", out, "--limit", LIMITS[task]) == 0
    assert placeless(read_examples(out)) == placeless(LOADERS[task](official, LIMITS[task]))
    assert run("check", out, "--model", Path(__file__).parents[1] / "models/base") == 0
    assert f"{LIMITS[task]}, {LIMITS[task]} usable" in capsys.readouterr().out


def many(tmp_path: Path, n: int = 24) -> Path:
    """A file of records whose gold passage is always the first."""
    return save(tmp_path, *(mdqa() for _ in range(n)))


def test_the_gold_passage_is_put_at_each_place_in_turn(tmp_path: Path, capsys):
    out = tmp_path / "out.jsonl"
    documents = len(mdqa()["ctxs"])
    assert run("convert", "mdqa", many(tmp_path), "--out", out) == 0
    gold = [one.meta["gold"] for one in read_examples(out)]
    assert gold[: 2 * documents] == [[place + 1] for place in range(documents)] * 2
    assert "warning" not in capsys.readouterr().out
    assert run("convert", "mdqa", many(tmp_path), "--out", out, "--n-documents", 2) == 0
    assert [one.meta["gold"] for one in read_examples(out)] == [[1], [2]] * 12
    assert all(one.answer in text for one in read_examples(out) for text in one.needle_texts())


def test_an_order_that_is_kept_is_warned_of(tmp_path: Path, capsys):
    out = tmp_path / "out.jsonl"
    assert run("convert", "mdqa", many(tmp_path), "--out", out, "--keep-order") == 0
    assert len({tuple(one.meta["gold"]) for one in read_examples(out)}) == 1
    assert "warning: 48 of 48 needles stand in the second document" in capsys.readouterr().out
    assert run("convert", "musique", save(tmp_path, musique()), "--out", out, "--keep-order") == 2
    assert "--keep-order: the other tasks keep their order anyway" in capsys.readouterr().err
