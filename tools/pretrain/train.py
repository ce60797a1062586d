"""Training the base model from scratch: one seeded command, about ten minutes on one H200.

    python -m retrieval_heads pretrain --out models/base --seconds 560 --device cuda

The loss is next-token prediction on everything plus the same on answer tokens alone, which are few and hold the skill.
Progress is the larger of steps done and time used, so the learning rate reaches its end also when time runs out first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from pretrain.causal import IMPLEMENTATION, attention_of
from pretrain.head_dropout import head_dropout
from pretrain.optimizers import Optimizers
from pretrain.rows import RowBatches
from pretrain.train_log import TrainLog


@dataclass(frozen=True)
class PretrainSettings:
    """How the base model is trained.

    Attributes:
        steps, seconds: whichever comes first ends the training.
        batch, length: rows a step and tokens a row.
        lr, muon_lr: peak learning rates, see `Optimizers`; linear warm-up over `warmup` steps, constant, then linear to
            zero over the last `decay` of the progress.
        answer_weight: weight of the answer loss beside the language-model loss.
        head_dropout, layer_dropout: see `head_dropout`.
        short: shares of rows with short scenes at first and in the second half, counted in `steps`.
        evaluate_every: seconds between two evaluations.
    """

    steps: int = 5_000
    seconds: float = 560.0
    batch: int = 192
    length: int = 512
    lr: float = 1e-3
    muon_lr: float = 3e-3
    warmup: int = 300
    decay: float = 0.8
    weight_decay: float = 0.05
    answer_weight: float = 1.0
    head_dropout: float = 0.15
    layer_dropout: float = 0.03
    seed: int = 0
    short: tuple[float, float] = (0.9, 0.3)
    evaluate_every: float = 75.0
    workers: int = 15
    compile: bool = True


def rate(progress: float, step: int, settings: PretrainSettings) -> float:
    """Share of the peak learning rate: warm-up, constant, linear decay; `progress` in [0, 1]."""
    tail = min(1.0, max(0.0, (1 - progress) / settings.decay))
    return min(1.0, (step + 1) / settings.warmup) * tail


def losses(model: nn.Module, ids: torch.Tensor, answer: torch.Tensor, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Language-model loss over all tokens and over answer tokens, in nats a token.

    Args:
        ids: int64 `[batch, length]`.
        answer: bool `[batch, length]`, the answer tokens.
    """
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits.flatten(0, 1)  # [batch x (length-1), vocab]
    targets = ids[:, 1:].flatten()
    each = F.cross_entropy(logits.float(), targets, reduction="none", ignore_index=pad)
    kept, asked = (targets != pad).float(), answer[:, 1:].flatten().float()
    return each.sum() / kept.sum(), (each * asked).sum() / asked.sum().clamp(min=1)


def pretrain(
    model: nn.Module, tokenizer: Any, out: Path, settings: PretrainSettings, device: str,
    evaluate: Callable[[nn.Module], dict[str, float]], log: TrainLog,
) -> None:
    """Train `model` in place and add to the log, one row a hundred steps and one an evaluation.

    Args:
        evaluate: called now and then; what it measures goes to the log.
        out: folder of the log, rewritten at each evaluation so that an interrupted training leaves it.
    """
    torch.manual_seed(settings.seed)
    model.to(device).train()
    optimizers = Optimizers(model, settings.lr, settings.muon_lr, settings.weight_decay)
    part = log.end()
    log.settings.append(asdict(settings))

    def record(steps: int, seconds: float, **values: float) -> None:
        log.add(part, steps, steps * settings.batch * settings.length, seconds, **values)

    with head_dropout(model, settings.head_dropout, settings.layer_dropout), attention_of(model, IMPLEMENTATION):
        step_losses = torch.compile(losses) if settings.compile else losses
        start = last_evaluation = time.monotonic()
        sums, waited, ready = torch.zeros(2, device=device), 0.0, time.monotonic()
        for step, batch in enumerate(_loader(tokenizer, settings, device)):
            waited += time.monotonic() - ready
            elapsed = time.monotonic() - start
            progress = max(step / settings.steps, elapsed / settings.seconds)
            if progress >= 1:
                break
            ids, answer = batch.to(device, non_blocking=True).long().unbind(1)
            with torch.autocast(device.split(":")[0], dtype=torch.bfloat16):
                every, asked = step_losses(model, ids, answer, tokenizer.pad_token_id)
            (every + settings.answer_weight * asked).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizers.step(rate(progress, step, settings))
            sums += torch.stack([every.detach(), asked.detach()])
            if (step + 1) % 100 == 0:
                mean = (sums / 100).tolist()
                sums.zero_()
                record(step + 1, elapsed, loss=mean[0], answer_loss=mean[1], waited=waited)
            if elapsed - (last_evaluation - start) >= settings.evaluate_every:
                last_evaluation = time.monotonic()
                record(step + 1, elapsed, **evaluate(model))
                log.save(out)
                model.train()
            ready = time.monotonic()
        record(step, time.monotonic() - start, **evaluate(model))
    log.save(out)


def _loader(tokenizer: Any, settings: PretrainSettings, device: str) -> DataLoader:
    return DataLoader(
        RowBatches(tokenizer, settings.batch, settings.length, settings.seed, settings.steps, settings.short),
        batch_size=None, num_workers=settings.workers, prefetch_factor=4 if settings.workers else None,
        pin_memory=device.startswith("cuda"),
    )
