"""Profiles: the packaged ones are complete and explained, and bad ones are refused in one readable message."""

from __future__ import annotations

import re
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from retrieval_heads.config import READS, config_hash, limited, load_profile, profile_names
from retrieval_heads.data.conditions import CONDITIONS
from retrieval_heads.errors import ConfigError
from retrieval_heads.paths import configs_folder
from retrieval_heads.settings import Lora, Profile
from retrieval_heads.training.lora_settings import LoraSettings

GRID = {"tasks", "conditions", "seeds", "bases"}
WITHOUT_EFFECT = {"name", "missing", "controls", "workers", "threads", "device"}


# a profile of the tests' own, so that the packaged ones can be tuned
SETTINGS = {
    "missing": [], "bases": ["models/base"], "tasks": ["mdqa", "musique"],
    "conditions": ["real", "high_high", "low_low"], "seeds": [0], "base_length": 512, "train_length": 1024,
    "eval_lengths": [512, 1024], "rope_theta": 80000, "n_train": 48, "n_probe": 24, "n_test": 32,
    "lora": {
        "rank": 8, "alpha": 8, "lr": 0.003, "epochs": 1, "batch_size": 4, "accumulation": 1, "warmup": 0.05,
        "schedule": "linear", "max_grad_norm": 1.0, "weight_decay": 0.0, "bf16": False,
        "gradient_checkpointing": False, "save_steps": None,
    },
    "detect": {"kinds": ["copy", "insight"], "modes": ["forced"], "threshold": 0.1, "thresholds": [0.05, 0.1, 0.5]},
    "lengths": {"conditions": ["real"], "eval_lengths": [512], "n": 8},
    "knockout": {
        "modes": ["zero", "mean"], "scopes": ["answer"], "k": [1, 2, 5, 10], "draws": 3, "n": 24, "text_n": 2,
    },
    "patch": {"sets": ["intersection", "random"], "draws": 2, "n": 24},
    "bootstrap": 1000, "workers": 2, "threads": 1, "device": "cpu",
}


class _Dumper(yaml.SafeDumper):
    """Lists on one line, as people write them."""


_Dumper.add_representer(list, lambda dumper, values: dumper.represent_sequence(
    "tag:yaml.org,2002:seq", values, flow_style=True,
))


