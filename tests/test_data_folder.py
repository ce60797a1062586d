"""A folder of examples in files: which file is read for what, and what is said of a missing or short one."""

from __future__ import annotations

import pytest

from retrieval_heads import paths
from retrieval_heads.config import load_profile
from retrieval_heads.data import make_examples
from retrieval_heads.data.folder import data_digest, held_out_file, training_file
from retrieval_heads.data.jsonl import write_examples
from retrieval_heads.errors import ConfigError, DataError, ResultError
from retrieval_heads.keys import RunKey
from retrieval_heads.manifest import Facts
from retrieval_heads.stages.common import files_of, held_out, n_training_examples, sample_examples, training_examples
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
    store = Store.open(profile)
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
    assert found == list(training_file(files_of(profile), "mine", condition, n, seed))
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
