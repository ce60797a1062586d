"""The model card of a converted GGUF file."""

from __future__ import annotations

from transformers import PreTrainedModel

from retrieval_heads.models.gguf_fields import GgufFields


def card(name: str, digest: str, fields: GgufFields, model: PreTrainedModel, origin: str = "") -> str:
    """Text of the README.md: shape, origin, licence, what was done to the weights, digest (sha256) of the file."""
    config = model.config.get_text_config()
    rows = {
        "Architecture": f"{fields.architecture}: {config.num_hidden_layers} layers of {config.num_attention_heads} "
                        f"query heads and {getattr(config, 'num_key_value_heads', config.num_attention_heads)} "
                        f"key/value heads, width {config.hidden_size}, {fields.n_values / 1e6:.1f} million parameters",
        "Context": f"{fields.length:,} tokens, RoPE theta {fields.rope_theta:,.0f}",
        "Name in the file": fields.name or "none",
        "Licence in the file": fields.licence or "none",
        "Made of": f"`{name}`, sha256 {digest}",
        "Weights": f"bfloat16 safetensors, made of {fields.weights}",
        "Tokenizer": f"as in the file (cut into words: {fields.pre_tokenizer or 'SentencePiece'})",
    }
    origin = f"{origin.strip()}\n\n" if origin else ""
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return (
        f"# {fields.name or name}\n\n"
        f"Converted from a GGUF file by `python -m retrieval_heads convert-gguf`.\n\n{origin}"
        f"| | |\n|---|---|\n{table}\n\n"
        "**The weights are those of the file.** Where its types are of few bits (Q4_1: 4 bits a weight), the model was "
        "rounded to them before; writing them with 16 bits does not bring back what was lost. Figures of this model "
        "are not those of the publisher's original.\n"
    )
