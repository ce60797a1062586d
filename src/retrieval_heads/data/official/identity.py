"""What identifies an input of a data folder without a path of this machine: digests of files and of a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrieval_heads.files import content_digest

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "chat_template.json",
)


def file_facts(path: Path) -> dict[str, Any]:
    """Size in bytes and sha256 of a file; `DataError` where it cannot be read."""
    digest = content_digest(path)
    return {"bytes": path.stat().st_size, "sha256": digest}


def tokenizer_facts(folder: Path, tokenizer: Any) -> dict[str, Any]:
    """A tokenizer's folder name, files with digests, vocabulary size, special tokens and chat template."""
    return {
        "name": folder.resolve().name, "class": type(tokenizer).__name__, "size": len(tokenizer),
        "files": {name: file_facts(folder / name)["sha256"] for name in TOKENIZER_FILES if (folder / name).is_file()},
        "special_tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "chat_template": getattr(tokenizer, "chat_template", None),
    }
