"""Needles of official records survive byte-level, unigram (Metaspace) and WordPiece tokenizers through `encode`."""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from official_samples import GOLD, mdqa, musique, save
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from retrieval_heads.data.encode import Encoded, encode
from retrieval_heads.data.example import Example
from retrieval_heads.data.official import load_mdqa, load_musique, load_summhay

CORPUS = [GOLD, "Document 1: Où est Zoë? Élan naïf, 3.5 km; Question: Answer: The grass is green."]
NEEDLES = ("sentence", "passage", "answer")

# the first call of a test may be slow on a busy machine
quick = settings(deadline=None, max_examples=40)

LATIN = st.text(st.sampled_from("abcdeE éÉöß.,!?'-0123\n"), max_size=30)
ANY = st.text(
    st.one_of(st.sampled_from(" .!?\n\"(é日🙂5aA\u0301\u2028\x1c\t"), st.characters(codec="utf-8")), max_size=30,
)


def unigram() -> PreTrainedTokenizerFast:
    """As SentencePiece models: white space becomes a visible letter, and unknown letters become one token."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(CORPUS, trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False,
    ))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


def wordpiece() -> PreTrainedTokenizerFast:
    """As BERT: lower case, accents and control characters removed, no end-of-sequence token."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(
        vocab_size=120, special_tokens=["[UNK]"], show_progress=False,
    ))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


@pytest.fixture(scope="module")
def tokenizers(tiny_tokenizer: PreTrainedTokenizerFast) -> dict[str, PreTrainedTokenizerFast]:
    return {"byte-level": tiny_tokenizer, "unigram": unigram(), "wordpiece": wordpiece()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spans")


def check(example: Example, tokenizer: PreTrainedTokenizerFast) -> Encoded:
    """Every letter of a needle lies in one of its tokens, and every one of its tokens touches the needle."""
    encoded = encode(example, tokenizer)
    offsets = tokenizer(example.text, return_offsets_mapping=True)["offset_mapping"]
    assert len(encoded.needles) == len(example.needles)
    for (first, last), (start, end) in zip(encoded.needles, example.needles, strict=True):
        assert 0 <= first < last <= encoded.prompt_length
        inside = offsets[first:last]
        assert all(a < end and b > start for a, b in inside)
        covered = {place for a, b in inside for place in range(a, b)}
        missed = {example.prompt[place] for place in set(range(start, end)) - covered}
        # what a tokenizer may leave out: white space, and the accents that BERT's normaliser strips
        assert all(letter.isspace() or unicodedata.category(letter) == "Mn" for letter in missed)
    return encoded


def record_of(answer: str, before: str, after: str, title: str) -> dict:
    passages = [
        {"title": title, "text": text, "isgold": text != "Filler."} for text in ("Filler.", before + answer + after)
    ]
    return {"question": "what is it", "answers": [answer], "ctxs": passages}


@quick
@given(answer=ANY.map(str.strip).filter(bool), before=ANY, after=ANY, title=ANY, needle=st.sampled_from(NEEDLES))
def test_byte_level_keeps_every_needle_of_any_text(tokenizers, folder: Path, answer: str, before: str, after: str,
                                                   title: str, needle: str):
    [example] = load_mdqa(save(folder, record_of(answer, before, after, title)), needle=needle)
    encoded = check(example, tokenizers["byte-level"])
    for (first, last), text in zip(encoded.needles, example.needle_texts(), strict=True):
        assert text.strip() in tokenizers["byte-level"].decode(encoded.ids[first:last])
    answer_ids = encoded.ids[encoded.prompt_length : encoded.prompt_length + encoded.answer_length]
    assert tokenizers["byte-level"].decode(answer_ids) == f" {answer}"


@quick
@given(answer=LATIN.map(str.strip).filter(lambda text: any(map(str.isalnum, text))), before=LATIN, after=LATIN,
       needle=st.sampled_from(NEEDLES), kind=st.sampled_from(("unigram", "wordpiece")))
def test_other_tokenizers_keep_every_needle(tokenizers, folder: Path, answer: str, before: str, after: str, needle: str,
                                            kind: str):
    [example] = load_mdqa(save(folder, record_of(answer, before, after, "Zoë")), needle=needle)
    check(example, tokenizers[kind])


@pytest.mark.parametrize("kind", ["byte-level", "unigram", "wordpiece"])
@pytest.mark.parametrize("needle", NEEDLES)
def test_samples_keep_their_needles(tokenizers, folder: Path, kind: str, needle: str):
    for loader, record in ((load_mdqa, mdqa()), (load_musique, musique())):
        [example] = loader(save(folder, record), needle=needle)
        encoded = check(example, tokenizers[kind])
        assert encoded.needle_mask().sum() >= len(example.needles)


@pytest.mark.parametrize("kind", ["byte-level", "unigram", "wordpiece"])
def test_real_records_keep_their_needles(tokenizers, real_data: Path, kind: str):
    dropped: Counter[str] = Counter()
    examples = [
        *load_mdqa(real_data / "mdqa" / "nq-open-oracle.jsonl.gz", 30),
        *load_musique(real_data / "musique" / "musique_ans_train_sample100.jsonl", 20, n_documents=5),
        *load_summhay(
            real_data / "summhay" / "topic_news1.json", 3, n_documents=10, on_unusable="drop", dropped=dropped,
        ),
        *load_summhay(real_data / "summhay" / "topic_news3.json", 1, n_documents=10, needle="sentence"),
    ]
    assert dropped.total() == 2
    for example in examples:
        check(example, tokenizers[kind])
