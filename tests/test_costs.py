"""`costs`: a tiny study over files with random weights is tried, and the whole is worked out from what that took."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from tiny_study import write_profile
from transformers import AutoConfig

from retrieval_heads import cli, paths
from retrieval_heads.config import load_profile
from retrieval_heads.data import make_examples
from retrieval_heads.data.jsonl import write_examples
from retrieval_heads.data.tokenizer import BASE_PATH, embedded_tokenizer
from retrieval_heads.errors import ResultError
from retrieval_heads.figures.costs import benchmark_table, lora_table, speed_table, targets_text
from retrieval_heads.models.random_weights import make_random_model, random_seed
from retrieval_heads.stages.costs import COLUMNS, estimate, small
from retrieval_heads.training.lora_settings import floor_tflop

LENGTH = 256


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A folder with `tiny.json` (a shape), `data` and `study.yaml`, a profile over that data."""
    folder = tmp_path_factory.mktemp("costs")
    tokenizer = embedded_tokenizer()
    AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2, head_dim=6,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=LENGTH,
        architectures=["LlamaForCausalLM"], eos_token_id=tokenizer.eos_token_id,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    ).to_json_file(folder / "tiny.json", use_diff=False)
    made = {"task": "mdqa", "length": LENGTH, "seed": 0, "tokenizer": tokenizer}
    for name, condition, split in (
        ("real", "real", "train"), ("symbolic", "symbolic", "train"),
        (f"held_out/probe_{LENGTH}", "real", "probe"), (f"held_out/test_{LENGTH}", "real", "test"),
    ):
        examples = make_examples(condition=condition, n=2, split=split, **made)
        write_examples(folder / "data" / "mdqa" / f"{name}.jsonl", examples)
    write_profile(folder / "study.yaml", BASE_PATH, data=str(folder / "data"), n_train=2)
    return folder


@pytest.fixture
def command(study, tmp_path, monkeypatch, capfd):
    """`command(further)`: the exit status and standard error of `costs` over the study with random weights."""
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "home"))

    def run(*further: str, shape: str | None = None) -> tuple[int, str, str]:
        capfd.readouterr()
        status = cli.main(["costs", "--profile", str(study / "study.yaml"), "--random-weights",
                           shape or str(study / "tiny.json"), "--out", str(tmp_path / "out"), *further])
        return status, *capfd.readouterr()

    return run


def test_every_stage_is_tried_and_the_whole_follows(command, study, tmp_path) -> None:
    status, out, err = command("--examples", "1")
    assert status == 0, err
    tried = pd.read_csv(tmp_path / "out" / "costs.csv")
    assert list(tried) == COLUMNS
    made = [(row.condition, row.stage) for row in tried.itertuples()]
    stages = ["train", "evaluate", "detect", "knockout"]
    assert made[:4] == [("real", stage) for stage in stages]
    assert sorted(made[4:]) == sorted(("symbolic", stage) for stage in [*stages, "patch"])
    assert (tried.examples == 1).all()
    assert (tried[tried.stage == "train"].disk_mb > 0).all()
    whole = pd.read_csv(tmp_path / "out" / "costs_full.csv").set_index("stage")
    assert list(whole.index) == [*stages, "patch", "all"]
    assert whole.runs.to_dict() == {**dict.fromkeys(stages, 2), "patch": 1, "all": 2}
    # two passes over two examples, where one was tried
    trained = tried[tried.stage == "train"].seconds.mean() * 4
    assert whole.seconds["train"] == pytest.approx(trained)
    assert whole.hours["all"] == pytest.approx(whole.hours[:-1].sum())
    assert "knockout" in out


def test_time_that_is_over_leaves_what_was_tried(command, tmp_path) -> None:
    status, _, err = command("--seconds", "-1")
    assert status == 2
    assert "--seconds: no stage was tried" in err
    assert not (tmp_path / "out" / "costs_full.csv").exists()


@pytest.mark.parametrize(("further", "message"), [
    (["--data", "nowhere"], "without the examples of mdqa (looked for in"),
    (["--conditions", "symbolik"], "--conditions: the profile has no such condition (got 'symbolik'). Use some of"),
    (["--examples", "0"], "at least one example is needed (got 0)"),
])
def test_a_bad_request_is_one_line(command, tmp_path, further: list[str], message: str) -> None:
    status, _, err = command(*further)
    assert status == 2
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_unknown_shape_is_told_with_the_known_ones(command) -> None:
    status, _, err = command(shape="llama-9")
    assert status == 2
    assert "--random-weights: no such shape (got 'llama-9'). Use llama-3-8b, mistral-7b-v0.1, or the path" in err


def test_too_few_examples_are_told_with_the_file(command, study) -> None:
    status, _, err = command("--examples", "2", "--conditions", "real", "--data", str(short_data(study)))
    assert status == 2
    assert "real.jsonl: the profile asks for 2 examples (got 1). Add examples, or lower n_train" in err


def short_data(study: Path) -> Path:
    folder = study / "short"
    for path in (study / "data").rglob("*.jsonl"):
        target = folder / path.relative_to(study / "data")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    return folder


