"""The ten lines of the README, and the recipe "How to add a task" of CONTRIBUTING.md, do what they say."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import matplotlib
import pytest
from model_folders import make_adapter, save_model

from retrieval_heads import evaluate, retrieval_scores
from retrieval_heads.claims.arrays import claim_column
from retrieval_heads.cli import main
from retrieval_heads.config import load_profile
from retrieval_heads.data import make_examples
from retrieval_heads.data.conditions import CONDITIONS
from retrieval_heads.data.example import TASKS, task_of
from retrieval_heads.data.jsonl import read_examples
from retrieval_heads.data.relations import CODES, Fact, draw_path
from retrieval_heads.data.scene import Counter, Query, Scene, SceneBuilder, Sentence, fill, state
from retrieval_heads.data.task import ANSWER_METRICS, Task
from retrieval_heads.data.tokenizer import embedded_tokenizer
from retrieval_heads.errors import ConfigError
from retrieval_heads.stages.head_sets import score_kind

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
BASE, ADAPTER = "models/base", "models/adapters/mdqa__real__s1__base"


def python_blocks(name: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(r"```python\n(from retrieval_heads import .*?)```", text, re.DOTALL)


@pytest.fixture
def run(monkeypatch, tmp_path: Path) -> Callable[..., dict]:
    """Run the README's code with texts of it replaced, in a folder of its own; returns its variables."""

    def execute(**replaced: str) -> dict:
        [code] = python_blocks("README.md")
        for old, new in {"n=50": "n=4", "length=512": "length=400", **replaced}.items():
            assert old in code
            code = code.replace(old, new)
        variables: dict = {}
        monkeypatch.chdir(tmp_path)
        exec(compile(code, "README.md", "exec"), variables)
        return variables

    yield execute
    plt.close("all")


def losses(output: str) -> list[float]:
    return [float(value) for value in re.findall(r": (\d+\.\d+(?:e-\d+)?)$", output, re.MULTILINE)]


def test_the_code_is_about_ten_lines_and_the_same_in_the_book():
    [code] = python_blocks("README.md")
    lines = [line for line in code.splitlines() if line and not line.startswith("from ")]
    assert len(lines) <= 12
    assert python_blocks("book/run_it_yourself.md") == [code]


def test_the_ten_lines_run(run, capsys, tmp_path: Path):
    if not (ROOT / BASE / "config.json").exists():
        pytest.skip("the base model is not in models/base")
    found = run(**{f'"{ADAPTER}"': repr(str(ROOT / ADAPTER)), f'"{BASE}"': repr(str(ROOT / BASE))})
    output = capsys.readouterr().out
    assert f"{len(found['heads'])} retrieval heads; loss of the answer: " in output
    whole, without, patched = losses(output)
    assert without > whole
    assert without > patched
    assert (tmp_path / "head_map.png").stat().st_size > 1000


def test_the_ten_lines_run_on_a_folder_of_another_family(run, capsys, tmp_path: Path, tiny_model):
    tokenizer = embedded_tokenizer()
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    base = save_model(tmp_path / "own", tiny_model("qwen3", vocab_size=len(tokenizer), **ids), tokenizer)
    adapter = make_adapter(base, tmp_path / "adapter", seed=1)
    found = run(**{f'"{ADAPTER}"': repr(str(adapter)), f'"{BASE}"': repr(str(base)),
                   "select_heads(scores, threshold=0.1)": "select_heads(scores, k=3)"})
    assert found["model"].config.model_type == "qwen3"
    assert hasattr(found["source"], "extension")
    assert found["scores"].shape == (3, 4)
    assert "3 retrieval heads; " in capsys.readouterr().out
    assert (tmp_path / "head_map.png").stat().st_size > 1000
    for model in (found["model"], found["source"]):
        assert not any(module._forward_pre_hooks for module in model.modules())


def build_counting(builder: SceneBuilder, budget: int, count: Counter, n_queries: int = 1) -> Scene:
    """A fact that one to four notes state; the question is how many."""
    rng, condition = builder.rng, builder.condition
    if condition.concept == "symbolic":
        fact = Fact(builder.code(), CODES, builder.code())
        sentence = Sentence(f"{fact.subject.name}: {fact.object.name}.", (fact,), ("value/pair/0",))
    else:
        [relation] = draw_path(rng, 1, condition.limited)
        fact = builder.fact(builder.names.entity(relation.subject), relation)
        sentence = state(rng, fact, condition.concept)
    times = rng.randint(1, 4)
    scene = Scene([builder.grass([sentence]) for _ in range(times)])
    fill(scene, builder.grass, budget, count)
    scene.queries = [Query(f"How many notes are about {fact.subject.name}?", str(times), (fact,))]
    return scene


COUNTING = Task("counting", build_counting, head_score="insight")


@pytest.fixture
def counting(monkeypatch) -> str:
    monkeypatch.setitem(TASKS, COUNTING.name, COUNTING)
    return COUNTING.name


@pytest.mark.parametrize("condition", [name for name, kind in CONDITIONS.items() if not kind.shuffled])
def test_examples_of_every_condition(counting, condition):
    for example in make_examples(task=counting, condition=condition, length=600, n=2, seed=1):
        assert example.task == counting
        assert example.answer == str(len(example.needles)) == str(len(example.meta["gold"]))
        assert len(set(example.needle_texts())) == 1


def test_models_are_scored_and_heads_are_found_by_its_kind(counting, tiny_model, tiny_tokenizer):
    model, profile = tiny_model("llama"), load_profile("smoke", tasks=[counting])
    examples = make_examples(
        task=counting, condition="real", length=900, n=3, seed=1, split="test", tokenizer=tiny_tokenizer,
    )
    scores = evaluate(model, tiny_tokenizer, examples, n_resamples=20)
    assert {*ANSWER_METRICS, "forced_exact_match", "n"} <= set(scores)
    assert score_kind(profile, counting) == "insight"
    assert claim_column(counting) == "exact_match"
    found = retrieval_scores(model, tiny_tokenizer, examples, score_kind(profile, counting))
    assert (found.n_used, found.kind) == (3, "insight")
    assert found.scores.max() > 0  # by tokens that are copied nothing would be found


def test_the_command_line_knows_it(counting, tmp_path):
    file = tmp_path / "counting.jsonl"
    line = ["export", "--task", counting, "--condition", "low_low", "--length", "600", "--n", "2", "--out", str(file)]
    assert not main(line)
    assert [example.task for example in read_examples(file)] == [counting] * 2


def test_without_it_nothing_is_left():
    assert "counting" not in TASKS
    assert task_of("counting") == Task("counting")
    with pytest.raises(ConfigError, match="unknown task"):
        make_examples(task="counting", condition="real", length=400, n=1, seed=0)
