"""Models of a given shape with random weights: for time and memory at full size, where there are no trained ones.

A folder with `config.json`, a tokenizer and the file `random_weights.json` stands for such a model. The weights are
drawn from its seed whenever it is loaded, on the device that it is loaded to (a model of 8 billion parameters takes
seconds on a GPU and minutes on a CPU), so nothing large lies on the disk.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from retrieval_heads.errors import ConfigError, ModelError
from retrieval_heads.files import write_whole
from retrieval_heads.paths import configs_folder

MARKER = "random_weights.json"


def make_random_model(shape: str | Path, tokenizer: Path, folder: Path, seed: int = 0) -> Path:
    """Make the folder of a model with random weights; returns it.

    Args:
        shape: one that comes with the package, `configs/shapes/NAME.json`, or the path of a model's `config.json`.
        tokenizer: folder with `tokenizer.json` and `tokenizer_config.json`; its words must fit the shape's vocabulary.

    Raises:
        ConfigError: no such shape, or fewer words than the tokenizer has.
        ModelError: the tokenizer's folder lacks a file.
    """
    shapes = configs_folder() / "shapes"
    path = Path(shape) if str(shape).endswith(".json") else shapes / f"{shape}.json"
    if not path.is_file():
        known = sorted(one.stem for one in shapes.glob("*.json"))
        raise ConfigError("no such shape", where="--random-weights", value=str(shape),
                          remedy=f"Use {', '.join(known)}, or the path of a config.json.")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (tokenizer / name).is_file():
            raise ModelError(f"no {name}", where=tokenizer, remedy="Give the folder of a fast tokenizer.")
        write_whole(folder / name, (tokenizer / name).read_bytes())
    words = len(json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("vocab_size", 0) < words:
        raise ConfigError(f"the tokenizer has {words} words", where=path, value=config.get("vocab_size"),
                          remedy="Give a tokenizer of at most `vocab_size` words.")
    write_whole(folder / "config.json", path.read_bytes())
    write_whole(folder / MARKER, json.dumps({"seed": seed}).encode())
    return folder


def random_seed(folder: Path) -> int | None:
    """The seed of a folder's random weights; None for a folder with weights of its own."""
    try:
        return int(json.loads((folder / MARKER).read_text(encoding="utf-8"))["seed"])
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError("no seed of random weights", where=folder / MARKER, value=str(error),
                         remedy='Write {"seed": 0} into it.') from error


def draw_model(
    config: PreTrainedConfig, seed: int, dtype: torch.dtype | str, device: torch.device | str,
) -> PreTrainedModel:
    """A causal language model with weights drawn on the device; `auto` is the dtype of the config, else float32."""
    if dtype == "auto":
        dtype = config.get_text_config().dtype or torch.float32
    with torch.random.fork_rng(devices=[device] if torch.device(device).type == "cuda" else []):
        torch.manual_seed(seed)
        with torch.device(device):
            return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")

