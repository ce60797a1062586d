"""`rank_sets`: from a request to `rank.csv`, `rank.json` and the text that is printed.

    FOLDER/request.json         what the folder belongs to
    FOLDER/adapters/NAME__sS/   a short fine-tune of each set and seed, as `finetune` writes it
    FOLDER/reference/real__sS/  the same of real examples, where they are given
    FOLDER/measured/*.json      losses and head scores on the probe examples
    FOLDER/rank.csv             one row per set and predictor: value and rank
    FOLDER/rank.json            order, predictors, comparisons of sets, warnings
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd

from retrieval_heads.check.shortcuts import places
from retrieval_heads.data.encode import encode_all
from retrieval_heads.data.example import Example
from retrieval_heads.data.statistics import ngram_overlap
from retrieval_heads.errors import ConfigError, DataError
from retrieval_heads.evaluation import answer_losses
from retrieval_heads.files import clear_shortages, write_whole
from retrieval_heads.heads.exchange import read_scores
from retrieval_heads.heads.scores import retrieval_scores
from retrieval_heads.locks import claimed, on_record
from retrieval_heads.models.load import load_model
from retrieval_heads.parallel import resolve_device
from retrieval_heads.rank.calibration import PREDICTORS, read_calibration
from retrieval_heads.rank.decide import compared
from retrieval_heads.rank.result import Result
from retrieval_heads.settings import UNTUNED
from retrieval_heads.stats.overlap import cosine, recall_precision
from retrieval_heads.stats.resample import NAN
from retrieval_heads.tables import to_csv
from retrieval_heads.training.finetune import finetune
from retrieval_heads.training_sets import TOKENS, Reader, SetsInputs, SetsRequest, kept

BATCH = 4
"""Probe examples in one forward pass; no result depends on it."""

REAL = "reference/real"
"""What stands for the real training examples among the sets: no set has such a name. Their adapters lie there."""


@dataclass(frozen=True)
class Request(SetsRequest):
    """One call of `rank`.

    Attributes:
        probe: file of real examples, on which losses and heads are measured.
        real_heads: score file of a model trained on real examples, in the form of `heads.exchange`, instead of
            `real_train`.
        base_probe: real examples short enough for the base model before extension; without it those of `probe`.
        examples: how many of each set are used, from the first on.

    The others are those of `SetsRequest`. With one seed, no two sets can be distinguished.

    Raises:
        ConfigError: fewer than two sets, a name that cannot be a file's, a number out of range, or both kinds of real
            heads.
    """

    probe: Path
    out: Path
    _: KW_ONLY
    real_heads: Path | None = None
    base_probe: Path | None = None
    examples: int = 50
    epochs: int = 1
    seeds: tuple[int, ...] = (0, 1, 2)

    FORMAT = 2
    FILES: ClassVar = {name: name for name in ("probe", "real_heads", "real_train", "base_probe")}
    NAME = ("[A-Za-z0-9][A-Za-z0-9_.-]*", "Use letters, digits, `-`, `_` and `.`, beginning with a letter or digit.")

    def __post_init__(self) -> None:
        if len(self.train) < 2:
            raise ConfigError("one training set has no order", where="--train", value=list(self.train),
                              remedy="Give --train NAME=FILE at least twice.")
        super().__post_init__()
        if self.real_heads is not None and self.real_train is not None:
            raise ConfigError("the real heads are given twice", where="--real-heads and --real-train",
                              remedy="Give the scores, or examples to find them by, not both.")


@dataclass(frozen=True)
class _Inputs(SetsInputs):
    base_probe: Sequence[Example]  # those with needles
    real_scores: np.ndarray | None
    overlap: dict[str, float]  # by set, of words with the probe examples


class _Measured(NamedTuple):
    """What a model shows on the probe examples."""

    losses: np.ndarray  # float64 [n_probe], nats per answer token
    training_loss: float  # of the last step of its fine-tuning; NaN without one
    scores: np.ndarray | None  # [n_layers, n_heads]; None where no example has needles

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> _Measured:
        """From what `_measure` gives."""
        loss, scores = kept["training_loss"], kept["scores"]
        return cls(np.array(kept["losses"], dtype=np.float64), NAN if loss is None else loss,
                   None if scores is None else np.array(scores, dtype=np.float32))


@clear_shortages()
def rank_sets(request: Request, device: str = "auto") -> Result:
    """Rank candidate training sets; results of an earlier call with the same request are not computed again.

    Args:
        request: models, files and settings.
        device: `auto`, `cpu`, `cuda`.

    Returns:
        The result, which is also written to the request's folder.

    Raises:
        DataError: a file that cannot be read, an example that is too long, no needles where heads are wanted.
        ConfigError: settings that contradict each other.
        ModelError: a model that is missing, or cannot be extended.
        ResultError: the folder holds something else; another process is at work in it; memory or disk do not suffice.
    """
    device = resolve_device(device)
    inputs = read_inputs(request, on_record(request.out).get(TOKENS))
    with claimed(request.out, inputs.record(), "a ranking", ("train", "seeds", "real_train")):
        result = _ranked(inputs, device)
        write_whole(request.out / "rank.csv", to_csv(result.table()))
        write_whole(request.out / "rank.json", (json.dumps(result.as_json(), indent=1) + "\n").encode())
    return result


def read_inputs(request: Request, known_length: int | None = None) -> _Inputs:
    """Read and check all files; `known_length` is that of the models in the request's folder, where it has some."""
    reader = Reader(request)
    probe, task = reader.real(request.probe)
    files = {**request.train, **({REAL: request.real_train} if request.real_train else {})}
    sets = reader.training(files, probe, request.examples)
    encoded = encode_all(probe, reader.tokenizer, request.length)
    length = reader.extended([encoded, *sets["encoded"].values()], known_length)
    base_probe = [one for one, tokens in zip(probe, encoded, strict=True) if len(tokens.ids) <= length["base_length"]]
    if request.base_probe:
        base_probe = list(reader.each(request.base_probe))
        encode_all(base_probe, reader.tokenizer, length["base_length"])  # too long a one is an error
    real_scores = None if request.real_heads is None else read_scores(
        request.real_heads, (reader.config.num_hidden_layers, reader.config.num_attention_heads)).scores
    overlap = {name: ngram_overlap(list(reader.each(path, request.examples)), probe)
               for name, path in request.train.items()}
    inputs = _Inputs(request, reader.folder, task, probe, **sets, **length, real_scores=real_scores, overlap=overlap,
                     base_probe=[example for example in base_probe if example.needles])
    if (request.real_train or request.real_heads) and not inputs.finds_heads:
        raise DataError("no probe example has needles, so heads cannot be found by them", where=request.probe,
                        remedy="Add `needles` to the examples, or leave out --real-heads and --real-train.")
    inputs.lora(request.seeds[0])  # settings out of range are found before any work
    return inputs


