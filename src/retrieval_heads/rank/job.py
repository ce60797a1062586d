"""`rank_sets`: from a request to `rank.csv`, `rank.json` and the text that is printed.

    FOLDER/request.json       what the folder belongs to
    FOLDER/adapters/NAME__sS/      a short fine-tune of each set and seed, as `finetune` writes it
    FOLDER/reference/real__sS/     the same of real examples, where they are given
    FOLDER/measured/*.json    losses and head scores on the probe examples
    FOLDER/rank.csv           one row a set and predictor: value and rank
    FOLDER/rank.json          order, predictors, comparisons of sets, warnings
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from retrieval_heads.check.places import places
from retrieval_heads.check.sameness import LEAKS, Seen
from retrieval_heads.check.shortcuts import Shortcuts
from retrieval_heads.data.encode import Encoded
from retrieval_heads.data.example import Example, task_of
from retrieval_heads.data.jsonl import read_examples
from retrieval_heads.data.statistics import ngram_overlap
from retrieval_heads.errors import ConfigError, DataError
from retrieval_heads.files import clear_shortages, write_whole
from retrieval_heads.heads.exchange import read_scores
from retrieval_heads.locks import claimed, on_record
from retrieval_heads.models.extension import fingerprint
from retrieval_heads.models.load import load_config, load_tokenizer, model_folder
from retrieval_heads.models.rope import context_length, extended_theta
from retrieval_heads.parallel import resolve_device
from retrieval_heads.rank.calibration import read_calibration
from retrieval_heads.rank.decide import compared
from retrieval_heads.rank.measure import Maker, Measured, longest
from retrieval_heads.rank.predictors import PREDICTORS, ranked
from retrieval_heads.rank.request import Request
from retrieval_heads.rank.result import Result
from retrieval_heads.stats.overlap import cosine
from retrieval_heads.tables import to_csv
from retrieval_heads.training.lora_settings import LoraSettings


@dataclass(frozen=True)
class _Inputs:
    """Everything that is read before any work."""

    maker: Maker
    train: dict[str, list[Example]]
    encoded: dict[str, list[Encoded]]
    probe: list[Example]
    base_probe: list[Example]
    real_train: list[Encoded]
    real_scores: np.ndarray | None


@clear_shortages()
def rank_sets(request: Request, device: str = "auto") -> Result:
    """Rank candidate training sets; what an earlier call with the same request has made is not made again.

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
    inputs = _read(request, resolve_device(device), on_record(request.out).get("tokens"))
    record = request.record(fingerprint(inputs.maker.folder)) | {"tokens": inputs.maker.settings.max_length}
    with claimed(request.out, record, "a ranking", ("train", "seeds", "real_train")):
        result = _ranked(request, inputs)
        write_whole(request.out / "rank.csv", to_csv(result.table()))
        write_whole(request.out / "rank.json", (json.dumps(result.as_json(), indent=1) + "\n").encode())
    return result


def _ranked(request: Request, inputs: _Inputs) -> Result:
    """Every measurement that is missing, and what all say together."""
    maker, seeds = inputs.maker, request.seeds

    def runs(name: str, place: str, encoded: list[Encoded]) -> list[Measured]:
        return [maker.tuned(name, place, encoded, inputs.probe, seed) for seed in seeds]

    untuned = maker.untuned(inputs.probe)
    tuned = {name: runs(name, "adapters", encoded) for name, encoded in inputs.encoded.items()}
    real = runs("real", "reference", inputs.real_train) if inputs.real_train else []
    base = maker.base(inputs.base_probe) if inputs.base_probe else None
    return _result(inputs, untuned, tuned, base, real)


