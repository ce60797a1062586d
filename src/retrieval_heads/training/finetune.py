"""Extend a base model's context by LoRA fine-tuning on long examples: one call, one adapter folder.

Low-rank adapters (Hu et al., arXiv 2106.09685) on the attention projections only, at a raised RoPE theta, as in Zhao et
al., arXiv 2410.22316. An adapter folder is written whole or not at all; an interrupted call goes on from its last
checkpoint, and on a CPU ends with the bytes that an uninterrupted one writes.

Of several processes (see `processes`) all make the call; each optimizer step is on the same examples as with one.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import TrainingArguments, set_seed
from transformers.trainer_callback import TrainerState

from retrieval_heads.attention.capture import fastest_attention, lean_attention
from retrieval_heads.data.encode import Encoded, check_ids
from retrieval_heads.data.tokenizer import quiet
from retrieval_heads.errors import DataError, ModelError, ResultError
from retrieval_heads.files import written_by_others
from retrieval_heads.models.extension import Extension, fingerprint
from retrieval_heads.models.layout import vocabulary_size
from retrieval_heads.models.load import build_model, model_folder, usable_device
from retrieval_heads.models.modes import one_length
from retrieval_heads.training import processes, training_record
from retrieval_heads.training.answer_trainer import AnswerTrainer, own_part, plan_batches
from retrieval_heads.training.checkpointing import checkpoint_layers, decoder_layers, layers_with_products, lean_step
from retrieval_heads.training.lora_settings import LoraSettings


def finetune(
    base: str | Path, examples: Sequence[Encoded], out_dir: str | Path, settings: LoraSettings, device: str = "cpu",
) -> dict[str, Any]:
    """Fine-tune a base model on encoded examples and write the adapter's folder.

    Nothing but `out_dir` is left behind; during training, checkpoints lie in a hidden folder beside it. A finished
    `out_dir` of the same base, examples and settings is not trained again. With FSDP there are no checkpoints, and an
    interrupted call begins anew.

    Args:
        base: folder or cached hub id of the base model.
        examples: token ids with the place of the answer; the loss is on the answer and the end-of-sequence token.
        out_dir: receives `adapter_model.safetensors`, `adapter_config.json`, `extension.json` (what the adapter has to
            know of its base), `training.json` (the record: settings, counts, the loss of each step in nats per token,
            versions) and `timing.json` (what differs between two equal calls).
        settings: see `LoraSettings`.
        device: `cpu` or `cuda`.

    Returns:
        The record, with the content of `timing.json` under `timing`.

    Raises:
        DataError: no examples, or one longer than `settings.max_length` or with ids outside the vocabulary.
        ModelError: a base that cannot be loaded or has no such projections, a device that is missing, a loss that is
            not finite.
        ResultError: `out_dir` exists and is something else, or cannot be written.
    """
    processes.join(device)
    out_dir, folder = Path(out_dir), model_folder(base)
    device = _training_device(device)
    inputs = {
        "base_fingerprint": fingerprint(folder), "examples": len(examples),
        "examples_sha256": training_record.examples_digest(examples),
        "settings": json.loads(json.dumps(asdict(settings))),
    }
    work = out_dir.parent / f".{out_dir.name}.partial"
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        return _finished(out_dir, inputs, work)
    _check_examples(examples, settings)
    base_name = folder.resolve().name if Path(base).is_dir() else str(base)
    if processes.several():
        processes.announce(base=str(base), examples=[asdict(example) for example in examples], out_dir=str(out_dir),
                 settings=asdict(settings), device=device.type)
    model = _adapted_model(folder, base_name, settings, examples, device)
    with processes.all_or_none(), training_record.left_tidy(work, processes.is_first()), written_by_others(work):
        checkpoint = processes.share(training_record.open_work(work, inputs) if processes.is_first() else None)
        started = time.monotonic()
        state = _train(model, examples, settings, device, work, checkpoint)
        weights = {name: processes.whole(weight.data) for name, weight in model.named_parameters() if "lora_" in name}
        if wrong := [name for name, values in weights.items() if not values.isfinite().all()]:
            raise ModelError("the last step made weights NaN or infinite", where=wrong[0],
                             remedy="Lower the learning rate or `max_grad_norm`, or train in fp32.")
        record = {"base_name": base_name, **inputs, **training_record.outcome(examples, settings.epochs, state, device)}
        timing = {
            "seconds": round(time.monotonic() - started, 3),
            "resumed_from_step": training_record.step_of(Path(checkpoint)) if checkpoint else 0,
        }
        if processes.is_first():
            extension = Extension(base_name, inputs["base_fingerprint"], settings.rope_theta, settings.max_length,
                                  settings.rank, settings.alpha, settings.target_modules)
            training_record.publish(model, weights, extension, record, timing, work, out_dir)
        return processes.share({**record, "timing": timing})


def follow(examples: Sequence[dict[str, Any]], settings: dict[str, Any], **job: Any) -> None:
    """Take part in a fine-tuning that the first of several processes has announced."""
    finetune(examples=[Encoded(**example) for example in examples], settings=LoraSettings(**settings), **job)


def _finished(out_dir: Path, inputs: dict[str, Any], work: Path) -> dict[str, Any]:
    record = training_record.read_training(out_dir)
    if {key: record.get(key) for key in inputs} != inputs:
        raise ResultError(
            "the folder holds an adapter of another base, other examples or other settings", where=out_dir,
            remedy="Delete it, or give another folder.",
        )
    shutil.rmtree(work, ignore_errors=True)  # a call killed between the last two steps leaves it
    return record


def _training_device(name: str) -> torch.device:
    device = usable_device(name)
    own = torch.cuda.current_device() if processes.several() and device.type == "cuda" else 0  # set by `join`
    if device.type not in ("cpu", "cuda") or device.index not in (None, own):
        raise ModelError(
            "training runs on the CPU or on the first visible GPU", where="device", value=name,
            remedy="Give cpu or cuda, and choose the GPU by CUDA_VISIBLE_DEVICES.",
        )
    return device


def _check_examples(examples: Sequence[Encoded], settings: LoraSettings) -> None:
    if not examples:
        raise DataError("there is nothing to train on", where="examples", remedy="Give at least one example.")
    for index, example in enumerate(examples):
        if len(example.ids) > settings.max_length:
            raise DataError(
                f"{len(example.ids)} tokens are more than `max_length`, {settings.max_length}",
                where=f"training example {index}", remedy="Make shorter examples, or raise `max_length` and theta.",
            )


def _adapted_model(
    folder: Path, base_name: str, settings: LoraSettings, examples: Sequence[Encoded], device: torch.device,
) -> PeftModel:
    # under autocast the base keeps the dtype it was saved in: a small fp32 base is not rounded, a bf16 one not blown up
    model = build_model(folder, "auto" if settings.bf16 else torch.float32, settings.rope_theta, settings.max_length,
                        device)
    for index, example in enumerate(examples):
        check_ids(example.ids, vocabulary_size(model), f"training example {index}")
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    if missing := sorted(set(settings.target_modules) - names):
        raise ModelError(
            "the base has no such projections", where=folder, value=missing,
            remedy="Use a decoder with q_proj, k_proj, v_proj and o_proj.",
        )
    set_seed(settings.seed)  # LoRA's first factor is random
    with quiet():
        if settings.gradient_checkpointing:
            tokens = settings.batch_size * max(len(example.ids) for example in examples)
            # what may be planned for; on the CPU, where others need the memory too, nothing
            memory = 0.85 * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0.0
            checkpoint_layers(model, layers_with_products(model, tokens, memory))
        adapted = get_peft_model(model, LoraConfig(
            r=settings.rank, lora_alpha=settings.alpha, target_modules=list(settings.target_modules),
            lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
        ))
    adapted.peft_config["default"].base_model_name_or_path = base_name  # PEFT puts the path on this machine
    return adapted


def _train(
    model: PeftModel, examples: list[Encoded], settings: LoraSettings, device: torch.device, work: Path,
    checkpoint: str | None,
) -> TrainerState:
    plan = plan_batches([len(example.ids) for example in examples], settings.batch_size, settings.epochs, settings.seed)
    steps = math.ceil(len(plan) / settings.accumulation)
    batches, accumulation = own_part(plan, settings.accumulation, settings.batch_size, *processes.place())
    saving = {"save_strategy": "no"} if settings.save_steps is None or processes.sharded() else {
        "save_strategy": "steps", "save_steps": settings.save_steps, "save_total_limit": 1,
    }
    with quiet():
        arguments = TrainingArguments(
            output_dir=str(work / "checkpoints"), num_train_epochs=1, **saving,
            per_device_train_batch_size=1, gradient_accumulation_steps=accumulation,
            learning_rate=settings.lr, lr_scheduler_type=settings.schedule, weight_decay=settings.weight_decay,
            warmup_steps=math.ceil(settings.warmup * steps), max_grad_norm=settings.max_grad_norm, seed=settings.seed,
            bf16=settings.bf16, use_cpu=device.type == "cpu", report_to="none", logging_steps=1,
            logging_nan_inf_filter=False, log_level="error", remove_unused_columns=False,
            disable_tqdm=not sys.stderr.isatty(), ddp_find_unused_parameters=False,
        )
        arguments._n_gpu = min(arguments.n_gpu, 1)  # the Trainer would split each batch over all visible GPUs
        if processes.sharded():
            processes.shard(model, decoder_layers(model), arguments.device)
        trainer = AnswerTrainer(model, arguments, examples, batches)
        fastest = fastest_attention() if device.type == "cuda" else nullcontext()
        with lean_step(model), lean_attention(model), fastest, one_length(model, settings.max_length):
            trainer.train(resume_from_checkpoint=checkpoint)
    return trainer.state
