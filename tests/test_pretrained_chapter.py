"""The chapter on the pretrained model says what the tables say: with everything there, with a part, with nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from pretrained_tables import RANKED, SYNTHETIC, TRAINED, answers, heads, knockouts, patches, probe_losses

from retrieval_heads.claims.pretrained import judge
from retrieval_heads.claims.verdict import as_rows
from retrieval_heads.config import load_profile
from retrieval_heads.figures import pretrained as figures
from retrieval_heads.stages import grid
from retrieval_heads.tables import conform
from retrieval_heads.takeaways import pretrained as said

PROFILE = load_profile("pretrained")
LEVELS = {name: 0.4 - 0.02 * place for place, name in enumerate(TRAINED)}


def performance(answers: pd.DataFrame) -> pd.DataFrame:
    """The table `performance` from `answers`: F1 at the training length."""
    mean = answers.groupby(["task", "condition", "seed", "base"], as_index=False).score.mean()
    rows = mean.rename(columns={"score": "value"})
    return rows.assign(metric="f1", eval_length=PROFILE.train_length, low=rows.value, high=rows.value, n=600)


def simulated(seeds: tuple[int, ...]) -> dict[str, pd.DataFrame]:
    """All tables of a study in which synthetic data fall short, and strong heads are needed."""
    rng = np.random.default_rng(0)
    raw = answers(rng, LEVELS, seeds=seeds)
    raw |= heads(rng, {name: (1 - 0.05 * place, 0.0) for place, name in enumerate(TRAINED)}, seeds=seeds)
    raw["probe_loss"] = probe_losses(rng, dict.fromkeys(TRAINED, 2.0), seeds=seeds)
    sets = {"retrieval": 0.8, "random_layer": 0.05, "random_group": 0.05, "random_zero": 0.02}
    raw["knockout_losses"] = knockouts(rng, sets, conditions=("real", *SYNTHETIC), seeds=seeds)
    raw["patching_losses"] = patches(rng, {"retrieval": 0.5, "random_layer": 0.05, "all": 0.9}, seeds=seeds)
    made, verdicts = judge(raw, n_resamples=2000)
    made = {name: conform(name, rows) for name, rows in made.items()}
    tables = raw | made | {"verdicts": as_rows(verdicts), "performance": performance(raw["answers"])}
    theta = performance(raw["base_answers"].assign(seed=0)).drop(columns="seed")
    tables["base"] = theta
    return {name: table for name, table in tables.items() if len(table)}


@pytest.fixture(scope="module")
def whole() -> dict[str, pd.DataFrame]:
    return simulated((1, 2, 3))


@pytest.fixture(scope="module")
def one_seed() -> dict[str, pd.DataFrame]:
    return simulated((1,))


def test_with_everything_there_every_part_has_its_sentence_and_its_number(whole):
    text = said.takeaway(whole, PROFILE)
    assert len(text) == 9
    assert not any(said.NOT_YET in one for one in text if "planned" not in one)
    verdict = whole["verdicts"].query("task == 'all'").set_index("claim").verdict
    for claim, outcome in verdict[verdict != "not decided"].items():
        assert claim in text[0]
        assert outcome in text[0]
    share = whole["loss_effects"].query(
        "intervention == 'knockout' and condition == 'real' and effect == 'share_lost' and k == 14")
    share = share.set_index("control")
    assert f"loses {share.value['retrieval']:.0%} [" in said.knockout(whole)
    assert f"{share.value['random_layer']:.0%} [" in said.knockout(whole)
    row = whole["set_correlation"].query("predictor == 'recall' and sets == 'all'")
    assert f"is {row[row.given.isna()].value.iloc[0]:.2f} [" in said.recall(whole)
    closed = whole["loss_effects"].query(
        "intervention == 'patching' and condition == 'all' and effect == 'share_closed' and k == 14")
    assert f"close {closed.set_index('control').value['retrieval']:.0%} [" in said.patching(whole)
    effects = whole["loss_effects"]
    assert said.NOT_YET in said.patching({"loss_effects": effects[effects.condition != "all"]})
    real = whole["performance"].query("condition == 'real'").value.mean()
    assert f"{real:.2f} after `real`" in said.answers(whole, PROFILE)
    assert "luck" not in said.answers(whole, PROFILE)
    assert said.contrasts(whole).count("(short)") >= 2
    gap = whole["contrasts"].query("condition == 'symbolic' and outcome == 'f1'").value.iloc[0]
    assert f"`symbolic` {gap:+.3f} [" in said.contrasts(whole)


def test_all_runs_are_said_to_be_there_and_recall_stands_beside_the_loss_on_the_probe(whole):
    runs = pd.DataFrame([("mdqa", name, seed) for name in PROFILE.conditions for seed in PROFILE.seeds],
                        columns=["task", "condition", "seed"])
    assert said.state({"performance": runs, "head_scores": runs}, PROFILE).startswith(
        "All 45 planned runs are there: 15 training sets with 3 seeds each.")
    assert f"1 run is {said.NOT_YET}" in said.state({"performance": runs, "head_scores": runs[1:]}, PROFILE)
    less = whole["set_correlation"].query("predictor == 'recall_over_probe_loss' and sets == 'all'").iloc[0]
    assert less.low > 0
    assert (f"Recall is shown to predict a left-out set better than that loss does: its error is smaller by "
            f"{less.value:.3f} [{less.low:.3f}, {less.high:.3f}] of F1.") in said.recall(whole)
    row = whole["set_correlation"].query("predictor == 'recall' and sets == 'whole' and given.isna()").iloc[0]
    assert f"{row.n} sets are left; their correlation is {row.value:.2f} [" in said.without_mixtures(whole)
    assert said.without_mixtures(whole).endswith("not beyond chance." if row.p >= 0.05 else ": beyond chance.")
    assert said.without_mixtures({}) == ""
    table = whole["set_correlation"].assign(low=-0.001)
    assert "Recall is not shown to predict" in said.recall(whole | {"set_correlation": table})


@pytest.mark.parametrize(("gain", "words"), [(0.049, "it is left out."), (0.051, "it is studied.")])
def test_controls_stand_beside_real_data_and_a_second_task_beside_its_gate(gain, words):
    runs = pd.DataFrame({"metric": "f1", "condition": ["real", "real", "real_short", "real_shuffled"],
                         "value": [0.3, 0.4, 0.2, 0.01]})
    text = said.controls({"performance": runs})
    assert "beside 0.35 after `real`" in text
    assert "a quarter of the length, models reach 0.20, and trained on answers of other questions 0.01." in text
    assert said.controls({"performance": runs[:3]}) == ""
    row = {"task": "musique", "metric": "f1", "low": 0.0, "high": 0.2, "n": 72}
    pilot = pd.DataFrame([row | {"lr": None, "value": 0.01}, row | {"lr": 0.002, "value": 0.01 + gain}])
    assert f"F1 is {0.01 + gain:.3f} [" in (told := said.controls({"pilot": pilot}))
    assert told.endswith(words)
    assert said.controls({}) == ""


def test_an_open_contrast_is_said_to_be_open_and_not_a_shortfall(whole):
    table = whole["contrasts"].copy()
    named = table.finding.notna()
    assert "open" not in said.contrasts(whole).lower()
    for findings, words in (
        (["open", "short", "short"], ["For LLM-written needles in real documents it is open: neither a shortfall",
                                      "repeated filler and symbolic data are shown to answer worse"]),
        (["better", "equivalent", "open"], ["real documents are shown to answer better", "For symbolic data it is open",
                                            "differ by less than 0.03 of F1"]),
    ):
        table.loc[named, "finding"] = findings
        assert table[named].condition.tolist() == ["high_high", "low_low", "symbolic"]
        text = said.short_of_real({"contrasts": table})
        assert all(one in text for one in words)
        assert "Open: neither a shortfall nor a difference below 0.03 is shown." in said.contrasts({"contrasts": table})


def test_overlap_of_what_is_gained_stands_beside_its_ceiling_and_its_chance(whole):
    row = whole["strength_agreement"].query("condition == 'all' and heads == 'gained'").iloc[0]
    text = said.overlap(whole)
    for words in (f"training, {row.precision:.0%} [", f"({row.ceiling:.0%} between real runs, {row.chance:.0%} with",
                  f"by real training, {row.recall:.0%} [{row.recall_low:.0%}, {row.recall_high:.0%}]"):
        assert words in text
    assert said.NOT_YET in said.overlap({})


def test_recall_stands_beside_the_cheaper_loss_and_few_seeds_are_counted(whole):
    rows = whole["set_correlation"].query("predictor == 'probe_loss' and sets == 'all'")
    loss = rows[rows.given.isna()].value.iloc[0]
    assert f"loss on the probe examples is {loss:.2f}." in said.recall(whole)
    assert "decides nothing" not in said.recall(whole)
    points = whole["set_points"].assign(n_seeds=[2, 1] + [3] * (len(whole["set_points"]) - 2))
    assert "As 2 sets have fewer than 3 seeds so far, this decides nothing." in said.recall(
        whole | {"set_points": points})


def test_the_two_parts_of_what_a_knock_out_takes_away_add_up(whole):
    real = whole["loss_effects"].query("intervention == 'knockout' and condition == 'real' and k in (0, 14)")
    real = real.set_index(["effect", "control"]).value
    gain, rise, over = (real[key] for key in (("gain_from_context", "none"), ("rise", "retrieval"),
                                              ("rise_over_without", "without")))
    assert np.isclose((rise - (rise - over)) / gain, real["share_lost", "retrieval"], rtol=1e-3)
    text = said.parts_lost(whole)
    assert f"changes by {rise:+.2f} [" in text
    assert f"{rise / gain:.0%} of the gain" in text
    assert f"without the document by {rise - over:+.2f}, {abs(rise - over) / gain:.0%} of it." in text
    assert said.random_share(whole).startswith(text), "the chapter has it beside the random heads"
    assert said.parts_lost({}) == ""


def test_a_correlation_is_that_over_ranks_and_not_the_one_given_theta_alone(whole):
    rows = whole["set_correlation"].copy()
    recall = (rows.predictor == "recall") & (rows.sets == "all")
    rows.loc[recall & rows.given.notna(), "value"] = -0.77
    assert "-0.77" not in said.recall(whole | {"set_correlation": rows})


def test_one_seed_is_said_to_be_one_and_decides_nothing(one_seed):
    assert "nothing is decided" in said.verdicts(one_seed)
    assert f"0 of {len(PROFILE.conditions)} training sets have all 3 seeds" in said.state(one_seed, PROFILE)
    assert "With 1 of 3 seeds, differences between trained models cannot be told from luck." in said.answers(
        one_seed, PROFILE)
    assert "over examples only (1 seed)" in said.knockout(one_seed)


def test_a_part_is_counted(whole):
    part = {"performance": whole["performance"].query("seed == 1 and condition in ('real', 'high_high')"),
            "base": whole["base"]}
    text = said.state(part, PROFILE)
    assert text.startswith("Of 45 planned runs, 2 are trained and tested, 0 are scored for heads")
    assert "0 of 15 training sets have all 3 seeds" in text
    assert said.NOT_YET in text
    assert len(said.takeaway(part, PROFILE)) == 3


def test_with_nothing_there_it_says_so_and_shows_no_number_of_a_result():
    text = said.takeaway({}, PROFILE)
    assert text == [said.verdicts({}), "Of 45 planned runs none is there yet."]
    assert "nothing is decided" in text[0]
    for function in (said.contrasts, said.recall, said.knockout, said.patching):
        assert said.NOT_YET in function({})
    assert said.NOT_YET in said.heads({}, PROFILE)
    assert said.NOT_YET in said.answers({}, PROFILE)


def test_theta_alone_can_be_told_without_any_trained_run(whole):
    scores = whole["head_scores"].query("condition == 'rope'")
    text = said.heads({"head_scores": scores}, PROFILE)
    assert "4 with theta raised" in text
    assert "still to be scored" in text
    mean = said.copy_scores(scores).groupby(["layer", "head"]).score.mean()
    layer, head = mean.idxmax()
    assert f"head {head} of layer {layer} ({mean.max():.2f}, theta alone)" in text


def test_where_the_studies_differ():
    small = pd.DataFrame({"claim": ["C1", "C2"], "task": "all", "verdict": ["supported", "not supported"]})
    assert "cannot be said" in said.differences(small, small.assign(verdict="not decided"))
    assert said.differences(small, small) == "The two studies have the same verdict on C1 and C2."
    text = said.differences(small, small.assign(verdict="supported"))
    assert text.startswith("The two studies have the same verdict on C1. The verdicts differ on C2 (not supported in "
                           "the small study, supported here). Rules and measures differ, too")
    text = said.differences(small, small.assign(verdict=["not supported", "supported"]))
    assert text.startswith("The verdicts differ on C1 (supported in the small study, not supported here) and C2")


@pytest.mark.parametrize("tables", ["whole", "one_seed", "nothing"])
def test_figures_are_drawn_or_say_that_nothing_is_there(tables, request):
    given = {} if tables == "nothing" else request.getfixturevalue(tables)
    drawn = [figures.performance_figure(given, PROFILE), figures.maps_figure(given, 0.1),
             figures.recall_figure(given, PROFILE), figures.effects_figure(given)]
    empty = [[figures.NOT_YET in [text.get_text() for text in ax.texts] for ax in figure.axes if ax.get_visible()]
             for figure in drawn]
    if tables == "nothing":
        assert all(all(one) for one in empty)
    if tables == "whole":
        assert not any(any(one) for one in empty)
        assert len(drawn[2].axes[0].lines) == len(RANKED)
    plt.close("all")


def test_the_scale_of_colours_ends_at_the_largest_score_shown(whole):
    means = said.copy_scores(whole["head_scores"]).groupby(["condition", "layer", "head"]).score.mean()
    shown = means[means.index.isin(["base", "rope", "real", "low_low"], level="condition")]
    figure = figures.maps_figure(whole, 0.1)
    drawn = [ax.images[0] for ax in figure.axes if ax.images]
    assert {image.get_clim() for image in drawn} == {(0, shown.max())}
    assert f"darkest: {shown.max():.2f}" in figure.axes[-1].get_ylabel()
    plt.close("all")
    html = figures.explorer_html(whole, PROFILE)
    assert f"The darkest shade stands for {means.max():.2f}, the largest." in html
    assert f'"domain": [0, {round(means.max(), 2)}]'.replace(" ", "") in html.replace(" ", "")
    assert figures.NOT_YET in figures.explorer_html({}, PROFILE)


def test_what_random_heads_do_is_said_beside_its_noise(whole):
    effects = whole["loss_effects"]
    mine = (effects.intervention == "knockout") & (effects.condition == "real") & (effects.effect == "share_lost")
    mine &= (effects.control == "random_layer") & (effects.k == 14)
    for ends, words in (((-0.1, 0.1), "within noise of no effect."), ((0.1, 0.2), "a harm beyond"),
                        ((-0.2, -0.1), "a help beyond")):
        table = effects.assign(low=effects.low.mask(mine, ends[0]), high=effects.high.mask(mine, ends[1]))
        text = said.random_share(whole | {"loss_effects": table})
        assert f"[{ends[0]:.0%}, {ends[1]:.0%}]" in text
        assert words in text
    assert said.random_share({}) == ""
    loss = pd.DataFrame({"none": [1.0, 2.0, 3.0, 4.0], "random": [0.8, 1.8, 2.8, 3.8]})
    text = said.random_heads_line(loss)
    assert "changes by -0.20 nats a token on average" in text
    assert "lower on 4 of 4 questions. That is a help beyond the noise of examples." in text
    assert "within noise" in said.random_heads_line(loss.assign(random=[0.8, 2.2, 2.8, 4.2]))


def test_what_the_box_says_is_not_said_again(whole):
    box = said.takeaway(whole, PROFILE)
    assert not set(box) & {said.contrasts(whole), said.random_share(whole)}
    assert said.missing(said.recall(whole), said.knockout(whole)) == ""
    assert said.missing(said.recall({}), "Another.") == said.recall({})


def test_the_table_has_the_three_studies_side_by_side(whole):
    html = figures.three_studies_html(pd.DataFrame(), whole["verdicts"])
    assert html.count("<tr>") == 6
    assert html.count('<td data-of="Small models">') == 5, "a phone shows the heading beside each cell"
    assert "0.83" in html
    whole_task = whole["verdicts"].query("task == 'all'").verdict
    assert all(f">{one}</span>" in html for one in whole_task)


def test_a_plan_says_what_is_left_and_what_the_pilot_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRIEVAL_HEADS_HOME", str(tmp_path))
    lines = grid.plan(PROFILE)
    assert lines[0].startswith("45 runs: 1 task x 15 conditions x 3 seeds x 1 base")
    assert "45 to be trained" in lines[1]
    pilot = said.load_table("pretrained", "pilot").query("accumulation == 2")
    assert f"{pilot.train_seconds.iloc[0]:.0f} s per run" in lines[3]
    assert lines[2].startswith("results of 45 trained runs come with the repository: to add to them, unpack results/")
    assert "no cost was measured" in grid.measured_costs(load_profile("smoke"), 3)[0]
    other = PROFILE.model_copy(update={"lora": PROFILE.lora.model_copy(update={"lr": 0.5})})
    assert "did not try" in grid.measured_costs(other, 3)[0]
