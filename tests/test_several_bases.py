"""A study of several base models: every run from each of them, each kept apart, and one added without harm."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_study import save_tiny_base, write_profile

from retrieval_heads import bases, cli, paths
from retrieval_heads.bases import base_digest, base_path
from retrieval_heads.claims.shortfall import shortfall
from retrieval_heads.config import load_profile
from retrieval_heads.errors import ConfigError, ModelError
from retrieval_heads.figures.interval_tables import in_run_order
from retrieval_heads.figures.page import table_html
from retrieval_heads.keys import RUN, Options, RunKey, study_grid
from retrieval_heads.settings import Profile
from retrieval_heads.stages import base, correlate, detect, finetune
from retrieval_heads.stages.findings import retrieval_counts
from retrieval_heads.stats.resample import bootstrap_crossed
from retrieval_heads.store import Store, load_table

COMPUTED = ((base, "score_control"), (base, "describe_set"), (finetune, "train_and_test"), (detect, "scores_of_run"))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    """Two tiny models of different weights, named `one` and `two`."""
    folder = tmp_path_factory.mktemp("models")
    return save_tiny_base(folder / "one", 0), save_tiny_base(folder / "two", 1)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "home"))
    return tmp_path / "home"


def parts_in(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("parts/*/*__*")}


def watching(function, made: set[str]):
    """The same function, which notes what it was called for."""
    def spy(profile, key, device):
        made.add(key.name)
        return function(profile, key, device)

    return spy


def run_stages(profile: Profile, options: Options, monkeypatch) -> set[str]:
    """Run base, data, fine-tuning, detection and overlap; the names of what was computed."""
    made = set()
    with monkeypatch.context() as watched:
        for stage, name in COMPUTED:
            watched.setattr(stage, name, watching(getattr(stage, name), made))
        for stage in (base.run, base.run_data, correlate.run):
            stage(profile, options)
    return made


def test_a_second_base_is_added_and_what_the_first_has_is_kept(models, home, tmp_path, monkeypatch) -> None:
    path = tmp_path / "tiny.yaml"
    one = load_profile(write_profile(path, models[0]))
    assert run_stages(one, Options(), monkeypatch) == {
        f"mdqa__{condition}__s0__one" for condition in ("base", "rope", "held_out", "real", "symbolic")}
    kept = parts_in(home)
    alone = {name: load_table("tiny", name) for name in ("base", "performance", "head_scores", "overlap", "shortfall")}
    assert set(alone["overlap"]["base"]) == {"one"}

    both = load_profile(write_profile(path, *models))
    assert run_stages(both, Options(), monkeypatch) == {
        f"mdqa__{condition}__s0__two" for condition in ("base", "rope", "real", "symbolic")}
    assert kept.items() <= parts_in(home).items()
    for name, table in alone.items():
        wider = load_table("tiny", name)
        if name == "shortfall":
            assert (set(table.n_bases), set(wider.n_bases)) == ({1}, {2})
            continue
        assert set(wider["base"]) == {"one", "two"}
        assert len(wider) == 2 * len(table)
        pd.testing.assert_frame_equal(wider[wider["base"] == "one"].reset_index(drop=True), table)
    scores = load_table("tiny", "head_scores").pivot(
        index=["condition", "kind", "layer", "head"], columns="base", values="mass")
    assert not np.allclose(scores.one, scores.two)
    assert run_stages(both, Options(), monkeypatch) == set()

    manifests = {
        name: json.loads((home / "runs/tiny" / f"{name}.json").read_text())["base_digest"]
        for name in ("parts/performance/mdqa__real__s0__one", "parts/performance/mdqa__real__s0__two",
                     "tables/performance", "tables/overlap", "tables/examples")
    }
    own, other, merged, whole, examples = manifests.values()
    assert (own, other) == tuple(base_digest(both, name) for name in both.base_names)
    assert examples == own != other
    assert merged == whole not in (own, other)

    # runs of a base model that is gone are read, and those of one that is another are refused
    moved = shutil.copytree(models[0].parent, tmp_path / "moved")
    elsewhere = load_profile(write_profile(path, moved / "one", moved / "two"))
    assert Store(elsewhere).todo("performance", study_grid(elsewhere)) == []
    shutil.rmtree(moved / "two")
    assert Store(elsewhere).todo("performance", study_grid(elsewhere)) == []
    save_tiny_base(moved / "two", 2)
    assert Store(elsewhere).todo("performance", study_grid(elsewhere, base="one")) == []
    with pytest.raises(ValueError, match=r"mdqa__real__s0__two.*made from another base model"):
        Store(elsewhere).todo("performance", study_grid(elsewhere))


def test_the_command_line_restricts_to_one_base_and_reads_no_other(models, home, tmp_path, monkeypatch, capfd) -> None:
    profile = write_profile(tmp_path / "tiny.yaml", models[0], "runs/base-77")
    read, real = [], bases.fingerprint
    monkeypatch.setattr(bases, "fingerprint", lambda folder: read.append(folder) or real(folder))
    assert cli.main(["run", "correlate", "--profile", str(profile)]) == 2
    message = capfd.readouterr().err.splitlines()[-1]
    assert message == (
        "error: base model base-77: no such folder (got 'runs/base-77'). Train it: `python -m retrieval_heads pretrain "
        "--out runs/base-77 --seed 77`. Or leave it out with --base one.")
    assert not list(home.rglob("*.csv"))
    for stage in ("base", "data", "correlate"):
        assert cli.main(["run", stage, "--profile", str(profile), "--base", "one"]) == 0
    assert {Path(folder).name for folder in read} == {"one"}
    assert {name.split("__")[-1].partition(".")[0] for name in parts_in(home)} == {"one"}
    made = json.loads((home / "runs/tiny/tables/performance.json").read_text())
    assert made["absent"] == ["mdqa__real__s0__base-77", "mdqa__symbolic__s0__base-77"]


def test_base_models_of_different_tokenizers_are_refused(models, home, tmp_path, capfd) -> None:
    other = shutil.copytree(models[1], tmp_path / "other")
    tokens = json.loads((other / "tokenizer.json").read_text())
    tokens["added_tokens"][0]["lstrip"] = True
    (other / "tokenizer.json").write_text(json.dumps(tokens))
    profile = write_profile(tmp_path / "tiny.yaml", models[0], other)
    assert cli.main(["run", "base", "--profile", str(profile)]) == 2
    assert "the tokenizer of other is not that of one, the first base model" in capfd.readouterr().err
    with pytest.raises(ConfigError, match="give those of one tokenizer"):
        Store(load_profile(profile)).prepare([RunKey("tiny", "mdqa", "real", 0, "other")])
    assert not list(home.rglob("*.csv"))


def test_a_base_is_found_by_its_name(models) -> None:
    profile = load_profile("smoke", bases=[str(models[1]), "models/base", "nobody/hub-model"])
    assert profile.base_names == ("two", "base", "hub-model")
    assert base_path(profile) == base_path(profile, "two") == str(models[1])
    assert base_path(profile, "base") == str(paths.checkout() / "models" / "base")
    assert base_path(profile, "hub-model") == "nobody/hub-model"
    assert base_digest(profile, "hub-model") is None
    with pytest.raises(ConfigError, match=r"no such base model \(got 'three'\)\. Use one of two, base, hub-model"):
        base_path(profile, "three")
    alone = load_profile("smoke", bases=["/nowhere/three"])
    with pytest.raises(ModelError, match=r"no such folder \(got '/nowhere/three'\)\. Give a model's folder.*bases`\.$"):
        base_path(alone)


def answers(runs: dict[tuple[str, int, str], np.ndarray]) -> pd.DataFrame:
    return pd.DataFrame([
        {"task": "mdqa", **dict(zip(RUN[1:], run, strict=True)), "example": index, "exact_match": value, "score": value}
        for run, values in runs.items() for index, value in enumerate(values)
    ])


def test_the_shortfall_is_paired_by_base_seed_and_example() -> None:
    rng = np.random.default_rng(0)
    runs = {(condition, seed, name): rng.random(30) for condition in ("real", "low_low") for seed in (0, 1)
            for name in ("one", "two")}
    differences = np.array([[runs["real", seed, name] - runs["low_low", seed, name] for seed in (0, 1)]
                            for name in ("one", "two")])

    def row_of(chosen: dict) -> pd.Series:
        rows = shortfall(answers(chosen), n_deciding=20_000)
        return rows[rows.metric == "exact_match"].iloc[0]

    for seeds, names, expected in (
        ((0, 1), ("one", "two"), differences), ((0,), ("one", "two"), differences[:, :1]),
        ((0, 1), ("two",), differences[1:]), ((1,), ("one",), differences[:1, 1:]),
    ):
        row = row_of({run: values for run, values in runs.items() if run[1] in seeds and run[2] in names})
        found = bootstrap_crossed(expected, n_resamples=20_000)
        assert row["value"] == pytest.approx(found.estimate, abs=1e-5)
        assert (row["low"], row["high"]) == pytest.approx(found[1:], abs=0.01)
        assert (row["n"], row["n_seeds"], row["n_bases"]) == (30, len(seeds), len(names))

    # a seed that one base model lacks is left out, and a run without a real one of its own
    row = row_of({run: values for run, values in runs.items() if run != ("real", 1, "two")})
    assert (row["n_seeds"], row["n_bases"]) == (1, 2)
    assert row["value"] == pytest.approx(differences[:, 0].mean(), abs=1e-5)
    crosswise = {run: values for run, values in runs.items() if (run[1], run[2]) in ((0, "one"), (1, "two"))}
    assert shortfall(answers(crosswise), n_deciding=500).empty


def test_pages_name_the_base_only_where_there_are_several() -> None:
    scores = pd.DataFrame([
        {"task": "mdqa", "condition": "base", "seed": 0, "base": name, "layer": layer, "score": score, "chance": 0.0,
         "n_used": 30} for name, score in (("one", 0.5), ("two", 0.7)) for layer in (0, 1)])
    counts = retrieval_counts(scores, 0.1)
    assert ">two<" in table_html(counts)
    assert "base" not in table_html(counts[counts["base"] == "one"].drop(columns="condition"))
    assert list(in_run_order(counts[::-1])["base"]) == ["one", "two"]
