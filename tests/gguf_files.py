"""Tiny GGUF files, written as llama.cpp's converter does: weights with its names and order, a byte-level tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from gguf import GGUFWriter, TokenType
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}{% if add_generation_prompt %}" \
    "<|im_start|>{% endif %}"
THETA, LENGTH = 50_000.0, 96
_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "model.layers": "blk",
}


def tokens() -> list[str]:
    """The vocabulary: special tokens, one a byte, and one of two spaces."""
    return [*SPECIAL, *bytes_to_unicode().values(), "ĠĠ"]


def tiny_model(architecture: str = "llama", seed: int = 0) -> PreTrainedModel:
    """A model of random weights, which bfloat16 holds exactly, with grouped queries."""
    torch.manual_seed(seed)
    kind, model = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[architecture]
    config = kind(
        vocab_size=len(tokens()), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=LENGTH, tie_word_embeddings=False, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": THETA}, initializer_range=0.3,
    )
    made = model(config)
    with torch.no_grad():
        for values in made.parameters():
            if values.dim() == 1:
                values.normal_(1.0, 0.2)
            values.copy_(values.bfloat16())
    return made.eval()


def write_gguf(
    path: Path, model: PreTrainedModel, architecture: str = "llama", *, named: str | None = None,
    without: str = "", more: dict[str, Any] | None = None, extra_tensor: str = "",
) -> Path:
    """Write a model as a GGUF file.

    Args:
        architecture: whose order of rows and keys is used.
        named: the architecture that the file names.
        without: a tensor to leave out.
        more: further text fields by their full keys.
        extra_tensor: name of a tensor to add.
    """
    config = model.config
    writer = GGUFWriter(path, named or architecture)
    writer.add_name("Tiny")
    writer.add_license("apache-2.0")
    writer.add_context_length(LENGTH)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(THETA)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer)
    for key, value in (more or {}).items():
        (writer.add_uint16 if isinstance(value, int) else writer.add_string)(key, value)
    for name, values in model.state_dict().items():
        if (short := _short(name)) != without:
            writer.add_tensor(short, _reordered(short, values, config, architecture).contiguous().numpy())
    if extra_tensor:
        writer.add_tensor(extra_tensor, torch.ones(4).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: GGUFWriter) -> None:
    known = tokens()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(known)
    writer.add_token_types([TokenType.CONTROL] * len(SPECIAL) + [TokenType.NORMAL] * (len(known) - len(SPECIAL)))
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def _short(name: str) -> str:
    for long, short in _NAMES.items():
        name = name.replace(long, short)
    return name


def _reordered(name: str, values: torch.Tensor, config: Any, architecture: str) -> torch.Tensor:
    """Rows of queries and keys as llama.cpp's rotation of neighbours wants them; Qwen rotates halves there, too."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    kind = name.split(".")[2] if name.startswith("blk.") else ""
    if architecture != "llama" or kind not in heads:
        return values
    n = heads[kind]
    return values.reshape(n, 2, values.shape[0] // n // 2, -1).transpose(1, 2).reshape(values.shape)
