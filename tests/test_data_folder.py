"""Examples in files: `export` and `convert` write them, and a folder of them is read for what it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from official_samples import mdqa, musique, save, topic

from retrieval_heads import cli, paths
from retrieval_heads.config import load_profile
from retrieval_heads.data import make_examples
from retrieval_heads.data.example import Example
from retrieval_heads.data.folder import data_digest, held_out_file, training_file
from retrieval_heads.data.jsonl import read_examples, write_examples
from retrieval_heads.data.official import load_mdqa, load_musique, load_summhay
from retrieval_heads.errors import ConfigError, DataError, ResultError
from retrieval_heads.keys import RunKey
from retrieval_heads.manifest import Facts
from retrieval_heads.stages.common import (
    files_of,
    held_out,
    n_training_examples,
    sample_examples,
    study_tokenizer,
    training_examples,
)
from retrieval_heads.store import Store


@pytest.fixture
def profile(tmp_path):
    made = {"task": "mdqa", "length": 256, "n": 3}
    folder = tmp_path / "data" / "mine"
    write_examples(folder / "real.jsonl", make_examples(condition="real", seed=1, **made))
    write_examples(folder / "set.A.jsonl.gz", make_examples(condition="low_low", seed=1, **made))
    write_examples(folder / "held_out" / "test_256.jsonl", make_examples(condition="real", seed=2, **made))
    return load_profile(
        "smoke", data=str(tmp_path / "data"), tasks=["mine"], conditions=["real", "set.A"], n_train=3, n_test=2,
        train_length=256, eval_lengths=[256], lora={"batch_size": 1}, knockout={"n": 2}, patch={"n": 2},
        lengths={"n": 2},
    )


def test_stages_read_the_files_of_their_task_condition_and_length(profile) -> None:
    keys = [RunKey("smoke", "mine", name, 1, profile.base_names[0]) for name in profile.conditions]
    sets = {key.condition: list(training_examples(profile, key)) for key in keys}
    assert [len(examples) for examples in sets.values()] == [3, 3]
    assert sets["real"][0].meta["id"] == "mdqa-real-train-1-0"
    assert sets["set.A"][0].meta["id"] == "mdqa-low_low-train-1-0"
    tested = held_out(profile, "mine", "test")
    assert [one.meta["id"] for one in tested] == ["mdqa-real-train-2-0", "mdqa-real-train-2-1"]


def test_missing_and_short_files_are_named(profile) -> None:
    with pytest.raises(DataError, match=r"set\.B\.jsonl.*no such file of examples.*real\.jsonl"):
        next(training_file(files_of(profile), "mine", "set.B", 1))
    with pytest.raises(DataError, match=r"probe_256\.jsonl.*test_256\.jsonl"):
        held_out_file(files_of(profile), "mine", "probe", 256, 1)
    with pytest.raises(DataError, match=r"asks for 9 examples.*got 3"):
        list(training_file(files_of(profile), "mine", "real", 9))
    with pytest.raises(ConfigError, match=r"no such folder of examples.*prepare"):
        training_examples(profile.model_copy(update={"data": "/nowhere"}), RunKey("smoke", "mine", "real", 1, "base"))


def test_results_of_other_files_are_refused(profile, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "home"))
    own, other = (RunKey("smoke", "mine", name, 0, profile.base_names[0]) for name in profile.conditions)
    row = {**own.columns, "steps": 1, "tokens": 1, "first_loss": 1.0, "final_loss": 1.0}
    store = Store(profile)
    for run in (own, other):
        store.write_part("training", run, [{**row, **run.columns}], Facts())
    assert store.done("training", own)
    file = tmp_path / "data" / "mine" / "real.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace("Document", "Text", 1), encoding="utf-8")
    with pytest.raises(ResultError, match="made from other files of examples"):
        store.done("training", own)
    assert store.done("training", other)  # whose files are as they were


@pytest.fixture
def mixed(tmp_path, profile):
    """A profile whose mixtures, sizes and shuffled answers have no files."""
    made = {"task": "mdqa", "length": 256, "seed": 1}
    for name, n in (("real", 8), ("high_low", 4), ("low_high", 4), ("low_low", 16)):
        write_examples(tmp_path / "data" / "mine" / f"{name}.jsonl", make_examples(condition=name, n=n, **made))
    return profile.model_copy(update={"n_train": 4, "conditions": (
        "real", "high_low-low_high", "real_quarter", "low_low_4x", "real_shuffled", "real_short",
    )})


def _trained_on(profile, condition: str, seed: int = 1):
    key = RunKey("smoke", "mine", condition, seed, profile.base_names[0])
    found = list(training_examples(profile, key))
    n = n_training_examples(profile, key)
    assert found == list(training_file(files_of(profile), "mine", condition, n, seed, study_tokenizer(profile)))
    return found


def _numbered(condition: str, *indices: int) -> list[str]:
    return [f"mdqa-{condition}-train-1-{index}" for index in indices]


def test_mixtures_and_sizes_without_a_file_are_made_of_their_members(mixed) -> None:
    ids = {name: [one.meta["id"] for one in _trained_on(mixed, name)] for name in mixed.conditions[1:4]}
    assert ids == {
        "high_low-low_high": [id_ for index in (0, 1, 2, 3)
                              for id_ in _numbered(("high_low", "low_high")[index % 2], index)],
        "real_quarter": _numbered("real", 0), "low_low_4x": _numbered("low_low", *range(16)),
    }


def test_shuffled_answers_without_a_file_are_those_of_the_real_examples(mixed) -> None:
    real, shuffled = _trained_on(mixed, "real"), _trained_on(mixed, "real_shuffled")
    assert [one.prompt for one in shuffled] == [one.prompt for one in real]
    assert sorted(one.answer for one in shuffled) == sorted(one.answer for one in real)
    assert all(one.answer != other.answer for one, other in zip(shuffled, real, strict=True))
    assert shuffled == _trained_on(mixed, "real_shuffled")
    assert any(_trained_on(mixed, "real_shuffled", seed) != shuffled for seed in (2, 3, 4, 5))


def test_a_file_of_its_own_comes_first(mixed, tmp_path) -> None:
    before = data_digest(mixed.data, "mine", "real_quarter")
    write_examples(tmp_path / "data" / "mine" / "real_quarter.jsonl.gz",
                   make_examples(task="mdqa", length=256, condition="symbolic", n=1, seed=1))
    assert [one.meta["id"] for one in _trained_on(mixed, "real_quarter")] == _numbered("symbolic", 0)
    assert data_digest(mixed.data, "mine", "real_quarter") != before


def test_what_cannot_be_made_of_the_members_is_told(mixed, tmp_path) -> None:
    with pytest.raises(DataError, match=r"real_short\.jsonl.*cannot be made of long ones.*--short-length"):
        _trained_on(mixed, "real_short")
    (tmp_path / "data" / "mine" / "low_high.jsonl").unlink()
    with pytest.raises(DataError, match=r"low_high\.jsonl.*no such file"):
        _trained_on(mixed, "high_low-low_high")
    with pytest.raises(DataError, match=r"asks for 20 examples.*got 16"):
        list(training_file(files_of(mixed), "mine", "low_low_4x", 20))


def test_the_digest_of_a_made_condition_covers_its_members(mixed, tmp_path) -> None:
    names = ("real", "high_low-low_high", "low_low_4x", "real_shuffled")
    before = {name: data_digest(mixed.data, "mine", name) for name in names}
    assert len({before[name] for name in names[:3]}) == 3
    assert before["real"] == before["real_shuffled"]  # the same files; the run's key tells the two apart
    changed = {"low_high": ["high_low-low_high"], "low_low": ["low_low_4x"], "real": ["real", "real_shuffled"]}
    for file, affected in changed.items():
        path = tmp_path / "data" / "mine" / f"{file}.jsonl"
        path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
        now = {name: data_digest(mixed.data, "mine", name) for name in names}
        assert [name for name in names if now[name] != before[name]] == affected
        before = now


def test_only_conditions_with_a_file_are_shown(mixed) -> None:
    assert list(sample_examples(mixed, "mine")) == ["real"]


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
