"""How long a study has still to go."""

from __future__ import annotations

import pytest

from tools.book.run import BUILD, USUAL, Pace


def test_what_is_left_shrinks_and_follows_the_speed_of_the_machine():
    pace = Pace(["00_base_model", "02_lora_finetuning"])
    at_first = pace.left()
    assert at_first == sum(USUAL[name] for name in ("00_base_model", "02_lora_finetuning")) + BUILD
    pace.done("00_base_model", 2 * USUAL["00_base_model"])
    assert pace.left() == pytest.approx(2 * (USUAL["02_lora_finetuning"] + BUILD))
    assert pace.left("02_lora_finetuning", 10) == pytest.approx(pace.left() - 10)
    assert pace.left("02_lora_finetuning", 10**6) == pytest.approx(2 * BUILD)


def test_an_earlier_run_counts_and_unknown_chapters_have_a_guess():
    pace = Pace(["00_base_model", "99_new"], {"00_base_model": 7.0})
    pace.done("00_base_model", 7.0)
    assert "left" in pace.text()
    assert 0 < pace.left() < 200


def test_every_chapter_has_its_usual_time(request):
    sources = {path.stem for path in (request.config.rootpath / "notebooks").glob("[0-9][0-9]_*.py")}
    assert set(USUAL) == sources
