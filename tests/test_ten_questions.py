"""The ten short questions on which the adapters of the pretrained study can be tried."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval_heads import ten_questions


def test_ten_questions_are_no_set_of_the_study_and_stored_tables_fit_them():
    questions = ten_questions.questions()
    assert len(questions) == 10
    assert all(one.meta["documents"] == 3 for one in questions)
    assert {place for one in questions for place in one.meta["gold"]} == {1, 2, 3}
    used = (ten_questions.paths.checkout() / "data/written/records_mdqa.json").read_text(encoding="utf-8")
    assert not any(f'"{one.meta["id"]}"' in used for one in questions)


def test_stored_tables_of_the_ten_questions(monkeypatch):
    monkeypatch.setattr(ten_questions, "at_hand", lambda: False)
    for run in ten_questions.RUNS:
        scores, losses = ten_questions.scores.__wrapped__(run), ten_questions.losses.__wrapped__(run)
        assert scores.shape == (30, 9)
        assert scores.min() >= 0
        assert 0.1 < scores.max() <= 1
        assert len(losses) == 10
        assert np.isfinite(losses.to_numpy()).all()
    read = ten_questions.attention.__wrapped__()
    example = ten_questions.questions()[ten_questions.SHOWN]
    assert "".join(read["tokens"]) == example.prompt
    assert read["answer"] == example.answer
    assert all(one.shape == (30, 9, len(read["tokens"])) for one in read["runs"].values())
    with pytest.raises(ten_questions.ConfigError, match="Use one of real"):
        ten_questions.scores.__wrapped__("real_limited")


@pytest.mark.skipif(not ten_questions.at_hand(), reason="the model is not in models/smollm2")
def test_the_model_gives_the_stored_scores(monkeypatch):
    live = ten_questions.scores.__wrapped__("real")
    monkeypatch.setattr(ten_questions, "at_hand", lambda: False)
    assert np.abs(live - ten_questions.scores.__wrapped__("real")).max() < 0.02
