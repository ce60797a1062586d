"""A folder of examples in files: which file is read for what, and what is said of a missing or short one."""

from __future__ import annotations

import pytest

from retrieval_heads import paths
from retrieval_heads.config import load_profile
from retrieval_heads.data import make_examples
from retrieval_heads.data.folder import held_out_file, training_file
from retrieval_heads.data.jsonl import write_examples
from retrieval_heads.errors import ConfigError, DataError, ResultError
from retrieval_heads.keys import RunKey
from retrieval_heads.manifest import Facts
from retrieval_heads.stages.common import held_out, training_examples
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
    base = profile.base_names[0]
    sets = {name: training_examples(profile, RunKey("smoke", "mine", name, 1, base)) for name in profile.conditions}
    assert [len(examples) for examples in sets.values()] == [3, 3]
    assert sets["real"][0].meta["id"] == "mdqa-real-train-1-0"
    assert sets["set.A"][0].meta["id"] == "mdqa-low_low-train-1-0"
    tested = held_out(profile, "mine", "test")
    assert [one.meta["id"] for one in tested] == ["mdqa-real-train-2-0", "mdqa-real-train-2-1"]


def test_missing_and_short_files_are_named(profile) -> None:
    with pytest.raises(DataError, match=r"set\.B\.jsonl.*no such file of examples.*real\.jsonl"):
        training_file(profile, "mine", "set.B", 1)
    with pytest.raises(DataError, match=r"probe_256\.jsonl.*test_256\.jsonl"):
        held_out_file(profile, "mine", "probe", 256, 1)
    with pytest.raises(DataError, match=r"asks for 9 examples.*got 3"):
        training_file(profile, "mine", "real", 9)
    with pytest.raises(ConfigError, match=r"no such folder of examples.*prepare"):
        training_file(profile.model_copy(update={"data": "/nowhere"}), "mine", "real", 1)


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
