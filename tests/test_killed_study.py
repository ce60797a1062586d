"""A study that is killed again and again ends, through the command line, with the bytes of one that was left alone."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

from forked import exit_code, files, kill_in_the_middle, start
from model_folders import ADAPTER_FILES, digests
from tiny_study import save_tiny_base, write_profile

from retrieval_heads.manifest import sha256

STAGE = "knockout"  # which makes what it rests on: fine-tuning, head detection, knock-out
KILLS = 6


def line(profile: Path, home: Path, workers: int = 1) -> list[str]:
    return ["run", STAGE, "--profile", str(profile), "--limit", "3", "--home", str(home), "--workers", str(workers)]


def assert_nothing_is_half_there(home: Path) -> None:
    """What can be seen is whole: rows are those that their manifest describes, and adapters have all their files."""
    for path in home.rglob("[!.]*.json"):
        if path.parent.parent.name == "parts" or path.parent.name == "tables":
            assert json.loads(path.read_text())["sha256"] == sha256(path.with_suffix(".csv").read_bytes())
    for folder in home.glob("runs/*/adapters/[!.]*"):
        assert {path.name for path in folder.iterdir()} == ADAPTER_FILES


def test_a_study_killed_at_random_moments_ends_with_the_same_bytes(tmp_path: Path) -> None:
    profile = write_profile(tmp_path / "tiny.yaml", save_tiny_base(tmp_path / "base"))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert exit_code(start(line(profile, whole))) == 0
    made = sorted(files(whole))
    rng, stages = random.Random(0), []
    for kill in range(KILLS):
        # one moment in each part of the way, by the number of files, so that a slow machine is killed there too
        moment = rng.randint(1 + kill * len(made) // KILLS, (kill + 1) * len(made) // KILLS - 1)
        workers = 2 if kill == KILLS // 2 else 1
        if kill_in_the_middle(line(profile, killed, workers), killed, moment, rng.uniform(0, 0.15)):
            tables = {path.stem for path in killed.glob("runs/*/tables/[!.]*.json")}
            stages.append("knockout" if "head_scores" in tables else "detect" if "training" in tables else "finetune")
        assert_nothing_is_half_there(killed)
    assert len(stages) >= KILLS - 1
    assert set(stages) >= {"finetune", "knockout"}

    done = subprocess.run([sys.executable, "-m", "retrieval_heads", *line(profile, killed)], capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sorted(files(killed)) == made
    tables = [path for path in made if path.suffix == ".csv"]
    assert {path.stem for path in tables if path.parent.name == "tables"} >= {"training", "head_scores", "knockout"}
    for path in tables:
        assert (killed / path).read_bytes() == (whole / path).read_bytes(), path
    for folder in whole.glob("runs/*/adapters/*"):
        assert digests(killed / folder.relative_to(whole)) == digests(folder)
