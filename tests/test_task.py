"""The recipe "How to add a task" of CONTRIBUTING.md, done with a task of a few lines: everything else follows."""

from __future__ import annotations

import pytest

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
from retrieval_heads.errors import ConfigError
from retrieval_heads.stages.head_sets import score_kind


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
