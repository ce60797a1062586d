"""The optimizers of the base model: Muon for the matrices of its layers, AdamW for embeddings and norms.

Muon (Jordan et al. 2024, with the step size of Liu et al. 2025, arXiv 2502.16982) moves every direction of a matrix by
the same length, rare ones too, and facts that are seen once are rare directions. With it the loss on answers fell to
0.28 nats a token within 85 million tokens; earlier, with AdamW alone and other scenes, it took about twice as many.
"""

from __future__ import annotations

import torch
from torch import nn


class Optimizers:
    """Both optimizers as one, their rates moved together.

    Args:
        model: a decoder whose layers lie in `model.model.layers`.
        lr: peak rate of AdamW, for embeddings and norms.
        muon_lr: peak rate of Muon, comparable with one of AdamW (`match_rms_adamw`).
        weight_decay: of matrices, decoupled.
    """

    def __init__(self, model: nn.Module, lr: float, muon_lr: float, weight_decay: float) -> None:
        inner = {id(p) for p in model.model.layers.parameters() if p.ndim == 2}
        matrices = [p for p in model.parameters() if id(p) in inner]
        rest = [p for p in model.parameters() if id(p) not in inner]
        groups = [{"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
                  {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0}]
        self._each = [
            torch.optim.Muon(matrices, lr=muon_lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=rest[0].is_cuda),
        ]
        self._peaks = (muon_lr, lr)

    def step(self, rate: float) -> None:
        """One step at the share `rate` of the peak rates, in [0, 1]; the gradients are cleared."""
        for optimizer, peak in zip(self._each, self._peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
