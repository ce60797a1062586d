"""Result files: whole or not at all, made once, never mixed with those of other settings."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_heads import files, manifest, paths
from retrieval_heads.config import load_profile
from retrieval_heads.errors import ResultError
from retrieval_heads.files import write_whole
from retrieval_heads.keys import RunKey, study_grid, table_path
from retrieval_heads.manifest import Facts
from retrieval_heads.settings import Profile
from retrieval_heads.store import Store, load_table
from retrieval_heads.tables import all_tables, conform, dictionary_markdown, read_table, to_csv

KEY = RunKey("report", "mdqa", "real", 0, "base")
ROW = {"task": "mdqa", "condition": "real", "seed": 0, "base": "base", "eval_length": 512, "metric": "f1", "value": 0.1,
       "low": 0.0, "high": 0.5, "n": 10}


@pytest.fixture
def store(tmp_path: Path, monkeypatch) -> Store:
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path))
    return Store(study())


def study(**overrides) -> Profile:
    conditions = ["real", "real_limited", "high_high", "high_low", "low_high", "low_low", "symbolic"]
    settings = {"seeds": [0, 1], "conditions": conditions, "bases": ["nowhere/base"], **overrides}
    return load_profile("report", **settings)


def test_done_work_is_skipped_and_damaged_work_is_not(store: Store) -> None:
    assert store.todo("performance", [KEY]) == [KEY]
    path = store.write_part("performance", KEY, [ROW], Facts())
    assert store.todo("performance", [KEY]) == []
    path.write_bytes(path.read_bytes() + b"x")
    assert store.todo("performance", [KEY]) == [KEY]
    path.unlink()
    assert store.todo("performance", [KEY]) == [KEY]
    with pytest.raises(ResultError, match=r"not made yet.*run finetune --profile report"):
        store.read_part("performance", KEY)


def test_work_of_other_settings_or_another_base_is_refused_with_the_folder_to_delete(store: Store) -> None:
    store.write_part("performance", KEY, [ROW], Facts())
    other = Store(study(rope_theta=1e6))
    for call in (other.done, other.read_part):
        with pytest.raises(ResultError, match=r"other settings.*Delete the folder runs/report/parts/performance"):
            call("performance", KEY)
    with pytest.raises(ResultError, match=r"from another base model"):
        Store(store.profile, {"base": "0123456789abcdef"}).todo("performance", [KEY])
    # what does not matter to the fine-tuning does not spoil it
    assert Store(study(knockout={"draws": 1}, workers=1)).done("performance", KEY)


def test_merge_sorts_adds_up_and_lists_what_is_absent(store: Store) -> None:
    keys = study_grid(store.profile, task="mdqa", seed=0)[:3]
    for key in reversed(keys[:2]):
        facts = Facts(seconds=1.5, device="cpu", seeds=(key.seed,), used=9, dropped={"too long": 1})
        store.write_part("performance", key, [ROW | key.columns], facts)
    with pytest.raises(ResultError, match=r"1 of 3 parts are not made.*high_high.*run finetune"):
        store.merge("performance", keys)
    path = store.merge("performance", keys, partial=True)
    assert path == table_path("report", "performance")
    assert load_table("report", "performance")["condition"].tolist() == ["real", "real_limited"]
    made = json.loads(path.with_suffix(".json").read_text())
    assert (made["parts"], made["absent"]) == (2, [keys[2].name])
    assert (made["seconds"], made["used"], made["dropped"], made["seeds"]) == (3.0, 18, {"too long": 2}, [0])
    with pytest.raises(ResultError, match=r"1 of 1 parts"):
        store.merge("performance", keys[2:], partial=True)


def test_a_merged_table_names_the_versions_of_parts_that_were_made_elsewhere(store: Store) -> None:
    keys = study_grid(store.profile, task="mdqa", seed=0)[:2]
    written = [store.write_part("performance", key, [ROW | key.columns], Facts()).with_suffix(".json") for key in keys]
    assert "parts_made" not in json.loads(store.merge("performance", keys).with_suffix(".json").read_text())
    made = json.loads(written[0].read_text())
    written[0].write_text(json.dumps(made | {"versions": {"torch": "0.1"}, "git": None}))
    parts = json.loads(store.merge("performance", keys).with_suffix(".json").read_text())["parts_made"]
    assert [one["parts"] for one in parts] == [1, 1]
    assert {"versions": {"torch": "0.1"}, "git": None, "parts": 1} in parts


def test_a_part_may_be_another_unit_than_a_run(store: Store) -> None:
    row = {key: value for key, value in ROW.items() if key != "seed"} | {"condition": "base", "low": None, "high": None}
    store.write_part("base", "mdqa", [row], Facts())
    assert store.done("base", "mdqa")
    assert np.isnan(store.read_part("base", "mdqa").loc[0, "low"])


def test_the_manifest_says_what_made_the_table_and_names_no_machine(store: Store, tmp_path: Path) -> None:
    path = store.write_part("performance", KEY, [ROW], Facts(device=manifest.device_name("cpu"), seeds=(0,)))
    text = path.with_suffix(".json").read_text()
    made = json.loads(text)
    assert {"python", "torch", "transformers", "peft", "retrieval-heads"} <= set(made["versions"])
    assert made["sha256"] == manifest.sha256(path.read_bytes())
    assert len(made["git"]["commit"]) == 40 if made["git"] else (paths.checkout() / ".git").exists() is False
    assert (made["profile"], made["part"], made["table"], made["rows"]) == ("report", KEY.name, "performance", 1)
    for private in (str(tmp_path), str(Path.home()) + "/", str(paths.checkout())):
        assert private not in text


def test_a_broken_manifest_is_named(store: Store) -> None:
    path = store.write_part("performance", KEY, [ROW], Facts()).with_suffix(".json")
    for text in ("{", "[]", "{}"):
        path.write_text(text)
        with pytest.raises(ResultError, match=r"parts/performance/.*\.json: not a manifest.*Delete it"):
            store.done("performance", KEY)


def test_a_table_changed_by_hand_is_not_shown(store: Store) -> None:
    with pytest.raises(ResultError, match=r"tables/performance\.csv: no such table.*run finetune"):
        load_table("report-none", "performance")
    store.write_part("performance", KEY, [ROW], Facts())
    path = store.merge("performance", [KEY])
    path.write_text(path.read_text().replace("0.1", "0.9"))
    with pytest.raises(ResultError, match=r"not the one that its manifest describes.*Make it again"):
        load_table("report", "performance")


def test_committed_tables_are_read_where_there_is_no_live_one(store: Store, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(paths, "results_folder", lambda profile: tmp_path / "results" / profile)
    store.write_part("performance", KEY, [ROW], Facts())
    path = store.merge("performance", [KEY])
    committed = tmp_path / "results" / "report"
    committed.mkdir(parents=True)
    for one in (path, path.with_suffix(".json")):
        one.rename(committed / one.name)
    assert load_table("report", "performance")["value"].tolist() == [0.1]


@pytest.mark.parametrize(("change", "message"), [
    ({"value": None}, r"column value: row 1 has no value"),
    ({"value": float("inf")}, r"column value: not a finite number \(got inf\)"),
    ({"value": "high"}, r"column value: not a finite number \(got 'high'\)"),
    ({"value": True}, r"column value: not a finite number \(got True\)"),
    ({"n": 1.5}, r"column n: not a whole number \(got 1\.5\)"),
    ({"n": True}, r"column n: not a whole number \(got True\)"),
    ({"task": 3}, r"column task: not text without control characters \(got 3\)"),
    ({"task": "a\rb"}, r"column task: not text without control characters \(got 'a\\rb'\)"),
    ({"task": ""}, r"column task: not text without control characters \(got ''\)"),
    ({"extra": 1}, r"missing \[\], unknown \['extra'\]"),
])
def test_rows_outside_the_data_dictionary_are_refused_and_nothing_is_written(store: Store, change, message) -> None:
    with pytest.raises(ResultError, match=message):
        store.write_part("performance", KEY, [ROW | change], Facts())
    assert not list(paths.home().rglob("*.csv"))


def test_rows_with_a_missing_column_or_one_key_are_refused() -> None:
    with pytest.raises(ResultError, match=r"missing \['n'\], unknown \[\]"):
        conform("performance", [{key: value for key, value in ROW.items() if key != "n"}])
    with pytest.raises(ResultError, match=r"two rows have one key \(got {'task': 'mdqa'"):
        conform("performance", [ROW, ROW | {"value": 0.7}])
    with pytest.raises(ResultError, match=r"unknown table.*'performances'.*performance"):
        conform("performances", [ROW])


def test_no_rows_are_a_table_too(tmp_path: Path) -> None:
    path = tmp_path / "performance.csv"
    path.write_bytes(to_csv(conform("performance", [])))
    assert read_table("performance", path).columns.tolist() == list(ROW)
    path.write_bytes(b"")
    with pytest.raises(ResultError, match=r"performance\.csv: not a CSV table"):
        read_table("performance", path)


@settings(max_examples=40, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.text(st.characters(codec="utf-8")).filter(str.isprintable),
       st.integers(-2**63, 2**63 - 1))
def test_values_survive_the_file_exactly(value: float, text: str, number: int) -> None:
    frame = conform("performance", [ROW | {"value": value, "metric": f"m{text}", "n": number}])
    content = to_csv(frame)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        path.write_bytes(content)
        again = read_table("performance", path)
    pd.testing.assert_frame_equal(again, frame, check_exact=True)
    assert to_csv(again) == content


def test_text_that_looks_empty_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(to_csv(conform("performance", [ROW | {"metric": name} for name in ("NA", "None", "nan")])))
    assert read_table("performance", path)["metric"].tolist() == ["NA", "None", "nan"]


def test_the_order_of_rows_and_their_number_types_do_not_change_the_file() -> None:
    rows = [ROW | {"seed": seed} for seed in (2, 0, 1)]
    typed = pd.DataFrame(rows[::-1]).astype({"seed": "int32", "value": "float64"})
    assert to_csv(conform("performance", rows)) == to_csv(conform("performance", typed))
    assert b"0.1," in to_csv(conform("performance", rows))


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "sub" / "file.txt"
    write_whole(path, b"old")
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(ResultError, match="disk full"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [one.name for one in path.parent.iterdir()] == ["file.txt"]


def test_leftovers_of_dead_processes_are_removed_and_those_of_living_ones_kept(tmp_path: Path) -> None:
    finished = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    dead, living = (tmp_path / f".file.txt.{process}.tmp" for process in (finished.stdout.strip(), 1))
    for path in (dead, living):
        path.write_bytes(b"half")
    write_whole(tmp_path / "file.txt", b"whole")
    assert not dead.exists()
    assert living.exists()


def test_the_data_dictionary_describes_every_column_in_words() -> None:
    text = dictionary_markdown()
    for table in all_tables().values():
        assert f"## `{table.name}`" in text
        assert table.key, table.name
        assert [column.key for column in table.columns] == sorted((c.key for c in table.columns), reverse=True)
        for column in table.columns:
            assert column.meaning
            assert column.type in ("str", "int", "float", "bool")
            assert f"| `{column.name}` |" in text
