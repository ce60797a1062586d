"""The embedded model's tokenizer: byte-pair encoding in which a word has the same tokens wherever it stands.

Copying is measured by equal token ids, so a name must not change its tokens at the start of a line: each newline is
followed by a word boundary, and punctuation stands alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from retrieval_heads.errors import ModelError

BOS, EOS, PAD, UNKNOWN = "<bos>", "<eos>", "<pad>", "<unk>"


def train_tokenizer(texts: Iterable[str], vocab_size: int = 4096, max_length: int = 512) -> PreTrainedTokenizerFast:
    """Train the tokenizer on texts; every byte is in the alphabet, so any text can be tokenised."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace("\n", "\n ")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Metaspace(prepend_scheme="always"),
        pre_tokenizers.Split(Regex(r"\n"), "isolated"),
        pre_tokenizers.Punctuation(),
    ])
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(byte_tokens), special_tokens=[PAD, BOS, EOS, UNKNOWN], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer = _with_tokens(tokenizer, byte_tokens)
    missing = [n for n in range(10, 100) if tokenizer.token_to_id(f"▁{n}") is None]
    if missing:
        raise ModelError(
            "document numbers that are not one token", where="tokenizer", value=missing,
            remedy="Train on more texts or with a larger vocabulary.",
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, unk_token=UNKNOWN,
        model_max_length=max_length, clean_up_tokenization_spaces=False,
    )


def _with_tokens(tokenizer: Tokenizer, tokens: list[str]) -> Tokenizer:
    """The tokenizer with tokens that training cannot make: the byte tokens that unknown characters fall back to."""
    state = json.loads(tokenizer.to_str())
    vocab = state["model"]["vocab"]
    vocab.update({token: len(vocab) + i for i, token in enumerate(t for t in tokens if t not in vocab)})
    return Tokenizer.from_str(json.dumps(state))
