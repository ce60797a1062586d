"""`convert-gguf`: the model is the one that was written into the file, and what cannot be converted leaves nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from gguf_files import LENGTH, THETA, tiny_model, tokens, write_gguf

from retrieval_heads import load_model
from retrieval_heads.cli import main
from retrieval_heads.errors import ModelError, ResultError
from retrieval_heads.models.gguf import convert_gguf

SAME = 1e-5


@pytest.fixture
def file(tmp_path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf", tiny_model())


def _refused(error: type[Exception], match: str, file: Path, out: Path) -> None:
    with pytest.raises(error, match=match):
        convert_gguf(file, out)
    assert not out.exists()
    assert [one.name for one in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_the_model_answers_as_the_one_that_was_written(architecture, tmp_path):
    written = tiny_model(architecture)
    convert_gguf(write_gguf(tmp_path / "tiny.gguf", written, architecture), tmp_path / "model")
    model, _ = load_model(tmp_path / "model")
    ids = torch.randint(0, len(tokens()), (2, LENGTH), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(model(input_ids=ids).logits, written(input_ids=ids).logits, atol=SAME, rtol=SAME)
    assert model.config.rope_parameters["rope_theta"] == THETA
    assert model.config.max_position_embeddings == LENGTH


def test_the_tokenizer_cuts_digits_apart_and_ends_where_the_file_says(file, tmp_path):
    convert_gguf(file, tmp_path / "model")
    model, tokenizer = load_model(tmp_path / "model")
    assert tokenizer("a  12").tokens() == ["a", "ĠĠ", "1", "2"]
    assert tokenizer("a  b").tokens() == ["a", "Ġ", "Ġ", "b"]
    assert tokenizer.decode(tokenizer("a , b .").input_ids) == "a , b ."
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.pad_token == "<|im_end|>"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 2
    assert tokenizer.clean_up_tokenization_spaces is False
    assert tokenizer.model_max_length == LENGTH
    messages = [{"role": "user", "content": "hi"}]
    said = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert said == "<|im_start|>hi<|im_end|><|im_start|>"


def test_the_folder_holds_a_card_and_nothing_lies_beside_it(file, tmp_path, capsys):
    assert main(["convert-gguf", str(file), "--out", str(tmp_path / "deep" / "model")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "tiny.gguf"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model"]
    card = (tmp_path / "deep" / "model" / "README.md").read_text()
    assert hashlib.sha256(file.read_bytes()).hexdigest() in card
    for said in ("Tiny", "apache-2.0", "F32", "RoPE theta 50,000", "96 tokens", "4 query heads and 2 key/value heads"):
        assert said in card, said
    assert "F32 made bfloat16" in capsys.readouterr().out


@pytest.mark.parametrize(("changes", "match"), [
    ({"named": "rwkv9"}, "does not read this architecture.*rwkv9.*llama"),
    ({"without": "blk.1.ffn_up.weight"}, "lacks parameters|hold .* values"),
    ({"extra_tensor": "rope_freqs.weight"}, "rope_freqs.weight"),
    ({"more": {"llama.rope.scaling.type": "yarn"}}, "RoPE is scaled.*yarn"),
    ({"more": {"split.count": 3}}, "one of 3 parts"),
])
def test_what_would_become_another_model_is_refused(changes, match, tmp_path):
    file = write_gguf(tmp_path / "tiny.gguf", tiny_model(), **changes)
    _refused(ModelError, match, file, tmp_path / "model")


def test_files_that_are_no_gguf_are_refused(tmp_path, file):
    whole = file.read_bytes()
    for content, match in ((b"PK\x03\x04 zip", "not a GGUF file"), (whole[:600], "damaged"), (whole[:-40], "damaged")):
        file.write_bytes(content)
        _refused(ModelError, match, file, tmp_path / "model")
    with pytest.raises(ModelError, match="cannot be read"):
        convert_gguf(tmp_path / "none.gguf", tmp_path / "model")


def test_without_the_package_the_error_says_how_to_get_it(file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    _refused(ModelError, r"pip install 'retrieval-heads\[gguf\]'", file, tmp_path / "model")


def test_a_full_disk_leaves_nothing(file, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        _refused(ResultError, "0 MB are free there.*Make room", file, tmp_path / "model")

    def full(*arguments, **settings):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path))

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    _refused(ResultError, "No space left", file, tmp_path / "model")


def test_what_is_there_is_kept(file, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    assert main(["convert-gguf", str(file), "--out", str(tmp_path / "model")]) == 2
    assert "there is something already" in capsys.readouterr().err
    assert list((tmp_path / "model").iterdir()) == []
