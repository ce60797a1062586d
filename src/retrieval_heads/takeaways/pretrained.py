"""What the study of the pretrained model found so far: every sentence from the tables that are there.

The runs come in parts. What is there is said with its number of runs and seeds, and what is not there is said to be so.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from retrieval_heads.claims.pretrained import DERIVED, RAW
from retrieval_heads.claims.pretrained.loading import LEAST_SEEDS, MOST, NAMED
from retrieval_heads.claims.pretrained.sampled import lies_above
from retrieval_heads.claims.pretrained.shortfall import MARGIN, OPEN
from retrieval_heads.claims.runs import where
from retrieval_heads.claims.verdict import ALL, UNDECIDED
from retrieval_heads.keys import study_grid
from retrieval_heads.settings import REFERENCE, Profile
from retrieval_heads.stats.resample import bootstrap_mean
from retrieval_heads.store import has_table, load_table
from retrieval_heads.takeaways.synthetic import NOT_YET, Tables, named_contrasts, overlap, short_of_real, with_ends
from retrieval_heads.wording import listed, p_value, plural

NAMES = tuple(dict.fromkeys((*RAW, *DERIVED, "base", "performance", "training", "lengths", "examples", "pilot",
                             "verdicts")))
THETA, UNTUNED = "rope", ("base", "rope")
GATE = 0.05
"""What training on `real` must add to the F1 of theta alone before a second task is studied."""

_NAMED = {"base": "the model as it is", THETA: "theta alone", REFERENCE: "real training"}


def present(profile: Profile, names: Sequence[str] = NAMES) -> dict[str, pd.DataFrame]:
    """Those of the tables that are there and have rows, by name.

    Raises:
        ResultError: a table that is there and damaged.
    """
    found = {name: load_table(profile.name, name) for name in names if has_table(profile.name, name)}
    return {name: table for name, table in found.items() if len(table)}


def takeaway(tables: Tables, profile: Profile) -> list[str]:
    """The box at the head of the chapter: verdicts, how much is there, what answers, heads and interventions say."""
    parts = (answers(tables, profile), short_of_real(tables), heads(tables, profile), overlap(tables), recall(tables),
             knockout(tables), patching(tables))
    return [verdicts(tables), state(tables, profile), *(one for one in parts if NOT_YET not in one)]


def state(tables: Tables, profile: Profile) -> str:
    """How many of the planned runs have come to each step."""
    planned = len(study_grid(profile))
    measured = (("trained and tested", "performance"), ("scored for heads", "head_scores"),
                ("used for knock-outs", "knockout_losses"), ("used for patching", "patching_losses"))
    counts = {what: len(runs_of(tables, name)) for what, name in measured}
    if not counts["trained and tested"]:
        return f"Of {planned} planned runs none is there yet."
    # heads are knocked out of some of the runs only, so a run is complete when it is tested and scored
    left = planned - min(counts["trained and tested"], counts["scored for heads"])
    if not left:
        return (f"All {planned} planned runs are there: {len(profile.conditions)} training sets with "
                f"{plural(len(profile.seeds), 'seed')} each. Heads are knocked out of {counts['used for knock-outs']} "
                f"of them, and patched into {counts['used for patching']}.")
    done = listed([f"{n} {'is' if n == 1 else 'are'} {what}" for what, n in counts.items()])
    tested = runs_of(tables, "performance")
    whole = int((tested.groupby("condition").seed.nunique() == len(profile.seeds)).sum())
    text = (f"Of {planned} planned runs, {done}. {whole} of {len(profile.conditions)} training sets "
            f"{'has' if whole == 1 else 'have'} all {plural(len(profile.seeds), 'seed')}.")
    return f"{text} {plural(left, 'run')} {'is' if left == 1 else 'are'} {NOT_YET}, wholly or in part."


def verdicts(tables: Tables) -> str:
    """How many of the claims are decided, and how."""
    rows = tables.get("verdicts", pd.DataFrame(columns=["claim", "task", "verdict"]))
    whole = rows[rows["task"] == ALL].set_index("claim").verdict
    if (whole == UNDECIDED).all():
        return "On the pretrained model nothing is decided: no rule has the runs that it needs, or none came out."
    found = sorted(whole.groupby(whole), key=lambda one: (one[0] == UNDECIDED, one[0]))  # the undecided come last
    told = [f"{listed(sorted(claims.index))} {'is' if len(claims) == 1 else 'are'} {verdict}"
            for verdict, claims in found]
    return f"On the pretrained model, {listed(told)}."


def parts_lost(tables: Tables) -> str:
    """What the share of the gain from context that is lost consists of: with the gold document and without it."""
    of_real = {effect: _effects(tables, "knockout", REFERENCE, effect) for effect in ("rise", "rise_over_without")}
    rise, over = of_real["rise"].get("retrieval"), of_real["rise_over_without"].get("without")
    gain = _rows(tables, intervention="knockout", condition=REFERENCE, effect="gain_from_context")
    if rise is None or over is None or not len(gain):
        return ""
    whole, without = gain.iloc[0].value, rise.value - over.value
    ends = "" if pd.isna(rise.low) or pd.isna(rise.high) else f" [{rise.low:.2f}, {rise.high:.2f}]"
    return (f"The gain is a difference of two losses, and both change. Without the {MOST} strongest heads, the loss "
            f"with the gold document changes by {rise.value:+.2f}{ends} nats a token, {rise.value / whole:.0%} of the "
            f"gain, and the loss without the document by {without:+.2f}, {abs(without) / whole:.0%} of it.")


def random_share(tables: Tables) -> str:
    """What a knock-out does beside the share in the box: its two parts, and whether random heads matter; or nothing."""
    row = _effects(tables, "knockout", REFERENCE, "share_lost").get("random_layer")
    if row is None:
        return ""
    said = (f"With {MOST} random heads of the same layers out, the share of the gain that is lost is "
            f"{with_ends(row)}: {_beside_nothing(row.low, row.high)}.")
    return f"{parts_lost(tables)} {said}".strip()


def random_heads_line(loss: pd.DataFrame) -> str:
    """What knocking out random heads does to the loss of gold answers, from `ten_questions.losses`."""
    found = bootstrap_mean(loss.random - loss.none)
    lower = int((loss.random < loss.none).sum())
    return (f"Random heads out: the loss changes by {found.estimate:+.2f} nats a token on average [{found.low:+.2f}, "
            f"{found.high:+.2f}], and is lower on {lower} of {len(loss)} questions. "
            f"That is {_beside_nothing(found.low, found.high)}. It is one draw of heads; another may do otherwise.")


def _beside_nothing(low: float, high: float) -> str:
    """Where an interval lies, whose lower numbers mean that the model does better."""
    if pd.isna(low) or pd.isna(high):
        return "without an interval, so nothing is said of it"
    if low <= 0 <= high:
        return "within noise of no effect"
    return f"a {'harm' if low > 0 else 'help'} beyond the noise of examples"


def missing(*sentences: str) -> str:
    """Those of the sentences that say what is not there yet: the box at the head of the chapter leaves them out."""
    return " ".join(one for one in sentences if NOT_YET in one)


def answers(tables: Tables, profile: Profile) -> str:
    """F1 after real training and each of the named synthetic kinds, beside theta alone."""
    if "performance" not in tables:
        return f"What fine-tuned models answer is {NOT_YET}."
    rows = pd.concat([tables[name] for name in ("performance", "base") if name in tables], ignore_index=True)
    rows = rows[(rows.metric == "f1") & (rows.eval_length == profile.train_length) & (rows.task == profile.tasks[0])]
    mean = rows.groupby("condition").value.mean()
    shown = [f"{mean[name]:.2f} after `{name}`" for name in (REFERENCE, *NAMED) if name in mean]
    alone = f"; theta alone reaches {mean[THETA]:.2f}" if THETA in mean else ""
    seeds = runs_of(tables, "performance").seed.nunique()
    chance = "" if seeds >= LEAST_SEEDS else (
        f" With {seeds} of {len(profile.seeds)} seeds, differences between trained models cannot be told from luck.")
    return f"At {profile.train_length:,} tokens the F1 of answers is {listed(shown)}{alone}.{chance}"


def controls(tables: Tables) -> str:
    """F1 after short examples and after wrong answers, beside real ones; and whether a second task can be learned."""
    said = []
    if "performance" in tables:
        mean = tables["performance"].query("metric == 'f1'").groupby("condition").value.mean()
        if {REFERENCE, "real_short", "real_shuffled"} <= set(mean.index):
            said.append(f"Two controls, beside {mean[REFERENCE]:.2f} after `real`: trained on the same questions at a "
                        f"quarter of the length, models reach {mean.real_short:.2f}, and trained on answers of other "
                        f"questions {mean.real_shuffled:.2f}. All are tested at the full length.")
    if "pilot" in tables:
        second = tables["pilot"].query("task == 'musique' and metric == 'f1'")
        trained, alone = second[second.lr.notna()], second[second.lr.isna()]
        if len(trained) and len(alone):
            first, before = trained.iloc[0], alone.iloc[0]
            end = "it is studied" if first.value - before.value >= GATE else "it is left out"
            said.append(f"On a second task, MuSiQue, F1 is {first.value:.3f} [{first.low:.3f}, {first.high:.3f}] after "
                        f"real data and {before.value:.3f} with theta alone, on {first.n} questions of the development "
                        f"split. The rules ask for a gain of {GATE:g}, so {end}.")
    return " ".join(said)


def contrasts(tables: Tables) -> str:
    """By how much real data are better than the three named sets, and what an open contrast means."""
    rows = named_contrasts(tables)
    if rows.empty:
        return f"Contrasts with the named sets are {NOT_YET}: they need three seeds of each set."
    said = [f"`{row.condition}` {row.value:+.3f} [{row.low:.3f}, {row.high:.3f}] ({row.finding})"
            for row in rows.itertuples()]
    unknown = "" if not (rows.finding == OPEN).any() else (
        f" Open: neither a shortfall nor a difference below {MARGIN:g} is shown.")
    counted = "" if rows.seeds_counted.all() else " These intervals are over examples only, with too few seeds."
    return f"F1 of real data less that of each named set: {listed(said)}.{unknown}{counted}"


def heads(tables: Tables, profile: Profile) -> str:
    """How many heads copy, before training and after it, and which is the strongest."""
    if "head_scores" not in tables:
        return f"Scores of heads are {NOT_YET}."
    table, at = copy_scores(tables["head_scores"]), profile.detect.threshold
    above = (table.score > at).groupby([table.condition, table.seed]).sum().groupby("condition").mean()
    n_heads = len(table[["layer", "head"]].drop_duplicates())
    parts = {"base": f"{{n}} in the model as it is (at {profile.base_length:,} tokens)",
             THETA: f"{{n}} with theta raised and no training (at {profile.train_length:,})",
             REFERENCE: "{n} after training on real examples"}
    said = [text.format(n=f"{above[name]:.0f}") for name, text in parts.items() if name in above.index]
    which = next((name for name in (REFERENCE, THETA, "base") if name in above.index), above.index[0])
    mean = table[table.condition == which].groupby(["layer", "head"]).score.mean()
    layer, head = mean.idxmax()
    after = "" if set(above.index) - set(UNTUNED) else " Heads of trained models are still to be scored."
    return (f"Heads with a copy score above {at:g}, of {n_heads}: {listed(said)}. The strongest is head {head} "
            f"of layer {layer} ({mean.max():.2f}, {_NAMED.get(which, which)}).{after}")


def recall(tables: Tables) -> str:
    """How the recall of heads, and beside it the loss on the probe examples, correlate with performance over sets."""
    rows = tables.get("set_correlation")
    if rows is not None:
        rows = rows[rows.given.isna() & (rows["sets"] == "all") & rows.value.notna()].set_index("predictor")
    if rows is None or "recall" not in rows.index:
        return f"Recall against performance is {NOT_YET}: it needs heads and answers of many training sets."
    row = rows.loc["recall"]
    chance = "" if pd.isna(row.p) else f", {p_value(row.p)}"
    cheaper = "" if "probe_loss" not in rows.index else (
        f"; that of the loss on the probe examples is {rows.loc['probe_loss'].value:.2f}")
    if "recall_over_probe_loss" in rows.index:
        less = rows.loc["recall_over_probe_loss"]
        shown = "is shown" if lies_above(less, 0.0) else "is not shown"  # as the rule of C3 has it
        cheaper += (f". Recall {shown} to predict a left-out set better than that loss does: its error is smaller by "
                    f"{less.value:.3f} [{less.low:.3f}, {less.high:.3f}] of F1")
    points = tables.get("set_points", pd.DataFrame(columns=["n_seeds"]))
    lacking = int((points.n_seeds < LEAST_SEEDS).sum())
    few = "" if not lacking else (
        f" As {plural(lacking, 'set')} {'has' if lacking == 1 else 'have'} fewer than {LEAST_SEEDS} seeds so far, this "
        "decides nothing.")
    return (f"Over {row.n} training sets, the rank correlation of the recall of heads with F1 is {row.value:.2f} "
            f"[{row.low:.2f}, {row.high:.2f}]{chance}{cheaper}.{few}")


def without_mixtures(tables: Tables) -> str:
    """The correlation over the sets that are no mixtures or parts of others; nothing where it is not known."""
    rows = tables.get("set_correlation", pd.DataFrame(columns=["predictor", "given", "sets", "value"]))
    rows = rows[(rows.predictor == "recall") & rows.given.isna() & (rows["sets"] == "whole") & rows.value.notna()]
    if rows.empty:
        return ""
    row = rows.iloc[0]
    told = "beyond chance" if row.p < 0.05 else "not beyond chance"
    return (f"Without mixtures and quarters {row.n} sets are left; their correlation is {row.value:.2f} "
            f"[{row.low:.2f}, {row.high:.2f}], {p_value(row.p)}: {told}.")


def knockout(tables: Tables) -> str:
    """What is lost of the gain from context without the strongest heads, and without random ones."""
    share = _effects(tables, "knockout", REFERENCE, "share_lost")
    if "retrieval" not in share:
        return f"Knock-outs of the runs on real data are {NOT_YET}."
    text = f"Without its {MOST} strongest heads the model loses {with_ends(share['retrieval'])} of what it gains"
    random = f", and {with_ends(share['random_layer'])} without as many random ones of the same layers" if (
        "random_layer" in share) else ""
    return f"{text} from the gold document{random}.{_counted(share['retrieval'])}"


def patching(tables: Tables) -> str:
    """Which share of the gap to the real run is closed by its heads."""
    share = _effects(tables, "patching", ALL, "share_closed")
    if "retrieval" not in share:
        return f"Patching into runs on synthetic data, over all sets, is {NOT_YET}."
    return (f"The {MOST} strongest heads of the real run, patched in, close {with_ends(share['retrieval'])} of the "
            f"gap in loss over the synthetic sets.{_counted(share['retrieval'])}")


def differences(report: pd.DataFrame, pretrained: pd.DataFrame) -> str:
    """Where the small and the pretrained study differ, from their tables `verdicts`."""
    one, other = (rows[rows["task"] == ALL].set_index("claim").verdict for rows in (report, pretrained))
    both = [claim for claim in sorted(set(one.index) & set(other.index)) if other[claim] != UNDECIDED]
    if not both:
        return "Where the pretrained model differs from the small ones cannot be said before its claims are decided."
    unlike = [f"{claim} ({one[claim]} in the small study, {other[claim]} here)" for claim in both
              if one[claim] != other[claim]]
    alike = [claim for claim in both if one[claim] == other[claim]]
    text = f"The two studies have the same verdict on {listed(alike)}." if alike else ""
    if unlike:
        text += (f" The verdicts differ on {listed(unlike)}. Rules and measures differ, too, so another verdict need "
                 "not mean another effect.")
    return text.strip()


def copy_scores(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the score that the claims are about."""
    return table[(table.kind == "copy") & (table.score_mode == "forced")]


def runs_of(tables: Tables, name: str) -> pd.DataFrame:
    """The trained runs that a table has rows of: task, condition and seed."""
    keys = ["task", "condition", "seed"]
    rows = tables.get(name, pd.DataFrame(columns=keys))[keys].drop_duplicates()
    return rows[~rows.condition.isin(UNTUNED)]


def _effects(tables: Tables, intervention: str, condition: str, effect: str) -> dict[str, pd.Series]:
    """By control, the row of an effect at the most heads."""
    rows = _rows(tables, intervention=intervention, condition=condition, effect=effect, k=MOST)
    return {row.control: row for _, row in rows.iterrows()}


def _rows(tables: Tables, **values: str | int) -> pd.DataFrame:
    """The rows of `loss_effects` that have these values and a number."""
    if "loss_effects" not in tables:
        return pd.DataFrame()
    rows = where(tables["loss_effects"], **values)
    return rows[rows.value.notna()]


def _counted(row: pd.Series) -> str:
    return "" if row.seeds_counted else f" The intervals are over examples only ({plural(row.n_seeds, 'seed')})."
