"""Valid files of every kind, each spoilt by one fault: the surfaces of `bad_inputs.py` that read files.

A surface takes a generator, the valid inputs and an empty folder, and gives the fault's name and the call to be tried.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from faults import dump, file_fault, json_fault, other_value
from made_official import mdqa_records, musique_records, save_official, topic_record
from model_folders import make_adapter
from tiny_study import save_tiny_base, write_profile

from retrieval_heads.cli import main
from retrieval_heads.data import folder as data_folder
from retrieval_heads.data import official
from retrieval_heads.data.examples import make_examples
from retrieval_heads.data.jsonl import read_examples, write_examples
from retrieval_heads.heads.exchange import write_scores
from retrieval_heads.models.load import load_model

Call = Callable[[], Any]
Surface = Callable[[random.Random, "Valid", Path], tuple[str, Call]]

RECORD = {"task": "own", "prompt": "It is nine. It is late.\n\nQuestion: When?\nAnswer:", "answer": "nine",
          "needles": ["It is nine."]}
OFFICIAL = {"mdqa": mdqa_records, "musique": musique_records, "summhay": lambda n: [topic_record(k) for k in range(n)]}


@dataclass(frozen=True)
class Valid:
    """Where the valid inputs are: made once."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Valid:
        base = save_tiny_base(folder / "base")
        make_adapter(base, folder / "adapter", 0)
        write_profile(folder / "tiny.yaml", base, conditions=["real"])
        for name, condition in (("a", "high_high"), ("b", "low_low"), ("real", "real")):
            made = make_examples(task="mdqa", condition=condition, length=200, n=3, seed=0)
            write_examples(folder / f"{name}.jsonl",
                           [replace(one, task="summhay", answer="[1]", answers=("[1]",)) for one in made])
        (folder / "data" / "mdqa" / "held_out").mkdir(parents=True)
        for place in ("real", "held_out/test_256", "held_out/probe_256"):
            write_examples(folder / "data" / "mdqa" / f"{place}.jsonl", made)
        for task, records in OFFICIAL.items():
            (folder / f"{task}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records(2)))
        save_official(folder / "official", "mdqa", 12)
        write_scores(folder / "scores.json", [[0.5, 0.0, 0.1, 0.2]] * 2)
        if main(["run", "base", "--profile", str(folder / "tiny.yaml"), "--home", str(folder / "home")]) or main(
                cls(folder).rank(folder / "ranked")):
            raise RuntimeError("the valid inputs are not valid")
        os.environ.pop("RETRIEVAL_HEADS_HOME", None)
        return cls(folder)

    def copy(self, name: str, into: Path) -> Path:
        source = self.folder / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, into / name)
        return into / name

    def rank(self, out: Path) -> list[str]:
        """A ranking of two sets."""
        sets = [text for name in "ab" for text in ("--train", f"{name}={self.folder / name}.jsonl")]
        return ["rank", "--model", str(self.folder / "base"), *sets, "--probe", str(self.folder / "real.jsonl"),
                "--device", "cpu", "--length", "256", "--out", str(out)]


