"""Tokenizers of model folders, and errors and silence around the model libraries that read them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from retrieval_heads.data.chat import check_arguments
from retrieval_heads.errors import ModelError
from retrieval_heads.files import UNREADABLE, shortage

BASE_PATH = Path(__file__).resolve().parents[3] / "models" / "base"
"""The embedded base model."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


@cache
def embedded_tokenizer(path: Path = BASE_PATH) -> Any:
    """The embedded model's tokenizer; `ModelError` when the folder has none."""
    from transformers import PreTrainedTokenizerFast

    if not (path / "tokenizer.json").is_file():
        raise ModelError(
            "no tokenizer.json", where=path,
            remedy="Work in a checkout of the project, or give a tokenizer of your own.",
        )
    return PreTrainedTokenizerFast.from_pretrained(path)


def load_tokenizer(folder: Path, template_arguments: Mapping[str, Any] | None = None) -> Any:
    """The fast tokenizer of a model folder; `ModelError` if there is none or only a slow one.

    It remembers what its readers need to know about the model: `model_vocabulary`, how many token ids the config names
    (None if it does not; see `data.encode`), and `template_arguments`, the arguments of its chat template for messages
    (`data.jsonl`); `ConfigError` for those that the template does not read.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(
            "the model folder has no tokenizer", where=folder, remedy="Add tokenizer.json and tokenizer_config.json.",
        )
    with quiet(), as_model_error(folder, "the tokenizer cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise ModelError(
            "the tokenizer is not a fast one and gives no character offsets", where=folder,
            value=type(tokenizer).__name__, remedy="Add a tokenizer.json (convert the slow tokenizer).",
        )
    if template_arguments:
        check_arguments(tokenizer, template_arguments)
    tokenizer.template_arguments = dict(template_arguments or {})
    tokenizer.model_vocabulary = _model_vocabulary(folder)
    return tokenizer


def _model_vocabulary(folder: Path) -> int | None:
    """Token ids of the model by its config.json; None where it does not say: `models.load.load_config` tells why."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        size = config.get("vocab_size", config.get("text_config", {}).get("vocab_size"))
    except UNREADABLE:
        return None
    return size if isinstance(size, int) else None


@contextmanager
def as_model_error(where: Path, problem: str) -> Iterator[None]:
    """Turn whatever a library raises on bad files into one `ModelError`."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        if short := shortage(error):
            raise short from error
        lines = str(error).strip().splitlines() or [""]
        raise ModelError(
            problem, where=where, value=f"{type(error).__name__}: {lines[0]}", remedy="Check its files.",
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """No log lines, warnings or progress bars of the model libraries inside the block."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
