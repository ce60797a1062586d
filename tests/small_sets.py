"""A tiny base, two training sets and real examples in a folder, and command lines that use them."""

from __future__ import annotations

from pathlib import Path

from tiny_study import cited, save_tiny_base

from retrieval_heads.data.jsonl import write_examples


def write_sets(folder: Path) -> Path:
    """`base/`, `high.jsonl`, `low.jsonl`, `real.jsonl` and `eval.jsonl` in the folder; returns it."""
    save_tiny_base(folder / "base")
    for name, condition, split, n in (("high", "high_high", "train", 3), ("low", "low_low", "train", 3),
                                      ("real", "real", "train", 3), ("eval", "real", "test", 6)):
        write_examples(folder / f"{name}.jsonl", cited(condition=condition, split=split, n=n))
    return folder


def _common(verb: str, folder: Path, out: Path) -> list[str]:
    return [verb, "--model", str(folder / "base"), "--train", f"high={folder / 'high.jsonl'}", "--train",
            f"low={folder / 'low.jsonl'}", "--real-train", str(folder / "real.jsonl"), "--length", "256", "--epochs",
            "1", "--device", "cpu", "--threshold", "0.02", "--out", str(out)]


def diagnose_line(folder: Path, out: Path) -> list[str]:
    return [*_common("diagnose", folder, out), "--eval", str(folder / "eval.jsonl"), "--draws", "1"]


def rank_line(folder: Path, out: Path) -> list[str]:
    return [*_common("rank", folder, out), "--probe", str(folder / "eval.jsonl")]
