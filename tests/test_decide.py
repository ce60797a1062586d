"""The stage `decide`: from raw tables on disk to derived tables and verdicts, also from a part of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pretrained_tables import answers, heads, knockouts, probe_losses

from retrieval_heads.claims.pretrained import judge as rules
from retrieval_heads.claims.pretrained.judge import judge
from retrieval_heads.config import load_profile
from retrieval_heads.keys import table_path
from retrieval_heads.manifest import Facts, sha256, write_manifest
from retrieval_heads.stages import claims
from retrieval_heads.store import derived_tables, load_table
from retrieval_heads.tables import get_table, read_table, to_csv

NAMES = ("real", "high_high", "low_low", "symbolic")
LOSSES = {"conditions": ["real"], "k": [3, 7, 14], "draws": 2, "n": 4}


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRIEVAL_HEADS_HOME", str(tmp_path))
    monkeypatch.setattr(rules, "judge", lambda tables: judge(tables, n_resamples=400))
    return load_profile("smoke", gold_loss=LOSSES, n_test=4)


def write(profile, tables) -> None:
    for name, rows in tables.items():
        path = table_path(profile.name, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = [column.name for column in get_table(name).columns]
        for column in columns:
            if column not in rows and not get_table(name).columns[columns.index(column)].absent:
                rows = rows.assign(**{column: 0.0})
        path.write_bytes(to_csv(rows[[column for column in columns if column in rows]]))
        write_manifest(path.with_suffix(".json"), Facts(), table=name, profile=profile.name, config_hash="",
                       base_digest=None, sha256=sha256(path.read_bytes()), rows=len(rows))


def test_tables_on_disk_give_the_verdicts_that_the_rules_give(profile) -> None:
    rng = np.random.default_rng(3)
    tables = answers(rng, {name: 0.2 if name == "real" else 0.05 for name in NAMES}, n=100)
    tables |= heads(rng, {name: (1.0, 0.0) for name in NAMES}, n=20)
    tables |= {"probe_loss": probe_losses(rng, dict.fromkeys(NAMES, 1.0)),
               "knockout_losses": knockouts(rng, dict.fromkeys(
                   ("retrieval", "random_layer", "random_group", "random_zero"), 0.1), n=20)}
    write(profile, tables)
    paths = claims.judge(profile)
    assert [path.stem for path in paths] == [*rules.DERIVED, "verdicts"]
    found = read_table("verdicts", paths[-1])
    expected = {(one.claim, one.task): one.verdict for one in rules.judge(tables)[1]}
    assert dict(zip(zip(found["claim"], found["task"], strict=True), found["verdict"], strict=True)) == expected
    assert set(found["claim"]) == {"C1", "C2", "C3", "C4", "C5"}
    assert "Not known" in found.set_index(["claim", "task"]).loc[("C5", "mdqa"), "detail"]  # nothing was patched
    assert len(read_table("contrasts", paths[0])) == 4 * len(NAMES)


def test_what_follows_from_the_tables_of_the_repository_is_made_again_without_the_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RETRIEVAL_HEADS_HOME", str(tmp_path))
    profile = load_profile("pretrained")
    committed = {name: load_table(profile.name, name) for name in derived_tables(profile)}
    assert set(committed) == {*rules.DERIVED, "verdicts"}
    for path in claims.judge(profile):
        pd.testing.assert_frame_equal(load_table(profile.name, path.stem), committed[path.stem])


def test_nothing_is_decided_before_there_are_runs_and_nothing_is_made_for_other_profiles(profile) -> None:
    assert len(read_table("verdicts", claims.judge(profile)[-1])) == 0
    assert claims.run_decide(load_profile("smoke")) == []