def _measured(
    inputs: _Inputs, device: str, probe: Sequence[Example], name: str, seed: int | None = None,
) -> _Measured:
    """Fine-tune on a set, unless it has been, and measure; without a seed the model `untuned`, or `base` as it is."""
    place = name if seed is None else f"{name if name == REAL else f'adapters/{name}'}__s{seed}"
    adapter = None if seed is None else inputs.request.out / place
    return kept(inputs.request.out / "measured" / f"{place.replace('/', '-')}.json",
                partial(_measure, inputs, device, probe, name, seed, adapter),
                name if seed is None else f"{name.removeprefix('reference/')}, seed {seed}", read=_Measured.of)


def _measure(
    inputs: _Inputs, device: str, probe: Sequence[Example], name: str, seed: int | None, adapter: Path | None,
) -> dict[str, Any]:
    """The fields of `_Measured` as JSON values; with a seed, `adapter` is the folder that is trained into."""
    loss, found = None, None
    if adapter is not None:
        record = finetune(inputs.folder, inputs.encoded[name], adapter, inputs.lora(seed), device)
        loss = float(record["loss"][-1]["loss"])
    extended = {} if adapter is None and name == "base" else {"rope_theta": inputs.theta, "max_length": inputs.length}
    model, tokenizer = load_model(inputs.folder, adapter, device, **extended)
    if any(example.needles for example in probe):
        found = retrieval_scores(model, tokenizer, probe, kind=inputs.kind, batch_size=BATCH)
    return {"losses": answer_losses(model, tokenizer, probe, batch_size=BATCH).tolist(), "training_loss": loss,
            "scores": None if found is None else found.scores.astype(float).tolist()}


def _ranked(inputs: _Inputs, device: str) -> Result:
    """Every measurement that is missing, and what all say together."""
    request, probe = inputs.request, inputs.probe
    untuned = _measured(inputs, device, probe, UNTUNED)
    tuned = {name: [_measured(inputs, device, probe, name, seed) for seed in request.seeds] for name in inputs.encoded}
    real = tuned.pop(REAL, [])
    base = _measured(inputs, device, inputs.base_probe, "base").scores if inputs.base_probe else None
    real_scores = np.mean([one.scores for one in real], axis=0) if real else inputs.real_scores

    def row(one: _Measured) -> dict[str, float]:
        return {
            "probe_loss": float(one.losses.mean()),
            **_beside("recall", "cosine", real_scores, one.scores, request.threshold),
            **_beside("base_recall", "base_cosine", base, one.scores, request.threshold),
            "training_loss": one.training_loss,
        }

    each = {name: pd.DataFrame([row(one) for one in found]) for name, found in tuned.items()}
    values = pd.DataFrame({name: rows.mean() for name, rows in each.items()}).T
    values["ngram_overlap"] = inputs.overlap
    values = values.reindex(columns=list(PREDICTORS)).astype(np.float64)
    probe_place = inputs.evaluation_cuts.places.one_place()
    flaws = {name: "" if probe_place else inputs.cuts[name].places.one_place() for name in tuned}
    losses = {name: np.stack([one.losses for one in found]) for name, found in tuned.items()}
    return Result(
        values=values, calibration=read_calibration(), n_probe=len(probe),
        n_train={name: len(inputs.encoded[name]) for name in tuned},
        spread=pd.DataFrame({name: rows.std(ddof=1) for name, rows in each.items()}).T, untuned=row(untuned),
        n_seeds=len(request.seeds), compared=compared(losses, untuned.losses, places(probe), flaws),
        flaws=flaws, set_warnings={name: inputs.cuts[name].warnings() for name in tuned},
        n_real_heads=None if real_scores is None else int((real_scores > request.threshold).sum()),
        n_base_heads=None if base is None else int((base > request.threshold).sum()),
        real_loss=float(np.mean([one.losses.mean() for one in real])) if real else None, threshold=request.threshold,
        length=inputs.length, rope_theta=inputs.theta,
        leaked={name: inputs.leaked[name] for name in tuned},
    )


def _beside(
    recall: str, cosine_name: str, reference: np.ndarray | None, scores: np.ndarray | None, threshold: float
) -> dict[str, float]:
    """Recall of the reference's heads and cosine with its scores; NaN where they are not known."""
    if reference is None or scores is None:
        return {recall: NAN, cosine_name: NAN}
    share, _ = recall_precision((reference > threshold).ravel(), (scores > threshold).ravel())
    return {recall: float(share), cosine_name: cosine(reference, scores)}
