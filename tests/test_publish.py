"""Tables that come with the repository: packed or not, found, checked, and enough for a chapter."""

from __future__ import annotations

import gzip
import json

import pandas as pd
import pytest
from tiny_study import save_tiny_base, write_profile

from retrieval_heads import paths, store
from retrieval_heads.config import load_profile
from retrieval_heads.errors import ResultError
from retrieval_heads.stages import base, finetune, provide
from retrieval_heads.store import load_table


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A tiny profile whose base stage was run, and a results folder of its own."""
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setattr(paths, "results_folder", lambda profile: tmp_path / "results" / profile)
    profile = load_profile(write_profile(tmp_path / "tiny.yaml", save_tiny_base(tmp_path / "model")))
    base.run(profile)
    return profile


def test_published_tables_are_the_live_ones_packed_where_they_are_long(study, tmp_path, monkeypatch) -> None:
    live = load_table(study.name, "base")
    monkeypatch.setattr(store, "PACKED_FROM", 10)
    written = store.publish(study)
    assert {path.name for path in written} == {
        f"{name}.csv.gz" for name in ("base", "base_answers", "head_scores", "probe_loss")
    }
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "elsewhere"))
    pd.testing.assert_frame_equal(load_table(study.name, "base"), live)
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setattr(store, "PACKED_FROM", 2**20)
    assert {path.suffix for path in store.publish(study)} == {".csv"}
    assert not list((tmp_path / "results").rglob("*.gz"))


def test_a_published_table_that_was_changed_is_refused(study, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(store, "PACKED_FROM", 10)
    store.publish(study)
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "elsewhere"))
    path = store.find_committed(study.name, "base")
    text = gzip.decompress(path.read_bytes()).decode()
    path.write_bytes(gzip.compress(text.replace(",2\n", ",3\n").encode()))
    with pytest.raises(ResultError, match="not the one that its manifest describes"):
        load_table(study.name, "base")
    path.write_bytes(b"no gzip")
    with pytest.raises(ResultError, match="not a CSV table"):
        load_table(study.name, "base")


def test_nothing_to_publish_is_said(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path))
    with pytest.raises(ResultError, match=r"no tables to publish.*grid --profile smoke"):
        store.publish(load_profile("smoke"))


def test_a_stage_runs_only_where_its_tables_did_not_come_with_the_repository(study, tmp_path, monkeypatch) -> None:
    ran = []
    monkeypatch.setattr(base, "run", lambda profile: ran.append("base"))
    monkeypatch.setattr(finetune, "run", lambda profile: ran.append("finetune"))
    store.publish(study)
    provide.provide(study, "base")
    assert ran == ["base"], "what was begun on this machine goes on"
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "elsewhere"))
    provide.provide(study, "base")
    provide.provide(study, "finetune")
    assert ran == ["base", "finetune"]
    monkeypatch.setenv(provide.AS_IS, "1")
    provide.provide(study, "finetune")
    assert ran == ["base", "finetune"]


@pytest.mark.parametrize(("profile", "least"), [("report", 31), ("controls", 6), ("pretrained", 17)])
def test_every_committed_table_is_whole_and_follows_the_dictionary(profile, least, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path))  # not the tables of a run on this machine
    manifests = sorted((paths.checkout() / "results" / profile).glob("*.json"))
    assert len(manifests) >= least
    for manifest in manifests:
        made = json.loads(manifest.read_text(encoding="utf-8"))
        assert made["profile"] == profile
        assert len(load_table(profile, manifest.stem)) == made["rows"]
    tables = {path.name.split(".")[0] for path in manifests[0].parent.glob("*.csv*")}
    assert tables == {path.stem for path in manifests}


def test_the_data_dictionary_stands_beside_the_tables() -> None:
    assert (paths.checkout() / "results" / "README.md").read_text(encoding="utf-8") == store.readme()
