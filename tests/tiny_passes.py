"""What tests of interventions share: an input and a pass over it, models with short windows, head sets."""

from __future__ import annotations

import torch

IDS = torch.tensor([[1, *range(40, 63)]])
ALL = [(layer, head) for layer in range(3) for head in range(4)]
SETS = {"none": [], "two": [(2, 3), (0, 1)], "one": [(1, 0)], "all": ALL, "same": [(0, 1), (2, 3)]}
SLIDING = {  # windows that cut into the prompt; Qwen mixes full and sliding layers
    "mistral": {"sliding_window": 9},
    "qwen2": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    "qwen3": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2},
}


def build(tiny_model, family, seed=0, **settings):
    return tiny_model(family, seed, **(SLIDING.get(family, {}) | settings | {"head_dim": 12}))


def random_means():
    return torch.randn(3, 4, 12, generator=torch.Generator().manual_seed(3))


def whole_logits(model, encoded):
    ids = torch.tensor([encoded.ids[:-1]])
    with torch.no_grad():
        return model(ids).logits[0, encoded.prompt_length - 1 :]


def run(model, **kwargs):
    with torch.no_grad():
        return model(**({"input_ids": IDS} | kwargs)).logits


def n_hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
