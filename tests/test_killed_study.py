"""A study that is killed again and again ends, through the command line, with the bytes of one that was left alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from model_folders import ADAPTER_FILES, digests
from tiny_study import save_tiny_base, write_profile

from retrieval_heads import cli
from retrieval_heads.manifest import sha256

STAGE = "knockout"  # which makes what it rests on: fine-tuning, head detection, knock-out
KILLS = 6


def command(arguments: list[str]) -> None:
    """What `python -m retrieval_heads` does, for a process that was forked after the imports."""
    sys.exit(cli.main(arguments))


@pytest.fixture(scope="module")
def forked():
    """Processes that need not import torch again: four seconds less a start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["retrieval_heads.stages.knockout", "test_killed_study"])
    return context


def line(profile: Path, home: Path) -> list[str]:
    return ["run", STAGE, "--profile", str(profile), "--limit", "3", "--home", str(home)]


def files(home: Path) -> list[Path]:
    # unlike `rglob`, `walk` does not mind that a folder vanishes while it looks
    return [Path(folder, name).relative_to(home) for folder, _, names in os.walk(home) for name in names]


def assert_nothing_is_half_there(home: Path) -> None:
    """What can be seen is whole: rows are those that their manifest describes, and adapters have all their files."""
    for path in home.rglob("[!.]*.json"):
        if path.parent.parent.name == "parts" or path.parent.name == "tables":
            assert json.loads(path.read_text())["sha256"] == sha256(path.with_suffix(".csv").read_bytes())
    for folder in home.glob("runs/*/adapters/[!.]*"):
        assert {path.name for path in folder.iterdir()} == ADAPTER_FILES


def kill_in_the_middle(context, profile: Path, home: Path, after_files: int, delay: float) -> bool:
    """Start the study and kill it some time after so many files are there; whether it was still at work."""
    process = context.Process(target=command, args=(line(profile, home),))
    process.start()
    try:
        deadline = time.monotonic() + 60
        while process.is_alive() and len(files(home)) < after_files and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(delay)
    finally:
        process.kill()
        process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def test_a_study_killed_at_random_moments_ends_with_the_same_bytes(forked, tmp_path: Path) -> None:
    profile = write_profile(tmp_path / "tiny.yaml", save_tiny_base(tmp_path / "base"))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = forked.Process(target=command, args=(line(profile, whole),))
    undisturbed.start()
    undisturbed.join(120)
    assert undisturbed.exitcode == 0
    made = sorted(files(whole))
    rng, stages = random.Random(0), []
    for kill in range(KILLS):
        # one moment in each part of the way, by the number of files, so that a slow machine is killed there too
        moment = rng.randint(1 + kill * len(made) // KILLS, (kill + 1) * len(made) // KILLS - 1)
        if kill_in_the_middle(forked, profile, killed, moment, rng.uniform(0, 0.15)):
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
