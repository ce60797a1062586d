"""The HF Trainer with a loss on answer tokens only, batches of like length in a fixed order, and exact resuming.

* Logits are taken at the positions that predict an answer token, never for the whole sequence: at 32,768 tokens and
  128,000 words the full logits alone would take 16 GB. They come from the model's own forward pass
  (`logits_to_keep`), so heads that cap or scale their logits are right too.
* Padding is on the right. A token never attends to what follows it, so no attention mask is needed, and SDPA keeps its
  causal kernel.
* The order of all epochs' batches is laid out in advance from the seed. Resuming is skipping the first of them,
  whatever state a random generator is in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_pt_utils import get_length_grouped_indices

from retrieval_heads.data.encode import Encoded, filled_up
from retrieval_heads.errors import ModelError
from retrieval_heads.progress import running, tell
from retrieval_heads.training.processes import several, sharded

SAVE_SECONDS = 60.0
"""Training time that an interruption may cost, at most, but for the step it is in."""

IGNORED = -100
"""Label of a token without loss, as in transformers."""

Batch = dict[str, torch.Tensor]


def plan_batches(lengths: Sequence[int], batch_size: int, epochs: int, seed: int) -> list[list[int]]:
    """Indices of the examples of every batch of every epoch: like lengths together, batches in random order.

    Each epoch uses each example once; its last batches may be smaller.
    """
    plan = []
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = get_length_grouped_indices(list(lengths), batch_size, generator=generator)
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        plan += [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]
    return plan


def own_part(
    plan: Sequence[Sequence[int]], accumulation: int, batch_size: int, number: int, processes: int,
) -> tuple[list[list[int]], int]:
    """What one of several processes does of a plan: its batches, and how many of them make an optimizer step.

    Each optimizer step is on the same examples as with one process. They are dealt out in turn, at most `batch_size` at
    a time; where they do not suffice for all, a process gets an empty batch, as all must make equally many passes.
    """
    if processes == 1:
        return [list(batch) for batch in plan], accumulation
    own, passes, deal = [], math.ceil(accumulation / processes), processes * batch_size
    for start in range(0, len(plan), accumulation):
        members = [index for batch in plan[start : start + accumulation] for index in batch]
        batches = [members[at : at + deal][number::processes] for at in range(0, len(members), deal)]
        own += batches + [[] for _ in range(passes - len(batches))]
    return own, passes


def collate(examples: Sequence[Encoded], multiple: int = 1) -> Batch:
    """Pad examples on the right to the longest, and on to a multiple of so many tokens.

    Returns `input_ids` and `labels`, int64 `[batch, tokens]`; a label is the token itself where it belongs to the
    answer or ends the sequence after it, `IGNORED` elsewhere. No examples give a short row without a loss.
    """
    input_ids = torch.tensor(filled_up([example.ids for example in examples], multiple) or [[0, 0]])
    labels = torch.full_like(input_ids, IGNORED)
    for row, example in enumerate(examples):
        answer = slice(example.prompt_length, len(example.ids))
        labels[row, answer] = input_ids[row, answer]
    return {"input_ids": input_ids, "labels": labels}


def answer_loss(model: torch.nn.Module, batch: Batch, n_targets: torch.Tensor | int | None = None) -> torch.Tensor:
    """Cross entropy in nats of the answer tokens, in fp32: their sum over `n_targets`, by default their own number.

    With several examples, logits are taken at the union of their answer positions.
    """
    targets = batch["labels"][:, 1:]
    rows = (targets != IGNORED).any(dim=0).nonzero().flatten()
    logits = model(input_ids=batch["input_ids"], logits_to_keep=rows, use_cache=False).logits  # [batch, rows, words]
    targets = targets[:, rows]
    total = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum",
    )
    return total / (n_targets if n_targets is not None else (targets != IGNORED).sum())


class AnswerTrainer(Trainer):
    """Trains the adapter of a PEFT model on `batches` of indices (of all epochs), in their order; `args` are for one
    epoch. Examples are taken when they are needed, as they may lie on the disk (`encode.Spilled`)."""

    def __init__(
        self, model: PeftModel, args: Any, examples: Sequence[Encoded], batches: Sequence[Sequence[int]],
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=examples, callbacks=[_Watched()])
        self.batches = batches
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        if not args.disable_tqdm:
            self.add_callback(_Bar())

    def get_train_dataloader(self) -> DataLoader:
        # few lengths on a GPU, as kernels are built for each
        padded = partial(collate, multiple=128 if self.args.device.type == "cuda" else 1)
        return DataLoader(self.train_dataset, batch_sampler=self.batches, collate_fn=padded)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # the number of answer tokens in all accumulated batches, so that accumulation equals one large batch
        # and of all processes, whose gradients are averaged and not added
        return self.accelerator.num_processes * answer_loss(model, inputs, num_items_in_batch)

    def _wrap_model(self, model, training=True, dataloader=None):
        # without a wrapper the Trainer would give each process the whole model again
        return _Sharded(model, self.args) if sharded() else super()._wrap_model(model, training, dataloader)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        # PEFT would otherwise look up the base's vocabulary on the hub, and the Trainer pickle its arguments
        self.model.save_pretrained(output_dir or self.args.output_dir, save_embedding_layers=False)

    def floating_point_ops(self, inputs: Batch) -> int:
        return 0  # not used, and counting walks through all parameters at every step


class _Sharded(nn.Module):
    """A model of which each process has a part, as the Trainer calls it: under the autocast that accelerate adds."""

    def __init__(self, model: PeftModel, args: Any) -> None:
        super().__init__()
        self.module, self.device_type, self.bf16 = model, args.device.type, args.bf16

    def forward(self, **inputs: Any) -> Any:
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.bf16):
            return self.module(**inputs)


class _Bar(ProgressCallback):
    """The Trainer's bar, with the name of the run and without a line of numbers at each step."""

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None and running():
            self.training_bar.set_description(f"{running()}: fine-tuning")

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        return None


class _Watched(TrainerCallback):
    """Lines on how far it is, where output is piped; a checkpoint a minute; the end where the loss is not finite."""

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.last = time.monotonic()

    def on_save(self, args, state, control, **kwargs) -> None:
        self.last = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        tell("fine-tuning", state.global_step, state.max_steps)
        # beside those by steps, so that no more is lost however long a step takes; several processes would have to
        # agree on the time
        if args.save_strategy != "no" and not several() and time.monotonic() - self.last >= SAVE_SECONDS:
            control.should_save = True

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """Stop at a loss that is not finite, naming a broken weight of the base where there is one."""
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            for name, weight in kwargs["model"].named_parameters():
                if not weight.requires_grad and not weight.isfinite().all():
                    raise ModelError("a weight of the base is NaN or infinite", where=name, remedy="Restore the base.")
            raise ModelError(
                "the loss is not finite", where=f"training step {state.global_step}", value=loss,
                remedy="Lower the learning rate or `max_grad_norm`, or train in fp32.",
            )
