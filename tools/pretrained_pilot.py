"""The pilot of the pretrained study: settings tried on `real`, scored on the development split, never on the test.

    python tools/pretrained_pilot.py --model models/smollm2 --data FOLDER --out pilot.csv [--task T] [--seconds 500]

Trained on FOLDER/TASK/real.jsonl.gz, scored on FOLDER/TASK/held_out/dev_16384.jsonl.gz, with seed 0, which no deciding
run has. The settings are tried in the order of SETTINGS, as many as time allows; the table and its manifest are written
after each, and what was tried before stays in it. The table of the study is `results/pretrained/pilot.csv`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import pandas as pd

from retrieval_heads.config import config_hash, load_profile
from retrieval_heads.data.jsonl import read_examples
from retrieval_heads.evaluation import evaluate_each
from retrieval_heads.files import write_whole
from retrieval_heads.keys import RunKey
from retrieval_heads.manifest import Facts, device_name, sha256, write_manifest
from retrieval_heads.parallel import resolve_device
from retrieval_heads.settings import Profile
from retrieval_heads.stages.common import adapter_path, batch_size, load_run, metric_rows
from retrieval_heads.stages.finetune import train
from retrieval_heads.tables import conform, read_table, to_csv

SETTINGS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("mdqa", "theta alone", {}),
    ("mdqa", "200 steps", {"lr": 2e-3, "accumulation": 4}),
    ("mdqa", "400 steps", {"lr": 2e-3, "accumulation": 2}),
    ("musique", "theta alone", {}),
    ("musique", "150 steps", {"lr": 2e-3, "accumulation": 4}),
    ("mdqa", "400 steps, half the rate", {"lr": 1e-3, "accumulation": 2}),
    ("mdqa", "200 steps, twice the rate", {"lr": 4e-3, "accumulation": 4}),
)
"""Task, name and what is changed in the profile's `lora`; without a change nothing is trained."""

N_TRAIN = {"mdqa": 397, "musique": 300}
"""Examples: on `mdqa` without three whose passages were refused at the time of the pilot."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--task", choices=sorted(N_TRAIN), help="only the settings of this task")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no setting is begun after so many")
    parser.add_argument("--device", default="cuda")
    parsed, start, rows = parser.parse_args(), time.monotonic(), []
    for place, (task, name, change) in enumerate(SETTINGS):
        if parsed.task not in (None, task):
            continue
        if time.monotonic() - start > parsed.seconds:
            break
        profile = load_profile("pretrained", bases=[str(Path(parsed.model).absolute())], tasks=[task],
                               data=str(Path(parsed.data).absolute()), seeds=[0], n_train=N_TRAIN[task], lora=change)
        rows += tried(profile.model_copy(update={"name": f"pilot-{place}"}), task, name, bool(change),
                      resolve_device(parsed.device))
        save(parsed.out, rows, profile, parsed.device)
        print(pd.DataFrame(rows).query("metric in ('f1', 'exact_match', 'nll')").tail(3).to_string(), flush=True)


def save(out: Path, rows: list[dict[str, Any]], profile: Profile, device: str) -> None:
    """Write the table, with what it held of other settings, and, beside it, its manifest."""
    table = conform("pilot", rows)
    if out.is_file():
        before, tried = read_table("pilot", out), set(zip(table.task, table.setting, strict=True))
        kept = [place not in tried for place in zip(before.task, before.setting, strict=True)]
        table = conform("pilot", pd.concat([before[kept], table], ignore_index=True))
    content = to_csv(table)
    write_whole(out, content)
    once = table.drop_duplicates(["task", "setting"])
    facts = Facts(seconds=float((once.train_seconds + once.score_seconds).sum()), device=device_name(device),
                  seeds=(0,), used=int(once.n.sum()))
    write_manifest(out.with_suffix(".json"), facts, table="pilot", profile="pretrained",
                   config_hash=config_hash(profile, "finetune"), sha256=sha256(content), rows=len(table))


def tried(profile: Profile, task: str, name: str, trains: bool, device: str) -> list[dict[str, Any]]:
    """The rows of one setting: one per metric, and the mean loss of the gold answer."""
    key, started = RunKey(profile.name, task, "real" if trains else "rope", 0, profile.base_names[0]), time.monotonic()
    if trains and not adapter_path(profile, key).is_dir():
        train(profile, key, device)
    trained = time.monotonic() - started
    model, tokenizer = load_run(profile, key, device)
    held_out = Path(profile.data) / task / "held_out" / f"dev_{profile.train_length}.jsonl"
    examples = read_examples(held_out if held_out.is_file() else held_out.with_suffix(".jsonl.gz"), task)
    scores = evaluate_each(model, tokenizer, examples, batch_size=batch_size(model, profile.train_length), losses=True)
    place = {
        "task": task, "setting": name, "lr": profile.lora.lr if trains else None,
        "accumulation": profile.lora.accumulation if trains else None, "epochs": profile.lora.epochs if trains else 0,
        "rank": profile.lora.rank if trains else None, "rope_theta": profile.rope_theta,
        "train_seconds": round(trained, 1), "score_seconds": round(time.monotonic() - started - trained, 1),
    }
    losses = {"metric": "nll", "value": float(f"{scores['nll'].mean():.5g}"), "n": len(scores)}
    return [{**place, **row} for row in [*metric_rows(scores, task, profile.bootstrap), losses]]


if __name__ == "__main__":
    main()
