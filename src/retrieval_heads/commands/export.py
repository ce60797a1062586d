"""`export`: examples of the study's own tasks as a file in the format of examples."""

from __future__ import annotations

import argparse
from pathlib import Path

from retrieval_heads.errors import ConfigError

SPLITS = ("train", "probe", "test")


def add(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `export` to the command line."""
    from retrieval_heads.data.conditions import CONDITIONS
    from retrieval_heads.data.example import TASKS

    parser = verbs.add_parser("export", help="write examples of the study's own tasks as JSON Lines")
    parser.add_argument("--task", required=True, choices=TASKS, help="which task")
    parser.add_argument("--condition", required=True, metavar="NAME", help=f"one of {', '.join(CONDITIONS)}")
    parser.add_argument("--length", required=True, type=int, help="most tokens of an example")
    parser.add_argument("--n", required=True, type=int, help="number of examples")
    parser.add_argument("--seed", type=int, default=0, help="another one gives other examples")
    parser.add_argument("--split", default="train", choices=SPLITS, help="no two splits share a name")
    parser.add_argument("--tokenizer", metavar="FOLDER", help="the model whose tokens are counted; the embedded one's "
                        "without it")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help=".jsonl, or .jsonl.gz to pack it")
    parser.set_defaults(function=_export)


def _export(parsed: argparse.Namespace) -> None:
    from retrieval_heads.data.examples import make_examples
    from retrieval_heads.data.jsonl import write_examples
    from retrieval_heads.models.load import load_tokenizer

    if parsed.n < 1:
        raise ConfigError("not a number of examples", where="--n", value=parsed.n, remedy="Give 1 or more.")
    examples = make_examples(
        task=parsed.task, condition=parsed.condition, length=parsed.length, n=parsed.n, seed=parsed.seed,
        split=parsed.split, tokenizer=load_tokenizer(Path(parsed.tokenizer)) if parsed.tokenizer else None,
    )
    print(f"{parsed.out}: {write_examples(parsed.out, examples)} examples")
