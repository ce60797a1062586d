"""Tokens of prompts as a sum over their documents: the same as of the whole prompt, with any tokenizer."""

from __future__ import annotations

import random

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from retrieval_heads.data import prompt_tokens
from retrieval_heads.data.encode import encode
from retrieval_heads.data.example import Example
from retrieval_heads.data.prompt_format import Document, write_prompt
from retrieval_heads.data.prompt_tokens import CHECKED, Counted, PromptTokens
from retrieval_heads.errors import DataError

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
SPLITS = {
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "llama3": pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False),
    ]),
    "sentencepiece": pre_tokenizers.Sequence([
        pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Metaspace(prepend_scheme="first"),
    ]),
    "across": pre_tokenizers.Metaspace(),  # merges a blank line with `Document`
}
ENDS = (".", "", "!)", " \n", "1", "é", "\n\n")


def _documents(rng: random.Random, n: int) -> list[Document]:
    titles, words = ("", "A title", "1984: a book"), ("ten", "lines,", "about", "Paris", "1889", "été", "\n")
    return [(number, rng.choice(titles), " ".join(rng.choices(words, k=rng.randint(1, 20))) + rng.choice(ENDS))
            for number in range(1, n + 1)]


def _example(documents: list[Document], answer: str = "Paris") -> Example:
    return Example("mdqa", write_prompt(documents, "Where was it?", "Read.")[0], answer, (answer,))


def _tokenizer(name: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = SPLITS[name]
    rng = random.Random(0)
    texts = [_example(_documents(rng, 12)).text for _ in range(20)]
    alphabet = sorted({*"".join(texts), *"0123456789", *pre_tokenizers.ByteLevel.alphabet()})
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<eos>"], show_progress=False, initial_alphabet=alphabet))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


@pytest.mark.parametrize("name", SPLITS)
def test_the_sum_is_the_number_of_tokens(name: str, monkeypatch):
    tokenizer, rng, wholes = _tokenizer(name), random.Random(1), []
    monkeypatch.setattr(prompt_tokens, "encode", lambda *given: wholes.append(given) or encode(*given))
    counter, gold = PromptTokens(tokenizer), [(1, "Gold", "It was in Paris.")]
    alone = _example(gold)
    like = Counted(alone, gold, counter.of(alone))
    for _ in range(30):
        documents = _documents(rng, rng.randint(1, 130))
        place = rng.randrange(len(documents))
        documents[place] = (place + 1, *gold[0][1:])
        example = _example(documents, rng.choice(["Paris", "2, 15", "7"]))
        assert counter.of(example, documents, like) == len(encode(example, tokenizer).ids)
    assert len(wholes) == (31 if name == "across" else 1 + CHECKED)


def test_documents_that_cannot_be_read_are_refused_as_in_whole_prompts():
    tokenizer = _tokenizer("gpt2")
    counter, gold = PromptTokens(tokenizer), [(1, "Gold", "It was in Paris.")]
    alone = _example(gold)
    like = Counted(alone, gold, counter.of(alone))
    for text in ("Sound.",) * (CHECKED + 1):
        counter.of(_example([*gold, (2, "", text)]), [*gold, (2, "", text)], like)
    documents = [*gold, (2, "", "Not <eos> sound.")]
    with pytest.raises(DataError, match="the prompt holds a control token of the tokenizer"):
        counter.of(_example(documents), documents, like)
