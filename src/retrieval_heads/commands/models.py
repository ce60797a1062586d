"""One model: `pretrain` it, or bring it by `convert-gguf`; its retrieval `heads`, and `compare-scores` of two."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval_heads.commands import from_options
from retrieval_heads.errors import ConfigError, DataError
from retrieval_heads.paths import needed_checkout

if TYPE_CHECKING:
    import pandas as pd

    from retrieval_heads.heads.scores import HeadScores

TABLE, EXCHANGE, MAP = "head_scores.csv", "retrieval_head.json", "head_map.png"


def add_pretrain(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `pretrain` to the command line."""
    parser = verbs.add_parser("pretrain", help="train the base model from scratch (about ten minutes on one H200)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model; a tokenizer there is kept")
    parser.add_argument("--seconds", type=float, default=560.0, help="time limit of the training")
    parser.add_argument("--steps", type=int, default=5_000, help="optimizer steps, about as many as the time allows")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate of AdamW (embeddings, norms)")
    parser.add_argument("--muon-lr", type=float, default=3e-3, help="peak learning rate of Muon (matrices)")
    parser.add_argument("--decay", type=float, default=0.8, help="share of the training in which the rate falls")
    parser.add_argument("--batch", type=int, default=192, help="rows per step")
    parser.add_argument("--short", type=float, nargs=2, default=(0.9, 0.3), metavar=("FIRST", "LAST"),
                        help="share of rows with short scenes, at first and in the second half of the steps")
    parser.add_argument("--workers", type=int, default=15, help="processes that make text")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and text")
    parser.add_argument("--device", default="cuda", help="cpu for a short trial")
    parser.add_argument("--no-compile", action="store_true", help="run the model uncompiled, for a trial on a CPU")
    parser.add_argument("--resume", action="store_true", help="start from the weights in --out, with new rows")
    parser.set_defaults(function=_pretrain)


def _pretrain(parsed: argparse.Namespace) -> None:
    sys.path.insert(0, str(needed_checkout() / "tools"))  # not part of the package: only this verb needs it
    from pretrain.make_base import train_base
    from pretrain.train import PretrainSettings

    settings = from_options(PretrainSettings, parsed, compile=not parsed.no_compile)
    train_base(parsed.out, settings, parsed.device, resume=parsed.resume)


def add_convert_gguf(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `convert-gguf` to the command line."""
    parser = verbs.add_parser(
        "convert-gguf", help="write the model of a GGUF file as safetensors with its tokenizer",
        description="For a model that you have only in the format of llama.cpp. Quantised weights become "
        "bfloat16, which does not restore their precision. Needs the package gguf.",
    )
    parser.add_argument("file", metavar="FILE", help="a whole GGUF file of a causal language model")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the model's folder, which must not exist")
    parser.set_defaults(function=_convert_gguf)


def _convert_gguf(parsed: argparse.Namespace) -> None:
    from retrieval_heads.models.gguf import convert_gguf

    convert_gguf(parsed.file, parsed.out)


def add_heads(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `heads` to the command line."""
    parser = verbs.add_parser(
        "heads", help="find the retrieval heads of a model on a file of examples",
        description="Scores every attention head on the examples, and prints the strongest with their chance levels. "
        "With --out it also writes head_scores.csv (all heads), head_map.png, and retrieval_head.json in the form of "
        "Retrieval_Head (Wu et al. 2024), which `rank` and `compare-scores` read.",
    )
    parser.add_argument("file", metavar="FILE", help="JSON Lines of examples with needles; see `check`")
    parser.add_argument("--model", required=True, metavar="FOLDER", help="the model, or a cached hub id")
    parser.add_argument("--adapter", metavar="FOLDER", help="an adapter that this package has trained on the model")
    parser.add_argument("--kind", choices=("copy", "insight"), help="kind of score (default: copy, or insight if "
                        "answers are numbers of documents)")
    parser.add_argument("--mode", choices=("forced", "generated"), default="forced",
                        help="scored on the reference answer (default) or on the model's own")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="number of heads to print (default 10)")
    parser.add_argument("--threshold", type=float, default=0.1, help="retrieval heads score above this (default 0.1)")
    parser.add_argument("--limit", type=int, metavar="N", help="use only the first N examples")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write table, map and scores there")
    parser.set_defaults(function=_heads)


def _heads(parsed: argparse.Namespace) -> None:
    for name in ("top", "limit"):
        if (value := getattr(parsed, name)) is not None and value < 1:
            raise ConfigError("less than one", where=f"--{name}", value=value, remedy="Give 1 or more.")
    from retrieval_heads.data.encode import encode_all
    from retrieval_heads.data.example import task_of
    from retrieval_heads.data.jsonl import read_examples
    from retrieval_heads.evaluation import forced_exact
    from retrieval_heads.heads.scores import score_heads
    from retrieval_heads.models.load import load_config, load_model, load_tokenizer, model_folder
    from retrieval_heads.models.rope import context_length, extended_theta
    from retrieval_heads.parallel import resolve_device
    from retrieval_heads.progress import lines, named

    folder = model_folder(parsed.model)
    # a wrong file is found before the model is loaded
    tokenizer = load_tokenizer(folder)
    examples = read_examples(parsed.file, limit=parsed.limit, tokenizer=tokenizer)
    length = max((len(one.ids) for one in encode_all(examples, tokenizer)), default=0)
    config = load_config(folder).get_text_config()
    made_for = context_length(config)
    longer = made_for is not None and length > made_for and parsed.adapter is None
    theta = extended_theta(config, length) if longer else None
    kinds = {task_of(one.task).head_score for one in examples}
    kind = parsed.kind or (kinds.pop() if len(kinds) == 1 else "copy")
    model, _ = load_model(folder, parsed.adapter, resolve_device(parsed.device), rope_theta=theta,
                          max_length=length if longer else None)
    with lines(), named(f"{len(examples)} examples"):
        scores = score_heads(model, tokenizer, examples, (kind,), parsed.mode, batch_size=4)[kind]
        right = [forced_exact(model, tokenizer, examples, end=end, batch_size=4).mean() for end in (True, False)]
    table = head_table(scores)
    if longer:
        print(f"made for {made_for} tokens, read at {length} with RoPE theta {theta:,.0f}")
    print("\n".join(_text(scores, table, parsed, right)))
    if parsed.out is not None:
        _write(parsed.out, scores, table, parsed.threshold)


