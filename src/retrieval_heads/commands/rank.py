"""`rank`: an order of candidate training sets from short fine-tunes and a few real examples."""

from __future__ import annotations

import argparse
from pathlib import Path

from retrieval_heads.commands.diagnose import request_of
from retrieval_heads.commands.template_arguments import add_option


def add(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `rank` to the command line."""
    parser = verbs.add_parser(
        "rank", help="order candidate training sets by short fine-tunes and a few dozen real examples",
        description="Fine-tunes the model shortly on the first examples of each set, measures it on real probe "
        "examples, and prints values and ranks of the sets by several predictors, an order, and how far the report "
        "found each predictor to be right. The same command again makes only what is not there yet.",
    )
    parser.add_argument("--model", required=True, metavar="FOLDER", help="the base model, or a cached hub id")
    parser.add_argument("--train", required=True, action="append", metavar="NAME=FILE",
                        help="a candidate set (JSON Lines); give it at least twice")
    parser.add_argument("--probe", required=True, type=Path, metavar="FILE", help="real examples, a few dozen")
    real = parser.add_mutually_exclusive_group()
    real.add_argument("--real-heads", type=Path, metavar="SCORES.json",
                      help='head scores of a model trained on real examples, {"layer-head": [scores]}')
    real.add_argument("--real-train", type=Path, metavar="FILE", help="real training examples, to find its heads by")
    parser.add_argument("--base-probe", type=Path, metavar="FILE", help="real examples that are short enough for the "
                        "model as it is, to find its own heads by; without it, those of --probe that are")
    parser.add_argument("--length", type=int, metavar="N", help="most tokens of an example (default: of the longest)")
    parser.add_argument("--rope-theta", type=float, metavar="T", help="of the fine-tuned models (default: the model's, "
                        "raised by NTK-aware scaling where the length is greater than the model's)")
    parser.add_argument("--examples", type=int, default=50, help="how many of each set are used (default 50)")
    parser.add_argument("--epochs", type=int, default=1, metavar="N",
                        help="how often each example is trained on (default 1)")
    parser.add_argument("--lr", type=float, default=3e-3, help="highest learning rate (default 0.003, for models of "
                        "millions of parameters; 0.0002 is usual for billions)")
    parser.add_argument("--batch-size", type=int, default=4, metavar="N", help="examples per step (default 4)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2],
                        help="one short fine-tune of each set per seed (default 0 1 2); with a single seed, no two "
                        "sets can be told apart")
    parser.add_argument("--threshold", type=float, default=0.1, help="retrieval heads score above this (default 0.1)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="adapters and results")
    add_option(parser)
    parser.set_defaults(function=_rank)


def _rank(parsed: argparse.Namespace) -> None:
    from retrieval_heads.progress import lines
    from retrieval_heads.rank import Request, rank_sets

    with lines():
        print(rank_sets(request_of(Request, parsed), parsed.device).text())
    print(f"\n{parsed.out / 'rank.csv'}\n{parsed.out / 'rank.json'}")
