"""Valid score files, results and profiles, each spoilt by one fault: further surfaces of `bad_inputs.py`."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import yaml
from bad_files import Call, Surface, Valid, spoil_json
from faults import file_fault, json_fault

from retrieval_heads.cli import main
from retrieval_heads.config import load_profile
from retrieval_heads.heads.exchange import read_scores
from retrieval_heads.store import load_table


def score_files(rng: random.Random, valid: Valid, folder: Path) -> tuple[str, Call]:
    path = valid.copy("scores.json", folder)
    given = json.loads(path.read_text())
    more = spoil_json(rng, path) | {fault: partial(path.write_text, text) for fault, text in {
        "a head twice": '{"0-0": [0.1], "0-0": [0.2]}', "no head": "{}", "a head of no layer": '{"x-0": [0.1]}',
        "a score that is no number": json.dumps(given | {"0-1": [float("nan")]}),
        "an infinite score": '{"0-0": [1e999]}',
        "a layer of 10^12": json.dumps(given | {"1000000000000-0": [0.1]}), "a head below zero": '{"0--1": [0.1]}',
    }.items()}
    fault = file_fault(rng, path, more)
    if rng.random() < 0.5:
        return fault, partial(read_scores, path, (2, 4))
    return fault, partial(main, ["compare-scores", str(path), str(valid.folder / "scores.json")])


def tables(rng: random.Random, valid: Valid, folder: Path) -> tuple[str, Call]:
    home = valid.copy("home", folder)
    kind = rng.choice(["csv", "json"])
    path = home / "runs" / "tiny" / "tables" / f"base.{kind}"
    text = path.read_text()
    csv = {
        "a column missing": "\n".join(line.partition(",")[2] for line in text.splitlines()), "a row twice": text +
        text.splitlines()[-1] + "\n", "a number that is text": text.replace(",2\n", ",two\n"),
        "another number": text[:-2] + "9\n", "no rows": text.splitlines()[0] + "\n",
    }
    more = spoil_json(rng, path) if kind == "json" else {
        fault: partial(path.write_text, new) for fault, new in csv.items()}
    fault = file_fault(rng, path, more)

    def read() -> None:
        os.environ["RETRIEVAL_HEADS_HOME"] = str(home)
        try:
            load_table("tiny", "base")
        finally:
            del os.environ["RETRIEVAL_HEADS_HOME"]

    return f"{kind}: {fault}", read


def rank_folders(rng: random.Random, valid: Valid, folder: Path) -> tuple[str, Call]:
    out = valid.copy("ranked", folder)
    name = rng.choice(["request.json", "measured/adapters-a__s0.json", "measured/untuned.json"])
    fault = file_fault(rng, out / name, spoil_json(rng, out / name))
    return f"{name}: {fault}", partial(main, valid.rank(out))


YAML = {
    "a key twice": "seeds: [0]\n", "a tab": "\tx: 1\n", "an open bracket": "x: [1\n", "an unknown key": "sedes: [1]\n",
    "an object of Python": "x: !!python/object/apply:os.getcwd []\n", "an alias of nothing": "x: *gone\n",
    "a list inside itself": "x: &a [*a]\n", "a key that is a list": "? [a, b]\n: 1\n",
    "a key that is a number": "1: 2\n", "aliases that multiply": "".join(
        f"x{k}: &x{k} [{' , '.join([f'*x{k - 1}' if k else '1'] * 9)}]\n" for k in range(12)),
    "a number of 5,000 digits": "x: " + "9" * 5000 + "\n", "two documents": "---\nx: 1\n",
}


def profiles(rng: random.Random, valid: Valid, folder: Path) -> tuple[str, Call]:
    path = valid.copy("tiny.yaml", folder)
    content = yaml.safe_load(path.read_text())

    def member() -> None:
        path.write_text(yaml.safe_dump(json_fault(rng, content)[1]), encoding="utf-8")

    def number() -> None:
        section = rng.choice([content, *(one for one in content.values() if isinstance(one, dict))])
        name = rng.choice([key for key, one in section.items() if type(one) in (int, float)])
        section[name] = rng.choice([0, -1, float("nan"), float("inf"), -0.5])
        path.write_text(yaml.safe_dump(content), encoding="utf-8")

    more: dict[str, Callable[[], None]] = {"field missing or of a wrong type": member, "a number out of range": number}
    text = path.read_text()
    more |= {fault: partial(path.write_text, text + line) for fault, line in YAML.items()}
    return file_fault(rng, path, more), partial(load_profile, path)


RESULTS: dict[str, Surface] = {
    "score file": score_files, "results folder": tables, "results folder of rank": rank_folders, "profile": profiles,
}
