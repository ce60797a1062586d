"""Ten short real questions read by the pretrained model: scores, a knock-out and the attention of heads, live on a CPU.

    scores("real")      the retrieval score of every head, after training on real examples
    losses("low_low")   the loss of each gold answer as it is, and with heads out

Where `models/smollm2` is there they are computed. Otherwise they come from the tables in `examples/pretrained`, which
the same functions made (`python examples/pretrained/make.py --tables`), so that both give the same numbers.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from retrieval_heads import paths
from retrieval_heads.data.example import Example
from retrieval_heads.data.jsonl import read_examples
from retrieval_heads.errors import ConfigError

RUNS = ("real", "high_high", "low_low", "symbolic")  # training sets of the adapters that come with the repository
COMPARED = ("real", "low_low")  # those whose attention is shown
SHOWN = 0  # the question whose text is shown with the attention of heads
K = 7  # heads that are knocked out
_DIGITS, _LEAST = 4, 0.02
SCORES, LOSSES, ATTENTION = "scores.csv", "losses.csv", "attention.json.gz"  # the tables


def folder() -> Path:
    """Of the questions and the tables."""
    return paths.checkout() / "examples" / "pretrained"


def model_folder() -> Path:
    """Where `python -m retrieval_heads fetch smollm2 --to models` puts the model."""
    return paths.checkout() / "models" / "smollm2"


def at_hand() -> bool:
    """Whether the model is there."""
    return (model_folder() / "model.safetensors").is_file()


@cache
def questions() -> tuple[Example, ...]:
    """The ten questions."""
    return tuple(read_examples(folder() / "questions.jsonl"))


@cache
def scores(run: str) -> np.ndarray:
    """The copy score of every head on the ten questions, `[n_layers, n_heads]`, rounded to four digits.

    Args:
        run: one of `RUNS`.

    Raises:
        ConfigError: another one.
    """
    _check(run)
    if at_hand():
        from retrieval_heads.heads.scores import retrieval_scores

        return np.asarray(retrieval_scores(*_loaded(run), questions()).scores, dtype=float).round(_DIGITS)
    rows = pd.read_csv(folder() / SCORES)
    return rows[rows.run == run].pivot(index="layer", columns="head", values="score").to_numpy()


@cache
def losses(run: str) -> pd.DataFrame:
    """The loss of each gold answer in nats per token: `none` as it is, `strongest` and `random` with `K` heads out.

    The random ones are of the same layers. One row per question; rounded to four digits. Argument and errors as of
    `scores`.
    """
    _check(run)
    if not at_hand():
        rows = pd.read_csv(folder() / LOSSES)
        return rows[rows.run == run].drop(columns="run").reset_index(drop=True)
    from retrieval_heads.heads.select import random_heads, select_heads
    from retrieval_heads.heads.sweeps import knockout_sweep

    found = scores(run)
    top = select_heads(found, k=K)
    sets = {"none": (), "strongest": tuple(top), "random": tuple(random_heads(top, found.shape, seed=0))}
    rows = pd.DataFrame(knockout_sweep(*_loaded(run), questions(), sets))
    table = rows.pivot(index="example", columns="set", values="nll")[list(sets)].round(_DIGITS)
    return table.rename_axis(index="question", columns=None).reset_index()


@cache
def attention() -> dict[str, Any]:
    """What the heads of each run look at in the text of one question while its answer is read along.

    Returns:
        `tokens` and `needle` (1 inside it), one entry per token of the prompt; `answer`; `runs`: by run, float
        `[n_layers, n_heads, tokens]`, rounded to two digits, 0 below 0.02.
    """
    if not at_hand():
        stored = json.loads(gzip.decompress((folder() / ATTENTION).read_bytes()))
        stored["runs"] = {run: _dense(*one) for run, one in stored["runs"].items()}
        return stored
    from retrieval_heads.heads.readout import answer_attention, tokens_of

    example, read = questions()[SHOWN], {}
    for run in COMPARED:
        model, tokenizer = _loaded(run)
        found = answer_attention(model, tokenizer, example).astype(float).round(2)
        read[run] = np.where(found < _LEAST, 0, found)
    tokens, needle = tokens_of(tokenizer, example)
    return {"tokens": tokens, "needle": needle, "answer": example.answer, "runs": read}


_model: list[Any] = []


def _loaded(run: str) -> tuple[Any, Any]:
    """The one model that is kept, with the adapter of a run in it."""
    from retrieval_heads.models.load import load_model, swap_adapter

    adapter = paths.checkout() / "models" / "pretrained" / f"mdqa__{run}__s1__smollm2"
    if not _model:
        _model.extend(load_model(model_folder(), adapter=adapter))
    else:
        swap_adapter(_model[0], adapter)
    return _model[0], _model[1]


def _check(run: str) -> None:
    if run not in RUNS:
        raise ConfigError("no adapter of this run comes with the repository", where="run", value=run,
                          remedy=f"Use one of {', '.join(RUNS)}.")


def _dense(shape: list[int], places: list[int], values: list[float]) -> np.ndarray:
    flat = np.zeros(int(np.prod(shape)))
    flat[places] = values
    return flat.reshape(shape)
