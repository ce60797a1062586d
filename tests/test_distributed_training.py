"""Two processes on a CPU train one run: the losses and the adapter of one process, by DDP and by FSDP."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path

import pytest
import torch
from model_folders import ADAPTER_FILES, settings
from safetensors.torch import load_file
from tiny_study import save_tiny_base, write_profile
from torch.distributed.tensor import DTensor

from retrieval_heads import cli
from retrieval_heads.data.encode import Encoded
from retrieval_heads.errors import ModelError
from retrieval_heads.training import finetune as module
from retrieval_heads.training.answer_trainer import AnswerTrainer, collate, own_part, plan_batches
from retrieval_heads.training.finetune import finetune
from retrieval_heads.training.processes import FSDP_VARIABLE, announce, share, together

TIMEOUT = 60


def examples() -> list[Encoded]:
    """Seven examples of different lengths and answers, so that no batch is full of equals."""
    generator = torch.Generator().manual_seed(0)
    lengths = ((20, 1), (30, 5), (25, 2), (40, 3), (22, 8), (33, 2), (28, 4))
    return [
        Encoded(tuple(torch.randint(3, 300, (tokens,), generator=generator).tolist()), tokens - answer, answer - 1, ())
        for tokens, answer in lengths
    ]


WAYS = {
    "accumulated": settings(epochs=2, batch_size=1, accumulation=3, lr=1e-2),
    "one batch a step": settings(epochs=2, batch_size=4, lr=1e-2, gradient_checkpointing=True, save_steps=2),
    "bf16": settings(epochs=1, batch_size=4, lr=1e-2, bf16=True),
}


@pytest.fixture(scope="module")
def processes():
    """Starts a function in two processes as a launcher would, and returns their exit codes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["retrieval_heads.stages.finetune", "test_distributed_training",
                                    "transformers.models.llama.modeling_llama"])

    def run(function, *arguments, fsdp: bool = False) -> list[int]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        started = []
        for rank in range(2):
            variables = {
                "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                FSDP_VARIABLE: str(fsdp).lower(),
            }
            started.append(context.Process(target=as_launched, args=(variables, function, arguments)))
            started[-1].start()
        try:
            for process in started:
                process.join(TIMEOUT)
            return [process.exitcode for process in started]
        finally:
            for process in started:
                process.kill()

    return run


def as_launched(variables, function, arguments) -> None:
    torch.set_num_threads(1)
    os.environ.update({name: str(value) for name, value in variables.items()})
    sys.exit(function(*arguments))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("distributed") / "base")


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    train_all_ways(base, folder)
    return folder


def train_all_ways(base: Path, folder: Path) -> None:
    for way, how in WAYS.items():
        finetune(base, examples(), folder / way, how)


def train_in_parts(base: Path, folder: Path) -> None:
    parts = []
    step = AnswerTrainer.training_step

    def spy(self, model, *arguments):
        parts.append({isinstance(weight, DTensor) for weight in model.parameters()})
        return step(self, model, *arguments)

    AnswerTrainer.training_step = spy
    train_all_ways(base, folder)
    assert parts
    assert all(found == {True} for found in parts)


@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp"])
def test_two_processes_give_what_one_gives(fsdp, base, alone, processes, tmp_path):
    assert processes(train_in_parts if fsdp else train_all_ways, base, tmp_path, fsdp=fsdp) == [0, 0]
    for way in WAYS:
        records = [json.loads((folder / way / "training.json").read_text()) for folder in (alone, tmp_path)]
        assert {key: records[0][key] for key in records[0] if key != "loss"} == {
            key: records[1][key] for key in records[1] if key != "loss"}
        close = {"rel": 1e-2 if way == "bf16" else 1e-5}
        assert len(records[0]["loss"]) >= 2
        for one, two in zip(records[0]["loss"], records[1]["loss"], strict=True):
            assert two == {name: pytest.approx(value, **close) for name, value in one.items()}
        assert {path.name for path in (tmp_path / way).iterdir()} == ADAPTER_FILES
        one, two = (load_file(folder / way / "adapter_model.safetensors") for folder in (alone, tmp_path))
        assert one.keys() == two.keys()
        if way != "bf16":
            for name in one:
                torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(WAYS)


