"""`pretrain`: a base model from scratch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from retrieval_heads.paths import needed_checkout


def add(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `pretrain` to the command line."""
    parser = verbs.add_parser("pretrain", help="train the base model from scratch (about ten minutes on one H200)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model; a tokenizer there is kept")
    parser.add_argument("--seconds", type=float, default=560.0, help="time limit of the training")
    parser.add_argument("--steps", type=int, default=5_000, help="optimizer steps, about as many as time allows")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate of AdamW (embeddings, norms)")
    parser.add_argument("--muon-lr", type=float, default=3e-3, help="peak learning rate of Muon (matrices)")
    parser.add_argument("--decay", type=float, default=0.8, help="share of the training in which the rate falls")
    parser.add_argument("--batch", type=int, default=192, help="rows a step")
    parser.add_argument("--short", type=float, nargs=2, default=(0.9, 0.3), metavar=("FIRST", "LAST"),
                        help="share of rows with short scenes, at first and in the second half of the steps")
    parser.add_argument("--workers", type=int, default=15, help="processes that make text")
    parser.add_argument("--seed", type=int, default=0, help="of weights and text")
    parser.add_argument("--device", default="cuda", help="cpu for a short try")
    parser.add_argument("--no-compile", action="store_true", help="run the model as it is, for a short try on a CPU")
    parser.add_argument("--resume", action="store_true", help="start from the weights in --out, with new rows")
    parser.set_defaults(function=_pretrain)


def _pretrain(parsed: argparse.Namespace) -> None:
    sys.path.insert(0, str(needed_checkout() / "tools"))  # not part of the package: only this verb needs it
    from pretrain.make_base import train_base
    from pretrain.train import PretrainSettings

    names = ("seconds", "steps", "lr", "muon_lr", "decay", "batch", "short", "workers", "seed")
    chosen = {name: getattr(parsed, name) for name in names}
    settings = PretrainSettings(**chosen, compile=not parsed.no_compile)
    train_base(parsed.out, settings, parsed.device, resume=parsed.resume)
