"""Needles survive `encode` with byte-level, unigram (Metaspace), WordPiece and the base model's tokenizers."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from official_samples import GOLD, mdqa, musique, save
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from retrieval_heads.data import make_examples
from retrieval_heads.data.conditions import CONDITIONS
from retrieval_heads.data.encode import Encoded, encode
from retrieval_heads.data.example import TASKS, Example
from retrieval_heads.data.official import load_mdqa, load_musique, load_summhay
from retrieval_heads.data.tokenizer import embedded_tokenizer
from retrieval_heads.errors import DataError, ModelError

CORPUS = [GOLD, "Document 1: Où est Zoë? Élan naïf, 3.5 km; Question: Answer: The grass is green."]
NEEDLES = ("sentence", "passage", "answer")
KINDS = ("byte-level", "unigram", "wordpiece", "base")
WHOLE = ("byte-level", "base")  # tokenizers that keep every letter of any text

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
    return {"byte-level": tiny_tokenizer, "unigram": unigram(), "wordpiece": wordpiece(), "base": embedded_tokenizer()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spans")


def check(example: Example, tokenizer: PreTrainedTokenizerFast, whole: bool = False) -> Encoded:
    """Every letter of a needle lies in one of its tokens, and every one of its tokens touches the needle.

    With `whole` the tokenizer is one that leaves nothing out but white space.
    """
    encoded = encode(example, tokenizer)
    offsets = tokenizer(example.text, return_offsets_mapping=True)["offset_mapping"]
    assert len(encoded.needles) == len(example.needles)
    for (first, last), (start, end) in zip(encoded.needles, example.needles, strict=True):
        assert 0 <= first < last <= encoded.prompt_length
        inside = offsets[first:last]
        assert all(a < end and b > start for a, b in inside)
        covered = {place for a, b in inside for place in range(a, b)}
        missed = {example.prompt[place] for place in set(range(start, end)) - covered}
        # what a tokenizer may leave out: white space, and what BERT's normaliser strips: accents, control characters
        dropped = {letter for letter in missed if letter == "\ufffd" or unicodedata.category(letter)[:1] in "MC"}
        assert all(letter.isspace() for letter in (missed if whole else missed - dropped))
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
    check(example, tokenizers["base"], whole=True)
    encoded = check(example, tokenizers["byte-level"], whole=True)
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("needle", NEEDLES)
def test_samples_keep_their_needles(tokenizers, folder: Path, kind: str, needle: str):
    for loader, record in ((load_mdqa, mdqa()), (load_musique, musique())):
        [example] = loader(save(folder, record), needle=needle)
        encoded = check(example, tokenizers[kind])
        assert encoded.needle_mask().sum() >= len(example.needles)


@pytest.mark.parametrize("kind", KINDS)
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


@st.composite
def examples(draw) -> Example:
    """Any text with any disjoint spans as needles; the prompt has a letter, but need not end as ours do."""
    prompt = draw(ANY) + draw(st.sampled_from("aé5")) + draw(ANY)
    cuts = sorted(draw(st.sets(st.integers(0, len(prompt)), max_size=6)))
    needles = tuple(zip(cuts[::2], cuts[1::2], strict=False))
    return Example("mine", prompt, draw(ANY.filter(str.strip)), needles=needles, meta={"id": "drawn"})


@quick
@given(example=examples(), kind=st.sampled_from(KINDS))
def test_any_span_is_mapped_or_refused_by_name(tokenizers, example: Example, kind: str):
    try:
        encoded = check(example, tokenizers[kind], kind in WHOLE)
    except DataError as refused:
        error = refused
    else:
        assert len(encoded.ids) > encoded.prompt_length
        assert [int(inside) for inside in encoded.needle_mask()] == [
            int(any(start <= place < end for start, end in encoded.needles)) for place in range(len(encoded.ids))]
        return
    assert str(error).startswith("example drawn: ")
    assert error.remedy
    # only what the tokenizer leaves out or joins may be refused
    if "no token covers the needle" in str(error):
        assert kind not in WHOLE or not all(map(str.strip, example.needle_texts()))
    else:
        assert any(words in str(error) for words in ("share a token", "no token for the answer"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", TASKS)
def test_examples_of_every_condition_keep_their_needles(tokenizers, task: str, kind: str):
    for condition in CONDITIONS:
        for example in make_examples(task=task, condition=condition, length=400, n=2, seed=0):
            encoded = check(example, tokenizers[kind])
            if kind in WHOLE:
                for (first, last), text in zip(encoded.needles, example.needle_texts(), strict=True):
                    found = tokenizers[kind].decode(encoded.ids[first:last])
                    assert text.strip() in found.replace("\n ", "\n")


@pytest.mark.parametrize(("changes", "message"), [
    ({"prompt": " \n"}, "example mine-7: the prompt is empty. Give every example a non-empty prompt"),
    ({"answer": ""}, "example mine-7: the answer is empty. Give every example a non-empty answer"),
    ({"answers": ("Rome",)}, "example mine-7: the reference answer is not among the accepted ones (got 'Oslo')"),
    ({"needles": ((4, 4),)}, "example mine-7: needle span outside the prompt of 18 characters, empty, or out of order "
                             "(got (4, 4)). Needles are"),
    ({"needles": ((4, 19),)}, "(got (4, 19))"),
    ({"needles": ((-1, 3),)}, "(got (-1, 3))"),
    ({"needles": ((6, 9), (0, 3))}, "(got (0, 3))"),
    ({"needles": ((0, 5), (4, 8))}, "(got (4, 8))"),
])
def test_an_example_that_cannot_be_used_is_refused_where_it_is_made(changes, message: str):
    sound = {"task": "mine", "prompt": "It is Oslo. Where?", "answer": "Oslo", "meta": {"id": "mine-7"}}
    assert Example(**sound).answers == ("Oslo",)
    with pytest.raises(DataError, match=re.escape(message)):
        Example(**sound | changes)


def test_a_tokenizer_without_offsets_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match=r"Slow: the tokenizer gives no character offsets\. Use a fast tokenizer"):
        encode(Example("mine", "Where?", "Oslo"), Slow())


def test_a_text_without_any_token_is_one_error_of_ours():
    with pytest.raises(DataError, match="no token for the answer"):
        encode(Example("own", "\x01", "\x02"), wordpiece())
