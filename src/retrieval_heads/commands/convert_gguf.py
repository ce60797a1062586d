"""`convert-gguf`: a model in a GGUF file as a folder that all other verbs take."""

from __future__ import annotations

import argparse


def add(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `convert-gguf` to the command line."""
    parser = verbs.add_parser(
        "convert-gguf", help="write the model of a GGUF file as safetensors with its tokenizer",
        description="For those who have a model only in the format of llama.cpp. Weights of few bits are made "
        "bfloat16, which does not make them exact again. Needs the package gguf.",
    )
    parser.add_argument("file", metavar="FILE", help="a whole GGUF file of a causal language model")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the model's folder, which must not be there")
    parser.set_defaults(function=_convert)


def _convert(parsed: argparse.Namespace) -> None:
    from retrieval_heads.models.gguf import convert_gguf

    convert_gguf(parsed.file, parsed.out)