@pytest.fixture
def changed(tmp_path: Path):
    """`changed(old, new)`: the path of a profile of `SETTINGS` in which a piece of text is replaced."""

    def write(old: str, new: str, name: str = "mine.yaml") -> Path:
        text = yaml.dump(SETTINGS, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=1000)
        assert old in text
        path = tmp_path / name
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("name", ["smoke", "quick", "live", "report", "controls", "paper"])
def test_packaged_profiles_are_valid_and_say_what_every_key_means(name: str) -> None:
    assert load_profile(name).name == name
    lines = (configs_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    for above, line in pairwise(lines):
        if re.match(r" *\w+:", line):
            assert above.lstrip().startswith("#"), f"{name}.yaml: no comment above {line!r}"


def test_the_profiles_are_those_of_the_study() -> None:
    assert profile_names() == ["controls", "live", "paper", "paper_mistral", "pretrained", "quick", "report", "smoke"]


def test_report_covers_the_whole_study() -> None:
    report = load_profile("report")
    # one mixture is that of the study of a pretrained model
    assert report.conditions == tuple(name for name in CONDITIONS if name != "high_low-low_high")
    assert (len(report.tasks), len(report.seeds), report.base_names) == (3, 5, ("base", "base-1"))
    assert (report.base_length, report.train_length) == (512, 2048)


def test_a_profile_is_refused_with_what_is_missing(tmp_path) -> None:
    text = (configs_folder() / "quick.yaml").read_text(encoding="utf-8")
    (tmp_path / "later.yaml").write_text(text.replace("missing: []", "missing: [a larger machine]"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"later\.yaml.*cannot be run.*a larger machine.*Run `smoke`"):
        load_profile(tmp_path / "later.yaml")


@pytest.mark.parametrize("name", ["paper", "paper_mistral"])
def test_the_profiles_of_the_paper_differ_in_base_model_and_theta_only(name) -> None:
    profile, llama = load_profile(name), load_profile("paper")
    own = {"name", "bases", "data", "rope_theta"}
    assert profile.model_dump(exclude=own) == llama.model_dump(exclude=own)
    assert (profile.base_length, profile.train_length, profile.eval_lengths[-1]) == (8192, 32768, 32768)
    assert profile.data


def test_with_files_of_examples_tasks_and_conditions_have_any_name() -> None:
    names = {"tasks": ["mine"], "conditions": ["real", "set.A"], "data": "/somewhere"}
    profile = load_profile("smoke", **names)
    assert (profile.tasks, profile.conditions) == (("mine",), ("real", "set.A"))
    assert config_hash(profile, "finetune") != config_hash(load_profile("smoke"), "finetune")
    with pytest.raises(ConfigError, match=r"unknown value for `tasks\.0`.*'mine'.*Allowed: mdqa"):
        load_profile("smoke", tasks=["mine"])
    with pytest.raises(ConfigError, match=r"unknown value for `lengths\.conditions\.0`.*'rael'.*Did you mean `real`"):
        load_profile("smoke", lengths={"conditions": ["rael"]})


def test_unknown_profile_names_the_near_one() -> None:
    with pytest.raises(ConfigError, match=r"unknown profile.*'quik'.*Did you mean `quick`"):
        load_profile("quik")
    with pytest.raises(ConfigError, match=r"no such profile file.*/nowhere/x\.yaml"):
        load_profile("/nowhere/x.yaml")


@pytest.mark.parametrize(("old", "new", "message"), [
    ("n_train:", "n_trian:", r"unknown key `n_trian` \(got 48\)\. Did you mean `n_train`\? Allowed: "),
    ("  rank:", "  rnak:", r"unknown key `lora\.rnak` \(got 8\)\. Did you mean `rank`\? Allowed: rank, alpha"),
    ("n_probe: 24", "", r"missing key `n_probe`"),
    ("n_train: 48", "n_train: many", r"`n_train`: input should be a valid integer \(got 'many'\)"),
    ("n_train: 48", "n_train: '48'", r"`n_train`: input should be a valid integer \(got '48'\)"),
    ("n_train: 48", "n_train: true", r"`n_train`: input should be a valid integer \(got True\)"),
    ("n_train: 48", "n_train: 0", r"`n_train`: .*greater than or equal to 1 \(got 0\)"),
    ("rope_theta: 80000", "rope_theta: .nan", r"`rope_theta`: .*finite"),
    ("tasks: [mdqa, musique]", "tasks: mdqa", r"`tasks`: .*\(got 'mdqa'\)"),
    ("tasks: [mdqa, musique]", "tasks: []", r"`tasks`: .*at least 1 item"),
    ("tasks: [mdqa, musique]", "tasks: [mdqa, mdqa]", r"`tasks`: a value is given twice"),
    ("tasks: [mdqa, musique]", "tasks: [mdaq]", r"`tasks\.0` \(got 'mdaq'\)\. Did you mean `mdqa`\? Allowed: mdqa"),
    ("bases: [models/base]", "bases: []", r"`bases`: .*at least 1 item"),
    ("bases: [models/base]", "bases: [a, a]", r"`bases`: a value is given twice"),
    ("bases: [models/base]", "bases: [a/base, b/base/]", r"`bases`: two base models have the same folder name"),
    ("bases: [models/base]", "base: models/base", r"unknown key `base` .*Did you mean `bases`"),
    ("high_high, low_low", "hihg_high", r"`conditions\.1` \(got 'hihg_high'\)\. Did you mean `high_high`\?"),
    ("conditions: [real, ", "conditions: [", r"`conditions`: `real` is missing"),
    ("modes: [zero, mean]", "modes: [zreo]", r"`knockout\.modes\.0` \(got 'zreo'\)\. Did you mean `zero`\?"),
    ("k: [1, 2, 5, 10]", "k: [1, 5, 2]", r"`knockout\.k`: the values must increase"),
    ("threshold: 0.1", "threshold: 0.11", r"`detect\.threshold`: not among detect\.thresholds"),
    ("n: 24", "n: 33", r"`knockout\.n`: more than n_test, which is 32 \(got 33\)"),
    ("batch_size: 4", "batch_size: 49", r"`lora\.batch_size`: more than n_train, which is 48 \(got 49\)"),
    ("schedule: linear", "schedule: constant", r"LoRA setting `warmup`.*\(got 0\.05\)"),
    ("lr: 0.003", "lr: 0", r"LoRA setting `lr`.*\(got 0"),
    ("device: cpu", "device: gpu", r"`device`: .*\(got 'gpu'\)"),
    ("n_train: 48", "n_train: 48\nn_train: 49", r"mine\.yaml, line \d+: not valid YAML: .*`n_train` is given twice"),
    ("n_train: 48", "n_train: [48", r"mine\.yaml, line \d+: not valid YAML"),
    ("n_train: 48", "name: other\nn_train: 48", r"unknown key `name` \(got 'other'\).*rename the file"),
])
def test_bad_settings_name_file_key_value_and_remedy(changed, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_profile(changed(old, new))
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_mapping_or_no_text(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match=r"list\.yaml: not a mapping"):
        load_profile(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"list\.yaml: not UTF-8"):
        load_profile(path)


def test_a_bad_file_name_cannot_become_a_folder(changed) -> None:
    with pytest.raises(ConfigError, match=r"`name`.*'my profile'"):
        load_profile(changed("n_train: 48", "n_train: 47", "my profile.yaml"))


def test_scientific_notation_is_a_number(changed) -> None:
    assert load_profile(changed("lr: 0.003", "lr: 4e-3")).lora.lr == 0.004


def test_overrides_are_checked_like_the_file() -> None:
    profile = load_profile("quick", seeds=[3, 4], lora={"rank": 7})
    assert profile.seeds == (3, 4)
    assert (profile.lora.rank, profile.lora.lr) == (7, load_profile("quick").lora.lr)
    with pytest.raises(ConfigError, match=r"setting given in its place: `workers`.*\(got 0\)"):
        load_profile("quick", workers=0)
    with pytest.raises(ConfigError, match=r"unknown key `worker`.*`workers`"):
        load_profile("quick", worker=1)


def test_hash_ignores_the_order_of_keys_and_comments(tmp_path: Path) -> None:
    data = yaml.safe_load((configs_folder() / "quick.yaml").read_text(encoding="utf-8"))
    data["lora"] = dict(reversed(data["lora"].items()))
    path = tmp_path / "quick.yaml"
    path.write_text(yaml.safe_dump(dict(reversed(data.items())), sort_keys=False))
    assert config_hash(load_profile(path)) == config_hash(load_profile("quick"))


def test_hash_follows_the_settings_that_a_stage_reads() -> None:
    quick = load_profile("quick")
    longer = load_profile("quick", train_length=quick.train_length + 1)
    more_draws = load_profile("quick", knockout={"draws": quick.knockout.draws + 1})
    for stage in ("finetune", "detect", "knockout", "patch", None):
        assert config_hash(longer, stage) != config_hash(quick, stage)
    assert config_hash(more_draws, "knockout") != config_hash(quick, "knockout")
    for stage in ("base", "data", "finetune", "detect", "patch"):
        assert config_hash(more_draws, stage) == config_hash(quick, stage)
    wider = load_profile("quick", seeds=[*quick.seeds, 99])
    assert config_hash(wider, "knockout") == config_hash(quick, "knockout")
    assert config_hash(wider, "correlate") != config_hash(quick, "correlate")
    other = load_profile("quick", bases=[*quick.bases, "runs/another"])
    assert config_hash(other) == config_hash(quick)
    assert config_hash(load_profile("quick", workers=quick.workers + 1, device="mps")) == config_hash(quick)


def test_every_setting_belongs_to_a_stage_to_the_grid_or_has_no_effect() -> None:
    assert set().union(*READS.values()) | GRID | WITHOUT_EFFECT == set(Profile.model_fields)


def test_lora_section_is_in_step_with_the_fine_tuning() -> None:
    elsewhere = {"rope_theta", "max_length", "seed", "target_modules"}
    assert set(Lora.model_fields) == {field.name for field in fields(LoraSettings)} - elsewhere
    settings = load_profile("report").lora_settings(seed=5)
    assert (settings.seed, settings.max_length, settings.rank, settings.alpha) == (5, 2048, 8, 8)


def test_limit_caps_the_examples_under_another_name() -> None:
    profile = limited(load_profile("quick"), 3)
    assert profile.name == "quick-limit3"
    assert {profile.n_train, profile.n_probe, profile.n_test, profile.knockout.n, profile.patch.n} == {3}
    assert limited(load_profile("quick"), 10**6).n_train == load_profile("quick").n_train
    with pytest.raises(ConfigError, match=r"--limit.*\(got 0\)"):
        limited(load_profile("quick"), 0)
