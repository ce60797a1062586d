"""Detection, knock-out and patching on real records, cut to a few documents, with tiny random models of five families.

The models have learnt nothing, so no score is expected: what is tested is that the official files go through.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from conftest import FAMILIES
from retrieval_heads.data.example import Example
from retrieval_heads.data.official import load_mdqa, load_musique, load_summhay
from retrieval_heads.heads.scores import score_heads
from retrieval_heads.heads.select import random_heads, select_heads
from retrieval_heads.heads.sweeps import knockout_sweep, patch_sweep

N_LAYERS, N_HEADS = 3, 4
EVERY = [(layer, head) for layer in range(N_LAYERS) for head in range(N_HEADS)]


@pytest.fixture(scope="module")
def examples(real_data: Path) -> list[Example]:
    """Two records of mdqa and musique, and the first insight of a topic that only four documents contain."""
    dropped: Counter[str] = Counter()
    return [
        *load_mdqa(
            real_data / "mdqa" / "nq-open-20_total_documents_gold_at_9.first300.jsonl.gz", 1, n_documents=3,
        ),
        *load_mdqa(real_data / "mdqa" / "nq-open-oracle.jsonl.gz", 1),
        *load_musique(real_data / "musique" / "musique_ans_train_sample100.jsonl", 2, n_documents=4),
        *load_summhay(
            real_data / "summhay" / "topic_news3.json", 6, n_documents=4, needle="sentence", on_unusable="drop",
            dropped=dropped,
        ),
    ]


@pytest.fixture(scope="module")
def tokenizer(examples: list[Example]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the examples themselves, so that a document of 800 words stays short."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([example.text for example in examples], trainers.BpeTrainer(
        vocab_size=3000, special_tokens=["<pad>", "<bos>", "<eos>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    ))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", padding_side="right",
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_official_records_go_through_detection_knock_out_and_patching(
    tiny_model, tokenizer: PreTrainedTokenizerFast, examples: list[Example], family: str
):
    target, source = (
        tiny_model(family, seed=seed, vocab_size=len(tokenizer), max_position_embeddings=8192) for seed in (0, 1)
    )
    assert [example.task for example in examples] == ["mdqa"] * 2 + ["musique"] * 2 + ["summhay"]

    found = score_heads(target, tokenizer, examples, batch_size=1)
    for kind in ("copy", "insight"):
        assert found[kind].shape == (N_LAYERS, N_HEADS)
        assert found[kind].n_used == len(examples)
        assert not found[kind].dropped
        assert np.all((found[kind].scores >= 0) & (found[kind].scores <= 1))
    assert np.all(found["copy"].scores <= found["insight"].scores)
    assert found["insight"].mass.max() > 0

    best = select_heads(found["insight"], k=3)
    control = random_heads(best, (N_LAYERS, N_HEADS), seed=0, match="nearest")
    sets = {"none": [], "best": best, "random": control, "all": EVERY}
    one_a_task = examples[::2]
    knocked_out = knockout_sweep(target, tokenizer, one_a_task, sets)
    plain = [row["nll"] for row in knocked_out if row["set"] == "none"]
    for index in range(3):
        out = {row["set"]: row["nll"] for row in knocked_out if row["example"] == index}
        assert set(out) == set(sets)
        assert len(set(out.values())) == len(sets)

    rows = patch_sweep(target, source, tokenizer, one_a_task, {"none": [], "best": best, "all": EVERY})
    for index in range(3):
        nll = {row["set"]: row["nll"] for row in rows if row["example"] == index}
        assert nll["none"] == pytest.approx(plain[index], rel=1e-5)
        assert len(set(nll.values())) == 3
        assert all(np.isfinite(value) for value in nll.values())
