"""Training the base model from scratch: one seeded command, about ten minutes on one H200.

    python -m retrieval_heads pretrain --out models/base --seconds 560 --device cuda

The loss is next-token prediction on everything plus the same on answer tokens alone, which are few and hold the skill.
Progress is the larger of steps done and time used, so the learning rate reaches its end also when time runs out first.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from retrieval_heads.models.head_dropout import head_dropout
from retrieval_heads.models.pretrain_data import RowBatches


@dataclass(frozen=True)
class PretrainSettings:
    """How the base model is trained.

    Attributes:
        steps, seconds: whichever comes first ends the training.
        batch, length: rows a step and tokens a row.
        lr: peak learning rate of AdamW; linear warm-up over `warmup` steps, constant, then linear to zero over the
            last `decay` of the progress.
        answer_weight: weight of the answer loss beside the language-model loss.
        head_dropout, layer_dropout: see `head_dropout`.
        evaluate_every: seconds between two evaluations.
    """

    steps: int = 9_000
    seconds: float = 560.0
    batch: int = 128
    length: int = 512
    lr: float = 1e-3
    warmup: int = 300
    decay: float = 0.8
    weight_decay: float = 0.05
    answer_weight: float = 1.0
    head_dropout: float = 0.15
    layer_dropout: float = 0.03
    seed: int = 0
    evaluate_every: float = 75.0
    workers: int = 15
    compile: bool = True


def learning_rate(progress: float, step: int, settings: PretrainSettings) -> float:
    """Warm-up, constant, linear decay; `progress` in [0, 1]."""
    tail = min(1.0, max(0.0, (1 - progress) / settings.decay))
    return settings.lr * min(1.0, (step + 1) / settings.warmup) * tail


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


def optimizer_for(model: nn.Module, settings: PretrainSettings, device: str) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98), fused=device.startswith("cuda"))


def pretrain(
    model: nn.Module, tokenizer: Any, out: Path, settings: PretrainSettings, device: str, evaluate: Any
) -> list[dict[str, float]]:
    """Train `model` in place and return the log, one row a hundred steps and one an evaluation.

    Args:
        evaluate: called as `evaluate(model)` now and then; a dict of floats for the log.
        out: folder for `train_log.json`, rewritten at each evaluation so that a lost machine leaves it.
    """
    torch.manual_seed(settings.seed)
    model.to(device).train()
    optimizer = optimizer_for(model, settings, device)
    batches = DataLoader(
        RowBatches(tokenizer, settings.batch, settings.length, settings.seed, settings.steps), batch_size=None,
        num_workers=settings.workers, prefetch_factor=4 if settings.workers else None,
        pin_memory=device.startswith("cuda"),
    )
    log: list[dict[str, float]] = []
    with head_dropout(model, settings.head_dropout, settings.layer_dropout):
        step_losses = torch.compile(losses) if settings.compile else losses
        start = last_evaluation = time.monotonic()
        sums, waited, ready = torch.zeros(2, device=device), 0.0, time.monotonic()
        for step, batch in enumerate(batches):
            waited += time.monotonic() - ready
            elapsed = time.monotonic() - start
            progress = max(step / settings.steps, elapsed / settings.seconds)
            if progress >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(progress, step, settings)
            ids, answer = batch.to(device, non_blocking=True).long().unbind(1)
            with torch.autocast(device.split(":")[0], dtype=torch.bfloat16):
                every, asked = step_losses(model, ids, answer, tokenizer.pad_token_id)
            (every + settings.answer_weight * asked).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            sums += torch.stack([every.detach(), asked.detach()])
            if (step + 1) % 100 == 0:
                mean = (sums / 100).tolist()
                sums.zero_()
                log.append(_row(step, elapsed, settings, loss=mean[0], answer_loss=mean[1], waited=waited))
                print(json.dumps(log[-1]), flush=True)
            if elapsed - (last_evaluation - start) >= settings.evaluate_every:
                last_evaluation = time.monotonic()
                log.append(_row(step, elapsed, settings, **evaluate(model)))
                print(json.dumps(log[-1]), flush=True)
                save_log(out, log, settings)
                model.train()
            ready = time.monotonic()
        log.append(_row(step, time.monotonic() - start, settings, **evaluate(model)))
    save_log(out, log, settings)
    return log


def _row(step: int, seconds: float, settings: PretrainSettings, **values: float) -> dict[str, float]:
    tokens = (step + 1) * settings.batch * settings.length
    rounded = {name: round(value, 5) for name, value in values.items()}
    return {"step": step + 1, "tokens": tokens, "seconds": round(seconds, 1), **rounded}


def save_log(out: Path, log: list[dict[str, float]], settings: PretrainSettings) -> None:
    """Write the log beside the model."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"settings": asdict(settings), "log": log}, indent=1)
    (out / "train_log.json").write_text(text + "\n", encoding="utf-8")
