"""Shared fixtures: a tokenizer trained in memory, tiny random models of five families, and a few examples.

Nothing is downloaded. A test module takes the list of families with `from conftest import FAMILIES`.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from retrieval_heads import paths
from retrieval_heads.data.encode import Encoded, encode_all
from retrieval_heads.data.example import Example
from retrieval_heads.store import load_table

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma")

# one thread: the models are tiny, and sums stay in one order
torch.set_num_threads(1)

_FACTS = (
    ("Marta Quill", "was born in", "Oslo Harbour"),
    ("Ivo Brandt", "designed", "the Copper Bridge"),
    ("Lena Osei", "is the mayor of", "Port Velden"),
    ("Tomas Reik", "founded", "the Amber Museum"),
    ("Nadia Flint", "plays", "the silver oboe"),
    ("Oslo Harbour", "lies in", "the North Province"),
)
_FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 400 entries with <bos> (added in front), <eos> and <pad>; any text survives it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>", "<bos>", "<eos>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([_FILLER, *(f"Document: {' '.join(fact)}. Question: Answer:" for fact in _FACTS)],
                                  trainer)
    bos = tokenizer.token_to_id("<bos>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", padding_side="right",
    )


@pytest.fixture(scope="session")
def tiny_model(tiny_tokenizer: PreTrainedTokenizerFast) -> Callable[..., PreTrainedModel]:
    """`tiny_model(family, seed=0, **overrides)` builds a new random model in evaluation mode, fp32, on the CPU.

    3 layers of 4 query and 2 key/value heads, width 32; heads of 12 values, so heads x size is unequal to the width
    (Qwen2 has no such setting: 8). `overrides` go to the config. The weights are large, so that attention is peaked.
    """

    def build(family: str, seed: int = 0, **overrides) -> PreTrainedModel:
        settings = {
            "vocab_size": len(tiny_tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024,
            "initializer_range": 0.3, "bos_token_id": tiny_tokenizer.bos_token_id,
            "eos_token_id": tiny_tokenizer.eos_token_id, "pad_token_id": tiny_tokenizer.pad_token_id,
        }
        if family != "qwen2":
            settings["head_dim"] = 12
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **(settings | overrides)))
        return model.float().eval()

    return build


@pytest.fixture(scope="session")
def tiny_examples() -> list[Example]:
    """Five examples of different lengths; each answer occurs in its (last) needle, and the last example has two."""
    examples = [_example([index], before=index, after=1) for index in range(4)]
    return [*examples, _example([0, 5], before=1, after=0)]


def _example(facts: list[int], before: int, after: int) -> Example:
    prompt, needles = f"Document: {_FILLER} " * before, []
    for fact in facts:
        prompt += "Document: "
        needles.append((len(prompt), len(prompt) + len(" ".join(_FACTS[fact])) + 1))
        prompt += f"{' '.join(_FACTS[fact])}. "
    subject, relation, answer = _FACTS[facts[-1]]
    prompt += f"Document: {_FILLER} " * after + f"Question: {subject} {relation} what? Answer:"
    return Example(
        task="mdqa" if len(facts) == 1 else "musique", prompt=prompt, answer=answer, needles=tuple(needles),
        meta={"id": f"tiny-{'-'.join(map(str, facts))}"},
    )


@pytest.fixture(scope="session")
def base(tmp_path_factory, tiny_model, tiny_tokenizer) -> Path:
    """The folder of a tiny Llama, which no test changes; `copied` is one that may be."""
    folder = tmp_path_factory.mktemp("llama") / "base"
    for part in (tiny_model("llama"), tiny_tokenizer):
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def copied(base, tmp_path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "copy"))


@pytest.fixture(scope="session")
def encoded(tiny_examples, tiny_tokenizer) -> list[Encoded]:
    return encode_all(tiny_examples, tiny_tokenizer)


@pytest.fixture(scope="session")
def finished(base, encoded, tmp_path_factory) -> Path:
    """The folder of an adapter that was trained on `encoded` with `model_folders.SETTINGS`."""
    from model_folders import SETTINGS  # seconds, which few tests need

    from retrieval_heads.training.finetune import finetune

    folder = tmp_path_factory.mktemp("finished") / "adapter"
    finetune(base, encoded, folder, SETTINGS)
    return folder


@pytest.fixture(autouse=True)
def no_open_figures() -> Iterator[None]:
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="session")
def table(tmp_path_factory) -> Callable[..., pd.DataFrame]:
    """`table(name, profile="report")`: a committed table, whatever was computed on this machine; each is read once."""
    home = tmp_path_factory.mktemp("home")

    @cache
    def read(name: str, profile: str = "report") -> pd.DataFrame:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(paths.HOME_VARIABLE, str(home))
            return load_table(profile, name)

    return read


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the official files (RETRIEVAL_HEADS_DATA), or a skip that says so."""
    folder = os.environ.get("RETRIEVAL_HEADS_DATA", "")
    if not folder:
        pytest.skip("RETRIEVAL_HEADS_DATA is not set: it names the folder of the official data files")
    if not Path(folder).is_dir():
        pytest.skip(f"RETRIEVAL_HEADS_DATA is no folder: {folder}")
    return Path(folder)
