"""The real files of RETRIEVAL_HEADS_DATA: counts, needles, peculiarities; and head detection on cut records."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from official_samples import save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from conftest import FAMILIES
from retrieval_heads.data.example import Example
from retrieval_heads.data.official import load_mdqa, load_musique, load_summhay
from retrieval_heads.errors import DataError
from retrieval_heads.heads.scores import score_heads
from retrieval_heads.heads.select import random_heads, select_heads
from retrieval_heads.heads.sweeps import knockout_sweep, patch_sweep

MDQA_FILES = [
    ("nq-open-oracle.jsonl.gz", 2655, 1, 1),
    ("nq-open-20_total_documents_gold_at_9.first300.jsonl.gz", 300, 20, 10),
    ("nq-open-10_total_documents_gold_at_0.sample10.jsonl.gz", 10, 10, 1),
]


@pytest.mark.parametrize(("name", "count", "documents", "gold"), MDQA_FILES)
def test_real_mdqa(real_data: Path, name: str, count: int, documents: int, gold: int):
    examples = load_mdqa(real_data / "mdqa" / name)
    assert len(examples) == count
    for example in examples:
        assert all(example.answer in text for text in example.needle_texts())
        assert (example.meta["documents"], example.meta["gold"]) == (documents, [gold])
        assert example.prompt.count("\nDocument ") + 1 >= documents
    assert load_mdqa(real_data / "mdqa" / name, 5) == examples[:5]


def test_real_mdqa_peculiarities(real_data: Path):
    path = real_data / "mdqa" / MDQA_FILES[0][0]
    examples = load_mdqa(path)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    other_form = sum(
        example.answer != record["answers"][0].strip() for example, record in zip(examples, records, strict=True)
    )
    assert other_form == 222  # the passage holds another accepted answer, or holds that one in words of its own
    assert sum(not example.meta["whole_words"] for example in examples) == 1
    assert sum(len(example.needles) > 1 for example in examples) == 295


def test_real_mdqa_ignores_the_keys_of_predictions(real_data: Path, tmp_path: Path):
    path = real_data / "mdqa" / MDQA_FILES[2][0]
    with gzip.open(path, "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    assert "model_prompt" in records[0]
    kept = [{key: value for key, value in record.items() if not key.startswith("model")} for record in records]
    assert load_mdqa(save(tmp_path, *kept, name=path.name)) == load_mdqa(path)
    array = tmp_path / "array" / path.name
    array.parent.mkdir()
    array.write_text(json.dumps(records))
    assert [example.prompt for example in load_mdqa(array)] == [example.prompt for example in load_mdqa(path)]


def test_real_musique(real_data: Path):
    path = real_data / "musique" / "musique_ans_train_sample100.jsonl"
    examples = load_musique(path)
    assert Counter(example.meta["hops"] for example in examples) == {2: 68, 3: 27, 4: 5}
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for example, record in zip(examples, records, strict=True):
        needles = "\n".join(example.needle_texts())
        assert all(step["answer"] in needles for step in record["question_decomposition"])
        assert example.meta["gold"] == [part["idx"] + 1 for part in record["paragraphs"] if part["is_supporting"]]
        assert example.answer == record["answer"]
    assert sum(len(example.needles) != example.meta["hops"] for example in examples) == 26


@pytest.mark.parametrize(("name", "insights", "at_most_10"), [("topic_news1", 65, 39), ("topic_news3", 79, 59)])
def test_real_summhay(real_data: Path, name: str, insights: int, at_most_10: int):
    path = real_data / "summhay" / f"{name}.json"
    examples = load_summhay(path)
    raw = json.loads(path.read_text(encoding="utf-8"))
    assert len(examples) == insights
    for example in examples:
        holding = [part["idx"] + 1 for part in raw["documents"] if example.meta["id"] in part["insights_included"]]
        assert example.meta["gold"] == holding
        assert example.answer == ", ".join(map(str, holding))
        assert example.needle_texts() == tuple(raw["documents"][number - 1]["document_text"] for number in holding)
    dropped: Counter[str] = Counter()
    sampled = load_summhay(path, needle="sentence", n_documents=10, on_unusable="drop", dropped=dropped)
    assert len(sampled) == at_most_10
    assert dropped.total() == insights - at_most_10
    assert all(example.meta["documents"] == 10 for example in sampled)
    assert all(len(text) < 1000 for example in sampled for text in example.needle_texts())


def test_real_file_that_ends_in_mid_record_names_the_line_and_gives_the_records_before_it(
    real_data: Path, tmp_path: Path,
):
    path = real_data / "musique" / "musique_ans_train_sample100.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    cut = tmp_path / path.name
    cut.write_bytes(b"".join(lines[:7]) + lines[7][: len(lines[7]) // 2])
    for choice in ("raise", "drop"):
        with pytest.raises(DataError, match=r"sample100\.jsonl, line 8: the record breaks off.*limit=7") as caught:
            load_musique(cut, on_unusable=choice)
        assert "\n" not in str(caught.value)
    assert load_musique(cut, 7) == load_musique(path, 7)
    packed = tmp_path / "packed.jsonl.gz"
    whole = gzip.compress(path.read_bytes())
    packed.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"packed\.jsonl\.gz, after line \d+: the gzip stream is damaged or cut off"):
        load_musique(packed)


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