def _spoil_lines(rng: random.Random, path: Path, only: Callable[[tuple], bool] = lambda path: True) -> str:
    """A fault of one record, or of the file."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def record() -> None:
        place = rng.randrange(len(records))
        records[place] = json_fault(rng, records[place], only)[1]
        path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")

    return file_fault(rng, path, {"field missing or of a wrong type": record})


def _examples(rng: random.Random, folder: Path) -> tuple[str, Path]:
    path = folder / "own.jsonl"
    path.write_text("".join(json.dumps(RECORD) + "\n" for _ in range(3)), encoding="utf-8")
    wrong = {
        "needle not in the prompt": {"needles": ["It is ten."]}, "needle there twice": {"needles": ["It is"]},
        "span out of the prompt": {"needles": [[0, rng.randrange(60, 10**12)]]},
        "span with its ends swapped": {"needles": [[rng.randrange(6, 12), rng.randrange(6)]]},
        "spans that overlap": {"needles": [[0, 9], [rng.randrange(9), 12]]}, "empty prompt": {"prompt": " "},
        "empty answer": {"answer": ""}, "prompt and messages": {"messages": [{"role": "user", "content": "x"}]},
        "half a character": {"prompt": "a\ud83d It is nine. Question: x Answer:"}, "empty needle": {"needles": [""]},
    }
    if rng.random() < 0.4:
        fault = rng.choice(sorted(wrong))
        dump(path, RECORD | wrong[fault])
        return fault, path
    return _spoil_lines(rng, path, only=lambda place: place != ("task",)), path


def examples(rng: random.Random, valid: Valid, folder: Path) -> tuple[str, Call]:
    fault, path = _examples(rng, folder)
    return fault, partial(read_examples, path)


def check(rng: random.Random, valid: Valid, folder: Path) -> tuple[str, Call]:
    fault, path = _examples(rng, folder)
    return fault, partial(main, ["check", str(path), "--model", str(valid.folder / "base")])


def official_files(rng: random.Random, valid: Valid, folder: Path) -> tuple[str, Call]:
    task = rng.choice(sorted(OFFICIAL))
    path = valid.copy(f"{task}.jsonl", folder)
    optional = ("title", "is_supporting", "answer_aliases")
    fault = _spoil_lines(rng, path, only=lambda place: place[-1] not in optional and "insights_included" not in place)
    if rng.random() < 0.5:
        return fault, partial(getattr(official, f"load_{task}"), path)
    return fault, partial(main, ["convert", task, str(path), "--out", str(folder / "out" / "x.jsonl")])


def prepared(rng: random.Random, valid: Valid, folder: Path) -> tuple[str, Call]:
    name = {"mdqa": "nq-open-x.jsonl", "musique": "musique_x.jsonl", "summhay": "topic_x.jsonl"}
    task = rng.choice(sorted(OFFICIAL))
    path = valid.copy(f"{task}.jsonl", folder).rename(folder / name[task])
    return _spoil_lines(rng, path), partial(main, [
        "prepare", "--official", str(folder), "--task", task, "--tokenizer", str(valid.folder / "base"), "--out",
        str(folder / "out"), "--length", "900", "--train", "1", "--probe", "1", "--test", "1"])


def spoil_json(rng: random.Random, path: Path) -> dict[str, Callable[[], None]]:
    """Faults of one member of a JSON file."""
    def member() -> None:
        content = json.loads(path.read_text(encoding="utf-8"))
        dump(path, json_fault(rng, content)[1])

    return {"field missing or of a wrong type": member}


def _spoil_weights(rng: random.Random, path: Path) -> dict[str, Callable[[], None]]:
    content = path.read_bytes()

    def header(change: Callable[[dict], Any]) -> None:
        size = int.from_bytes(content[:8], "little")
        new = json.loads(content[8 : 8 + size])
        change(new)
        packed = json.dumps(new).encode()
        path.write_bytes(len(packed).to_bytes(8, "little") + packed + content[8 + size :])

    def some(header: dict) -> str:
        return rng.choice(sorted(set(header) - {"__metadata__"}))

    return {
        "weights cut off": lambda: path.write_bytes(content[: rng.randrange(9, len(content) - 1)]),
        "a tensor missing": lambda: header(lambda one: one.pop(some(one))),
        "a tensor renamed": lambda: header(lambda one: one.update(other=one.pop(some(one)))),
        "a tensor of another shape": lambda: header(lambda one: one[some(one)]["shape"].append(2)),
        "a tensor of an unknown type": lambda: header(lambda one: one[some(one)].update(dtype="F33")),
        "a header of 2^60 bytes": lambda: path.write_bytes((2**60).to_bytes(8, "little") + content[8:]),
        "a pickle in its place": lambda: path.write_bytes(b"\x80\x04\x95\x0b\x00\x00\x00\x8c\x07x\x94."),
    }


CONFIG = {
    "unknown model type": {"model_type": "lama"}, "no model type": {"model_type": None},
    "more layers than weights": {"num_hidden_layers": 3}, "another width": {"hidden_size": 32},
    "heads that are no number": {"num_attention_heads": "four"}, "no heads": {"num_attention_heads": 0},
    "fewer than no heads": {"num_attention_heads": -1}, "a width of 10^12": {"hidden_size": 10**12},
    "an encoder": {"model_type": "bert"}, "another vocabulary": {"vocab_size": 7},
    "an unknown activation": {"hidden_act": "smooth"}, "unknown RoPE": {"rope_parameters": {"rope_type": "odd"}},
}


def model_folders(rng: random.Random, valid: Valid, folder: Path) -> tuple[str, Call]:
    base = valid.copy("base", folder)
    name = rng.choice(["config.json", "model.safetensors", "tokenizer.json"])
    more: dict[str, Callable[[], None]] = {"another tokenizer class": lambda: dump(
        base / "tokenizer.json", {"version": "1.0", "model": {"type": other_value(rng, "BPE")}})}
    if name == "config.json":
        config = json.loads((base / name).read_text())
        more = {fault: partial(dump, base / name, config | change) for fault, change in CONFIG.items()}
    elif name == "model.safetensors":
        more = _spoil_weights(rng, base / name)
    return f"{name}: {file_fault(rng, base / name, more)}", partial(load_model, base)


def adapters(rng: random.Random, valid: Valid, folder: Path) -> tuple[str, Call]:
    adapter, base = valid.copy("adapter", folder), valid.folder / "base"
    name = rng.choice(["extension.json", "adapter_config.json", "adapter_model.safetensors", "another base"])
    if name == "another base":
        base = save_tiny_base(folder / "base", seed=1)
        return name, partial(load_model, base, adapter=adapter)
    path = adapter / name
    config = json.loads(path.read_text()) if name.endswith("json") else {}
    more = _spoil_weights(rng, path) if not config else spoil_json(rng, path)
    if name == "adapter_config.json":
        more = {fault: partial(dump, path, config | change) for fault, change in {
            "unknown kind": {"peft_type": "MORA"}, "another rank": {"r": 3}, "rank that is no number": {"r": "x"},
            "modules that are not there": {"target_modules": ["wo"]}}.items()}
    return f"{name}: {file_fault(rng, path, more)}", partial(load_model, base, adapter=adapter)


def data_folders(rng: random.Random, valid: Valid, folder: Path) -> tuple[str, Call]:
    data = valid.copy("data", folder)
    data_folder.held_out_file.cache_clear()  # the last case lay in the same place
    place = rng.choice(["real", "held_out/test_256"])
    fault = _spoil_lines(rng, data / "mdqa" / f"{place}.jsonl", only=lambda path: path[0] in ("prompt", "needles"))
    if place == "real":
        return fault, lambda: list(data_folder.training_file(data, "mdqa", "real", 3))
    return fault, partial(data_folder.held_out_file, data, "mdqa", "test", 256, 3)


FILES: dict[str, Surface] = {
    "file of examples, read": examples, "file of examples, checked": check, "official files": official_files,
    "official files, prepared": prepared, "model folder": model_folders, "adapter folder": adapters,
    "data folder": data_folders,
}