def lead_and_follow(base: Path, folder: Path) -> None:
    done = []

    def follow(**job):
        done.append(job["settings"]["lr"])
        module.follow(**job)

    with together("cpu", follow) as leads:
        if leads:
            with pytest.raises(ModelError, match="not finite"):
                finetune(base, examples(), folder / "diverged", settings(lr=1e38, max_grad_norm=0, epochs=4))
            finetune(base, examples(), folder / "adapter", settings())
            finetune(base, examples(), folder / "adapter", settings())  # is there already
    assert done == ([] if leads else [1e38, settings().lr])
    assert [path.name for path in folder.iterdir()] == ["adapter"]


def test_others_follow_the_first_process_through_failed_and_finished_runs(base, processes, tmp_path):
    assert processes(lead_and_follow, base, tmp_path) == [0, 0]


def stumble(base: Path, folder: Path, who: str) -> None:
    step = AnswerTrainer.training_step

    def fail(self, *arguments):
        if os.environ["RANK"] == who and self.state.global_step == 1:
            raise MemoryError("by this process alone")
        return step(self, *arguments)

    AnswerTrainer.training_step = fail
    with together("cpu", module.follow) as leads:
        if leads:
            try:
                finetune(base, examples(), folder / "adapter", settings())
            except Exception:
                announce()  # what a study does that goes on with its next run


@pytest.mark.parametrize("who", ["0", "1"])
def test_a_process_that_fails_alone_ends_and_so_does_the_other(who, base, processes, tmp_path):
    assert processes(stumble, base, tmp_path, who) == [1, 1]
    assert not (tmp_path / "adapter").exists()


def test_command_line(base, processes, tmp_path):
    profile = write_profile(tmp_path / "tiny.yaml", base, conditions=["real"], workers=4)
    line = ["run", "finetune", "--profile", str(profile), "--home"]
    assert processes(cli.main, [*line, str(tmp_path / "two")]) == [0, 0]
    table = next((tmp_path / "two").glob("runs/*/tables/losses.csv"))
    assert len(table.read_text().splitlines()) == 9
    again = [*line, str(tmp_path / "two"), "--task", "nonsense"]
    assert processes(cli.main, again) == [2, 2]


def test_each_step_is_on_the_same_examples_however_many_processes():
    lengths = [example.prompt_length for example in examples()]
    for batch_size, accumulation, number in ((1, 3, 2), (4, 1, 2), (2, 2, 3), (1, 1, 2), (3, 4, 2)):
        plan = plan_batches(lengths, batch_size, 2, seed=0)
        assert own_part(plan, accumulation, batch_size, 0, 1) == (plan, accumulation)
        parts = [own_part(plan, accumulation, batch_size, rank, number) for rank in range(number)]
        steps = -(-len(plan) // accumulation)
        passes = parts[0][1]
        assert {(len(batches), each) for batches, each in parts} == {(steps * passes, passes)}
        assert max(len(batch) for batches, _ in parts for batch in batches) <= batch_size
        for step in range(steps):
            whole = [i for batch in plan[step * accumulation : (step + 1) * accumulation] for i in batch]
            dealt = [i for batches, _ in parts for batch in batches[step * passes : (step + 1) * passes] for i in batch]
            assert sorted(dealt) == sorted(whole)


def test_an_empty_batch_has_no_targets():
    batch = collate([])
    assert batch["input_ids"].shape == (1, 2)
    assert (batch["labels"] == -100).all()


def test_one_process_shares_with_itself():
    assert share({"a": 1}) == {"a": 1}


def test_each_process_trains_on_the_gpu_that_it_was_given(monkeypatch):
    monkeypatch.setattr(module, "usable_device", torch.device)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    with pytest.raises(ModelError, match="first visible GPU"):
        module._training_device("cuda:1")  # alone
    monkeypatch.setattr(module.processes, "several", lambda: True)
    assert module._training_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ModelError, match="first visible GPU"):
        module._training_device("cuda:0")