def test_a_shape_with_fewer_words_than_the_tokenizer_is_refused(study, tmp_path) -> None:
    shape = tmp_path / "few.json"
    shape.write_text((study / "tiny.json").read_text(encoding="utf-8").replace(
        f'"vocab_size": {len(embedded_tokenizer())}', '"vocab_size": 7'), encoding="utf-8")
    with pytest.raises(ValueError, match=r"few\.json: the tokenizer has \d+ words \(got 7\)"):
        make_random_model(shape, BASE_PATH, tmp_path / "model")
    assert random_seed(make_random_model(study / "tiny.json", BASE_PATH, tmp_path / "model", seed=3)) == 3


def test_the_estimate_has_known_answers() -> None:
    profile = load_profile("paper")
    tried = pd.DataFrame([
        ("mdqa", "real", "train", 2, 10.0, 0.0, 70.0, 100.0, "a"),
        ("musique", "real", "train", 2, 14.0, 0.0, 60.0, 300.0, "a"),
        ("mdqa", "real", "detect", 2, 5.0, 1.0, 30.0, 0.0, "a"),
        ("mdqa", "symbolic", "patch", 2, 3.0, 1.0, 40.0, 0.0, "a"),
    ], columns=COLUMNS)
    found = estimate(tried, profile).set_index("stage")
    # 63 runs, 9 of them real; 250 examples three times, 80 and 200; the model is loaded once a stage
    assert found.runs.to_dict() == {"train": 63, "detect": 63, "patch": 54, "all": 63}
    assert found.seconds[:-1].tolist() == [750 * 6, 1 + 80 * 2, 1 + 200 * 1]
    hours = [4500 * 63 / 3600, 161 * 63 / 3600, 201 * 54 / 3600]
    assert found.hours.tolist() == pytest.approx([*hours, sum(hours)])
    assert found.peak_gb.tolist() == [70, 30, 40, 70]
    assert found.disk_gb["all"] == pytest.approx(0.2 * 63)
    assert "knockout" not in found.index


def test_a_small_profile_has_one_run_a_condition_and_few_examples() -> None:
    profile = small(load_profile("paper"), 2)
    assert (profile.n_train, profile.n_probe, profile.n_test, profile.knockout.n, profile.patch.n) == (2, 2, 2, 2, 2)
    assert (len(profile.seeds), profile.lora.epochs, profile.lora.accumulation) == (1, 1, 1)
    assert profile.train_length == 32768


def test_what_the_chapter_says_follows_from_the_tables() -> None:
    steps = pd.DataFrame({
        "variant": ["default"] * 3 + ["ours"] * 3, "seconds": [4.0, 5.0, 9.0, 4.0, 4.1, 4.2],
        "memory_gb": [70.0, 71.0, 70.0, 81.0, 80.0, 80.0], "tflops": 100.0, "layers": 2, "tokens": 1000, "hidden": 4,
        "intermediate": 8, "heads": 2, "kv_heads": 1, "head_dim": 2, "rank": 1,
    })
    # frozen weights a layer: 4x4 + 2 of 4x2 + 4x4 + 3 of 4x8 = 144
    parts = floor_tflop(next(steps.itertuples()))
    assert parts["projections"] == pytest.approx(4 * 144 * 2 * 1000 / 1e12)
    assert parts["attention"] == pytest.approx(7 * 1000 * 4 * 2 * 1000 / 1e12)
    assert parts["adapters"] == pytest.approx(6 * (8 + 6 + 6 + 8) * 2 * 1000 / 1e12)
    lora = lora_table(steps).set_index("variant")
    assert lora.times_faster["ours"] == pytest.approx(5 / 4.1)
    assert lora.share["default"] == pytest.approx(sum(parts.values()) / 100 / 5)
    targets = pd.DataFrame({"target": ["a", "b"], "limit": ["at most 1.02", "at least 25"], "reached": [1.0, 20.0],
                            "met": [True, False]})
    table = speed_table(targets, steps)
    assert table.met.tolist() == ["yes", "no", "no", "no"]
    assert table.missed_by.tolist()[1:] == pytest.approx([0.2, 1 - 5 / 4.1 / 1.3, 1 / 80])
    assert targets_text(table).startswith("1 of 4 targets are met. **Not met: b (20.00, at least 25: missed by 20%); ")


def test_the_committed_measurements_agree_with_each_other(tmp_path) -> None:
    passes, summary = benchmark_table("passes"), benchmark_table("full_size").set_index("what")
    by = passes.pivot(index="round", columns="what", values="seconds")
    assert summary.seconds.to_dict() == pytest.approx(by.median().to_dict())
    assert summary.to_plain["detection"] == pytest.approx((by.detection / by.plain).median())
    assert summary.faster_than_wu["detection_many"] == pytest.approx(16 / (by.detection_many / by.wu).median())
    met = benchmark_table("targets").set_index("target").met
    assert met["detection, time of a plain pass"] == (summary.to_plain["detection"] <= 1.02)
    faster = summary.faster_than_wu["detection_many"]
    assert met["detection, many questions, each so many times faster"] == (faster >= 25)
    with pytest.raises(ResultError, match="no such table of measurements"):
        benchmark_table("passes", tmp_path)