def head_table(scores: HeadScores) -> pd.DataFrame:
    """One row per head, the strongest first: `layer`, `head`, `score`, `chance`, `over_chance`, `mass`."""
    import numpy as np
    import pandas as pd

    layers, heads = np.indices(scores.shape)
    parts: dict[str, Any] = {"layer": layers, "head": heads, "score": scores.scores, "chance": scores.chance,
                             "over_chance": scores.scores - scores.chance, "mass": scores.mass}
    table = pd.DataFrame({name: part.ravel() for name, part in parts.items()})
    return table.sort_values(["score", "layer", "head"], ascending=[False, True, True], kind="stable")


def _text(scores: HeadScores, table: pd.DataFrame, parsed: argparse.Namespace, right: Sequence[float]) -> list[str]:
    dropped = "".join(f", {count} left out ({reason})" for reason, count in scores.dropped.items())
    above = int((scores.scores > parsed.threshold).sum())
    by_chance = int((scores.chance > parsed.threshold).sum())
    n_layers, n_heads = scores.shape
    lines = [f"{scores.kind} scores of {n_layers} x {n_heads} heads on {scores.n_used} examples{dropped}",
             f"{above} heads score above {parsed.threshold:g}; on spans that are not needles, {by_chance} do",
             f"gold answers that the model would write: {right[1]:.2f}, with their end {right[0]:.2f}",
             "", "layer-head  score  chance  attention to needles"]
    lines += [f"{f'{row.layer}-{row.head}':<10}  {row.score:5.3f}  {row.chance:6.3f}  {row.mass:.3f}"
              for row in table.head(parsed.top).itertuples()]
    return [*lines, "", "Layers and heads count from 0. Chance: the same score on other spans of the same lengths."]


def _write(out: Path, scores: HeadScores, table: pd.DataFrame, threshold: float) -> None:
    from retrieval_heads.files import write_whole, writing_whole
    from retrieval_heads.heads.exchange import write_scores
    from retrieval_heads.tables import to_csv

    write_whole(out / TABLE, to_csv(table.round(6)))
    write_scores(out / EXCHANGE, scores)
    made = [out / TABLE, out / EXCHANGE]
    try:
        import matplotlib

        matplotlib.use("agg")
        from retrieval_heads import figures
    except ImportError:
        print('No map: install what draws it by pip install "retrieval-heads[book]".')
    else:
        with writing_whole(out / MAP) as file:
            figures.head_map(scores, threshold).figure.savefig(file, format="png", dpi=130)
        made.append(out / MAP)
    print("\n".join(map(str, made)))


def add_compare_scores(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `compare-scores` to the command line."""
    parser = verbs.add_parser(
        "compare-scores", help='compare two files of head scores, {"layer-head": [scores]} as in Retrieval_Head'
    )
    parser.add_argument("first", type=Path, metavar="FILE", help="scores of one model")
    parser.add_argument("second", type=Path, metavar="FILE2", help="scores to compare them with")
    parser.add_argument("--threshold", type=float, default=0.1, help="retrieval heads score above this (default 0.1)")
    parser.set_defaults(function=_compare)


def _compare(parsed: argparse.Namespace) -> None:
    from retrieval_heads.heads.exchange import read_scores, score_agreement

    tables = []
    for path in (parsed.first, parsed.second):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tables.append(read_scores(path))
        for one in caught:
            print(f"warning: {one.message}", file=sys.stderr)
    first, second = (table.scores.shape for table in tables)
    if first != second:
        raise DataError(
            f"{first[0]} layers x {first[1]} heads cannot be compared with {second[0]} x {second[1]}",
            where=f"{parsed.first} and {parsed.second}", remedy="Compare scores of one model, or of two of one shape.",
        )
    for table in tables:
        least, most = table.counts.min(), table.counts.max()
        above = int((table.scores > parsed.threshold).sum())
        print(f"{table.name}: {first[0]} layers x {first[1]} heads, {least if least == most else f'{least} to {most}'} "
              f"scores each, {above} heads above {parsed.threshold:g}")
    found = score_agreement(*(table.scores for table in tables), parsed.threshold)
    names = {"spearman": "Spearman, all heads"} | {
        name: f"{name}, heads above {parsed.threshold:g}" for name in ("jaccard", "recall", "precision")
    }
    print(f"\n{'':<32}{'value':>8}{'chance':>8}   {'95% of chance':<16}p")
    for row in found.itertuples():
        name = names.get(row.measure, f"common share of the {row.measure}")
        between = "" if row.low != row.low else f"{row.low:.3f} to {row.high:.3f}"
        print(f"{name:<32}{row.value:>8.3f}{row.chance:>8.3f}   {between:<16}{row.p:.2g}")
    print("\nrecall: share of the first file's heads that the second has; precision: the other way round.\n"
          "p: chance of as many common heads among random ones; of Spearman, two-sided.")
