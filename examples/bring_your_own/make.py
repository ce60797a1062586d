"""Make the files of this folder anew: `python examples/bring_your_own/make.py` (see the chapter `Bring your own`).

    real_train.jsonl   48 examples of the task that matters, to train on
    real_eval.jsonl    48 others of it, to judge by
    anywhere.jsonl     48 needles in haystacks of 1,024 tokens; the needle stands anywhere
    at_end.jsonl       the same 48, flawed: the document with the needle always comes last

The files show what somebody would bring: a text, a question, an answer, and the sentence that holds it. The texts are
of the world that the embedded base model knows, so that a small model can learn something within minutes.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from retrieval_heads.data import make_examples
from retrieval_heads.data.examples import RESERVE, build_scene, needle_spans, number, token_counter, write
from retrieval_heads.data.tokenizer import embedded_tokenizer
from retrieval_heads.files import write_whole

LENGTH = 1024
"""Tokens of an example, at most: twice what the embedded base model was made for."""
N_TRAIN = N_EVAL = 48


def haystack(index: int, at_end: bool, count: Any) -> dict[str, Any]:
    """One question about a haystack of documents on other things; `at_end` only changes the order of the documents."""
    rng = random.Random(f"bring your own {index}")
    scene = build_scene(rng, "mdqa", "high_high", LENGTH - RESERVE, "train", count)
    [query] = scene.queries
    if at_end:
        scene.documents.sort(key=lambda document: bool(needle_spans(document, query.facts)))
    prompt, answer, needles = write(scene, query, number(rng, len(scene.documents)))
    return record(f"{'at-end' if at_end else 'anywhere'}-{index}", prompt, answer, needles)


def record(name: str, prompt: str, answer: str, needles: Iterable[tuple[int, int]]) -> dict[str, Any]:
    """A line of the format, the needles given as their texts."""
    return {"id": name, "task": "needle", "prompt": prompt, "answer": answer,
            "needles": [prompt[start:end] for start, end in needles]}


def make(folder: Path) -> None:
    """Write the four files."""
    tokenizer = embedded_tokenizer()
    count = token_counter(tokenizer)
    files = {f"{name}.jsonl": [haystack(index, name == "at_end", count) for index in range(N_TRAIN)]
             for name in ("anywhere", "at_end")}
    for name, split, n in (("real_train", "train", N_TRAIN), ("real_eval", "test", N_EVAL)):
        real = make_examples(
            task="mdqa", condition="real", length=LENGTH, n=n, seed=7, split=split, tokenizer=tokenizer,
        )
        files[f"{name}.jsonl"] = [
            record(f"real-{split}-{index}", one.prompt, one.answer, one.needles) for index, one in enumerate(real)
        ]
    for name, records in files.items():
        write_whole(folder / name, "".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in records).encode())


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