def _read(request: Request, device: str, known_length: int | None) -> _Inputs:
    folder = model_folder(request.model)
    tokenizer = load_tokenizer(folder, request.template_arguments)
    config = load_config(folder).get_text_config()
    probe = read_examples(request.probe, tokenizer=tokenizer)
    train = {
        name: read_examples(path, limit=request.examples, tokenizer=tokenizer) for name, path in request.train.items()
    }
    real_train = read_examples(request.real_train, limit=request.examples, tokenizer=tokenizer) \
        if request.real_train else []
    found = {name: longest(examples, tokenizer, request.length) for name, examples in train.items()}
    encoded_probe, most = longest(probe, tokenizer, request.length)
    real_encoded, real_most = longest(real_train, tokenizer, request.length)
    needed = max(most, real_most, *(size for _, size in found.values()))
    length = request.length or known_length or needed
    if needed > length:
        raise DataError("the models in the folder are made for shorter examples", where=request.out,
                        value=f"{needed} tokens, made for {length}", remedy="Give another --out.")
    base_length = context_length(config)
    if request.base_probe:
        base_probe = read_examples(request.base_probe, tokenizer=tokenizer)
        longest(base_probe, tokenizer, base_length)
    else:
        base_probe = [one for one, tokens in zip(probe, encoded_probe, strict=True) if len(tokens.ids) <= base_length]
    real_scores = None
    if request.real_heads is not None:
        shape = (config.num_hidden_layers, config.num_attention_heads)
        real_scores = read_scores(request.real_heads, shape).scores
    if (real_train or real_scores is not None) and not any(example.needles for example in probe):
        raise DataError("no probe example has needles, so heads cannot be found by them", where=request.probe,
                        remedy="Add `needles` to the examples, or leave out --real-heads and --real-train.")
    theta = request.rope_theta
    if theta is None:
        theta = extended_theta(config, length)
    if len({example.task for example in probe}) > 1:
        raise ConfigError("examples of several tasks", where="--probe",
                          value=sorted({example.task for example in probe}), remedy="Rank for one task at a time.")
    kind = task_of(probe[0].task).head_score
    settings = LoraSettings(
        theta, length, lr=request.lr, epochs=request.epochs, batch_size=request.batch_size, seed=request.seeds[0],
    )
    return _Inputs(
        Maker(request, folder, device, kind, settings), train, {name: one for name, (one, _) in found.items()},
        probe, [example for example in base_probe if example.needles], real_encoded, real_scores,
    )


def _result(
    inputs: _Inputs, untuned: Measured, tuned: dict[str, list[Measured]], base: Measured | None, real: list[Measured],
) -> Result:
    request, real_scores = inputs.maker.request, inputs.real_scores
    if real and real[0].scores is not None:
        real_scores = np.mean([one.scores for one in real], axis=0)

    def row(one: Measured) -> dict[str, float]:
        return {
            "probe_loss": float(one.losses.mean()),
            **_beside("recall", "cosine", real_scores, one.scores, request.threshold),
            **_beside("base_recall", "base_cosine", base and base.scores, one.scores, request.threshold),
            "training_loss": one.training_loss,
        }

    each = {name: pd.DataFrame([row(one) for one in runs]) for name, runs in tuned.items()}
    values = pd.DataFrame({name: rows.mean() for name, rows in each.items()}).T
    values["ngram_overlap"] = {name: ngram_overlap(examples, inputs.probe) for name, examples in inputs.train.items()}
    values = values.reindex(columns=list(PREDICTORS)).astype(np.float64)
    cuts = {name: _shortcuts(examples) for name, examples in inputs.train.items()}
    own_place = _shortcuts(inputs.probe).places.one_place()
    flaws = {name: "" if own_place else one.places.one_place() for name, one in cuts.items()}
    return Result(
        values=values, ranks=ranked(values), calibration=read_calibration(), n_probe=len(inputs.probe),
        n_train={name: len(examples) for name, examples in inputs.train.items()},
        spread=pd.DataFrame({name: rows.std(ddof=1) for name, rows in each.items()}).T, untuned=row(untuned),
        n_seeds=len(request.seeds),
        compared=compared({name: np.stack([one.losses for one in runs]) for name, runs in tuned.items()},
                          untuned.losses, places(inputs.probe), flaws),
        flaws=flaws, set_warnings={name: one.warnings() for name, one in cuts.items()},
        n_real_heads=None if real_scores is None else int((real_scores > request.threshold).sum()),
        n_base_heads=None if base is None else int((base.scores > request.threshold).sum()),
        real_loss=float(np.mean([one.losses.mean() for one in real])) if real else None, threshold=request.threshold,
        length=inputs.maker.settings.max_length, rope_theta=inputs.maker.settings.rope_theta,
        leaked={name: _shared(examples, inputs.probe) for name, examples in inputs.train.items()},
    )


def _shortcuts(examples: Sequence[Example]) -> Shortcuts:
    cuts = Shortcuts()
    for example in examples:
        cuts.add(example)
    return cuts


def _beside(
    recall: str, cosine_name: str, reference: np.ndarray | None, scores: np.ndarray | None, threshold: float
) -> dict[str, float]:
    """Recall of the reference's heads and cosine with its scores; NaN where they are not known."""
    if reference is None or scores is None:
        return {recall: float("nan"), cosine_name: float("nan")}
    wanted = reference > threshold
    share = float((scores > threshold)[wanted].mean()) if wanted.any() else float("nan")
    return {recall: share, cosine_name: cosine(reference, scores)}


def _shared(train: Sequence[Example], probe: Sequence[Example]) -> int:
    """Probe examples that share prompt, question, or needle and answer with a training example."""
    seen = Seen()
    for example in train:
        seen.add(example)
    return sum(any(seen.find(example, way) is not None for way in LEAKS) for example in probe)
