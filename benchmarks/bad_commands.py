"""Valid command lines with one argument spoilt, missing or unknown: the surface of `bad_inputs.py` for commands."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bad_files import Call, Surface, Valid

from retrieval_heads.cli import main

COUNTS = ("0", "-1", "x", "1.5", "nan", "", "1e3")
NUMBERS = ("x", "nan", "-1", "inf", "-inf", "")
PATHS = ("nowhere", "", "x" * 300, "nowhere/at/all", "~nobody-of-this-name/x", "FOLDER", "LINK")
"""`FOLDER` and `LINK` stand for a folder where a file is wanted, and for a link to nothing."""

OUTS = ("FILE/below", "y" * 300, "FILE/deep/below", "")
WORDS = ("unreal", "", "MDQA", "x" * 500, "<script>", "a\nb")


def _study(valid: Valid, out: Path) -> list[str]:
    return ["--profile", str(valid.folder / "tiny.yaml"), "--home", str(out)]


STUDY = {"--profile": PATHS, "--task": WORDS, "--seed": ("x", "7", "1.5"), "--base": WORDS, "--limit": COUNTS,
         "--device": WORDS, "--home": OUTS}
VERBS: dict[str, tuple[Callable[[Valid, Path], list[str]], dict[str, tuple[str, ...]]]] = {
    "run": (lambda valid, out: ["finetune", *_study(valid, out)], STUDY),
    "grid": (_study, STUDY | {"--seconds": ("x", "")}),
    "publish": (lambda valid, out: [], {"--profile": PATHS}),
    "pretrain": (lambda valid, out: ["--out", str(out)], {
        "--seconds": ("x", ""), "--steps": ("x", "1.5"), "--batch": ("x", "1.5"), "--out": OUTS[:-1]}),
    "write": (lambda valid, out: [
        "--real", str(valid.folder / "real.jsonl"), "--tokenizer", str(valid.folder / "base"), "--length", "256",
        "--out", str(out), "--conditions", "symbolic", "--dry-run",
    ], {"--real": PATHS, "--tokenizer": PATHS, "--length": COUNTS, "--conditions": WORDS, "--count": COUNTS,
        "--limit": COUNTS, "--parameters": ("{", "[]", "x"), "--concurrency": COUNTS, "--attempts": COUNTS}),
    "fetch": (lambda valid, out: ["mdqa", "--to", str(out)], {"--sha256": ("x", "=", "a=b"), "TASK": WORDS}),
    "prepare": (lambda valid, out: [
        "--official", str(valid.folder / "official"), "--task", "mdqa", "--tokenizer", str(valid.folder / "base"),
        "--out", str(out), "--length", "400", "--train", "1", "--probe", "1", "--test", "1",
    ], {"--official": PATHS, "--task": WORDS, "--tokenizer": PATHS, "--length": COUNTS, "--train": COUNTS,
        "--probe": COUNTS, "--test": COUNTS, "--depths": ("x", "2", "-1", "nan", "0,,1"), "--short-length": COUNTS[1:],
        "--instruction": (" x ", "x ")}),
    "convert": (lambda valid, out: ["mdqa", str(valid.folder / "mdqa.jsonl"), "--out", str(out)], {
        "--limit": COUNTS, "--needle": WORDS, "--n-documents": COUNTS, "--out": OUTS}),
    "export": (lambda valid, out: [
        "--task", "mdqa", "--condition", "real", "--length", "400", "--n", "1", "--out", str(out),
    ], {"--task": WORDS, "--condition": WORDS, "--length": (*COUNTS, "5"), "--n": COUNTS, "--split": WORDS,
        "--tokenizer": PATHS, "--out": OUTS}),
    "check": (lambda valid, out: [str(valid.folder / "a.jsonl"), "--model", str(valid.folder / "base")], {
        "--model": PATHS, "--against": PATHS, "--length": COUNTS, "--json": OUTS, "FILE": PATHS}),
    "compare-scores": (lambda valid, out: [str(valid.folder / "scores.json")] * 2, {
        "FILE": PATHS, "--threshold": ("x", "")}),
    "rank": (lambda valid, out: valid.rank(out)[1:], {
        "--model": PATHS, "--train": ("a", "a=", "=b", "a=nowhere", "../x=nowhere", "a=FOLDER"), "--probe": PATHS,
        "--real-heads": PATHS, "--real-train": PATHS, "--base-probe": PATHS, "--length": (*COUNTS, "3"),
        "--rope-theta": NUMBERS, "--examples": COUNTS, "--epochs": COUNTS, "--lr": NUMBERS, "--batch-size": COUNTS,
        "--seed": ("x", "-1", "1.5"), "--threshold": NUMBERS, "--device": WORDS, "--out": OUTS}),
    "diagnose": (lambda valid, out: [
        "--model", str(valid.folder / "base"), "--train", f"a={valid.folder / 'a.jsonl'}", "--eval",
        str(valid.folder / "real.jsonl"), "--device", "cpu", "--length", "256", "--out", str(out),
    ], {"--model": PATHS, "--train": ("a", "a=", "=b", "real=nowhere", "a=nowhere", "../x=nowhere", "b=FOLDER"),
        "--adapter": ("a", "b=nowhere", "b=FOLDER"), "--eval": PATHS, "--real-train": PATHS, "--probe": PATHS,
        "--n-probe": (*COUNTS, "99"), "--length": (*COUNTS, "3"), "--rope-theta": NUMBERS,
        "--seeds": ("x", "-1", "1.5"), "--epochs": COUNTS, "--lr": NUMBERS, "--rank": COUNTS, "--batch-size": COUNTS,
        "--threshold": NUMBERS, "--draws": COUNTS, "--limit": COUNTS, "--device": WORDS, "--out": OUTS}),
}
"""Each verb with valid arguments and, by option, values that it cannot have. A name in capitals is a bare argument."""


def commands(verb: str, rng: random.Random, valid: Valid, folder: Path) -> tuple[str, Call]:
    """One option of the verb with a value that it cannot have, an option that is missing, or one that is unknown."""
    made, options = VERBS[verb]
    line = made(valid, folder / "out")
    (folder / "FILE").write_text("not a folder")
    (folder / "FOLDER").mkdir()
    (folder / "LINK").symlink_to(folder / "gone")
    kind = rng.random()
    if kind < 0.05:
        return f"{verb}: an unknown option", partial(main, [verb, *line, "--unknown"])
    given = [place for place, text in enumerate(line) if text.startswith("--") and text != "--dry-run"]
    if kind < 0.15 and given:
        place = rng.choice(given)
        return f"{verb}: an option without its value", partial(main, [verb, *line[: place + 1]])
    option = rng.choice(sorted(options))
    value = rng.choice(options[option])
    for name in ("FOLDER", "LINK", "FILE"):
        value = value.replace(name, str(folder / name))
    if not option.startswith("--"):
        return f"{verb}: {option}", partial(main, [verb, value, *line[1:]])
    return f"{verb}: {option}", partial(main, [verb, *_with(line, option, value)])


def _with(line: list[str], option: str, value: str) -> list[str]:
    """The line with another value of the option; `=` also takes one that begins with a dash."""
    new = f"{option}={value}"
    if option in line:
        place = line.index(option)
        return [*line[:place], new, *line[place + 2 :]]
    return [*line, new]


COMMANDS: dict[str, Surface] = {"command line": lambda rng, valid, folder: commands(
    rng.choice(sorted(VERBS)), rng, valid, folder)}
