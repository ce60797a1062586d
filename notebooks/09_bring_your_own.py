# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Bring your own: which training set will teach your task?
#
# **Question.** You have a model, two training sets to choose from, and a few dozen real examples of the task that
# matters. Which set teaches that task, and why does the other not?

# %% tags=["parameters", "remove-cell"]
profile = "smoke"
# how many examples of each file are used, the first ones; all of them with any other profile
limits = {"smoke": 3, "quick": 5}
# of the fine-tuning
rope_theta = 12000
lr = 0.004
batch_size = 2
epochs = 1

# %% tags=["hide-input"]
import os

from IPython.display import HTML

from retrieval_heads import figures, paths
from retrieval_heads.cli import main
from retrieval_heads.config import load_profile
from retrieval_heads.data.jsonl import read_examples
from retrieval_heads.diagnose import Request, diagnose
from retrieval_heads.diagnose.job import report_path
from retrieval_heads.diagnose.verdict import verdict

figures.style.use_style()
os.chdir(paths.needed_checkout())
FOLDER = "examples/bring_your_own"
names = ("real_eval", "real_train", "anywhere", "at_end")
sets = {name: read_examples(f"{FOLDER}/{name}.jsonl") for name in names}
limit = limits.get(profile)

# %% tags=["hide-input"]
request = Request(
    model="models/base",
    train={name: f"{FOLDER}/{name}.jsonl" for name in ("anywhere", "at_end")},
    real_train=f"{FOLDER}/real_train.jsonl",
    evaluation=f"{FOLDER}/real_eval.jsonl",
    n_probe=(limit or len(sets["real_eval"])) // 3, limit=limit,
    epochs=epochs, lr=lr, batch_size=batch_size, rope_theta=rope_theta,
    out=paths.runs_folder(profile) / f"bring_your_own-{limit or 'all'}",
)
result = diagnose(request, device="cpu")
by_place = figures.diagnosis.by_place(result)
finding = figures.diagnosis.finding(result, "anywhere", "at_end")

# %% tags=["remove-input"]
few = f"Only the first {limit} examples of each file are used here: this shows how the commands work." if limit else ""
figures.page.takeaway(load_profile(profile), finding, small=few)

# %% mystnb={"figure": {"name": "fig-own-by-place", "caption": "Score on real test examples, by the third of the documents in which the needle stands. Bars: 95% bootstrap intervals over examples, which are few in each third."}, "image": {"alt": "For each third of the documents, points with intervals for the untuned model and those trained on real examples, on needles anywhere and on needles at the end"}} tags=["hide-input"]
_ = figures.diagnosis.plot_by_place(by_place, result.metric)

# %% [markdown]
# ## What you bring
#
# Everything that you would bring is in the folder `examples/bring_your_own`, as JSON Lines ({doc}`../data_format`):
#
# | File | What it holds |
# |---|---|
# | `real_eval.jsonl` | 48 real examples of the task, to judge by: 16 find the heads, 32 give the scores |
# | `real_train.jsonl` | 48 other real examples, as a reference: the set that one would like to have more of |
# | `anywhere.jsonl` | 48 synthetic needles in haystacks; the {term}`needle` stands anywhere in its {term}`haystack` |
# | `at_end.jsonl` | the same 48 needles, questions and haystacks, **flawed on purpose**: the document with the needle always comes last |
#
# The flaw is easily made, by a script that writes the haystack first and then adds what is to be found. A model can
# answer every such example by looking at the last few lines. So the set asks for nothing that the model cannot do
# already, and the longer context goes unused. The texts are of the world that the {term}`base model` of this book knows,
# at twice the length that it was made for. Two commands do the work: `check` says whether files can be used, and
# what can be solved in them without reading; `diagnose` fine-tunes the model on each set and compares what it learned.

# %% [markdown]
# ## Is the format right?
#
# A line is one example: a text, a question, an answer, and the sentence that holds it. The first of `anywhere.jsonl`,
# with the documents that say nothing of the answer left out and the needle <mark>marked</mark>:

# %% tags=["hide-input"]
HTML(figures.page.example_html(sets["anywhere"][0]))

# %% [markdown]
# `check` reads every line, finds the needles and says where they stand, counts in tokens of the model, and looks for
# training examples that the test has, too. On the command line:
#
# ```bash
# retrieval-heads check examples/bring_your_own/anywhere.jsonl \
#     examples/bring_your_own/at_end.jsonl \
#     --model models/base \
#     --against examples/bring_your_own/real_eval.jsonl
# ```

# %%
_ = main([
    "check", f"{FOLDER}/anywhere.jsonl", f"{FOLDER}/at_end.jsonl", "--model", "models/base",
    "--against", f"{FOLDER}/real_eval.jsonl",
])

# %% [markdown]
# Nothing is broken, lost or leaked; that the examples are longer than the model's own length is what is wanted here. The
# first warning of `at_end.jsonl` is the flaw: all its needles stand in one document, and there are far more of them there
# than chance would put. No single line is wrong; the set is. The other rows above look for answers that stand elsewhere,
# haystacks that repeat themselves, and questions that quote the needle or hold the answer. In a picture:

# %% mystnb={"figure": {"name": "fig-own-places", "caption": "Where the needle begins in each example of the four files, from the first character of the prompt (0) to its end (1). In brackets: the number of examples."}, "image": {"alt": "Four rows of strokes: in three of the files they are spread over the whole prompt, in at_end all of them stand close to its end"}} tags=["hide-input"]
_ = figures.diagnosis.plot_places(sets)

# %% [markdown]
# ## What does each set teach?
#
# ```bash
# retrieval-heads diagnose --model models/base \
#     --train anywhere=examples/bring_your_own/anywhere.jsonl \
#     --train at_end=examples/bring_your_own/at_end.jsonl \
#     --real-train examples/bring_your_own/real_train.jsonl \
#     --eval examples/bring_your_own/real_eval.jsonl --n-probe 16 \
#     --epochs 1 --lr 0.004 --batch-size 2 --rope-theta 12000 \
#     --out runs/own
# ```
#
# With `--dry-run` it says first how long that takes. Stopped, it goes on where it was when the command is given again; with
# more seeds or sets for the same folder it uses what is there. The
# {term}`RoPE theta` is set: at twice the length, the usual one alone solves most of this task, and leaves next to nothing
# to teach. The same from Python:
#
# ```python
# from retrieval_heads.diagnose import Request, diagnose
#
# result = diagnose(Request(
#     model="models/base", out="runs/own",
#     train={"anywhere": f"{FOLDER}/anywhere.jsonl", "at_end": f"{FOLDER}/at_end.jsonl"},
#     real_train=f"{FOLDER}/real_train.jsonl", evaluation=f"{FOLDER}/real_eval.jsonl", n_probe=16,
#     epochs=1, lr=0.004, batch_size=2, rope_theta=12000,
# ), device="cpu")
# ```

# %% [markdown]
# Scores are on test examples that no model has seen, with 95% intervals over them; `untuned` is the model without any
# fine-tuning. A higher score alone does not make a *verdict*: token F1 rises, too, when answers become shorter. A set
# teaches when more answers hold the right one, or when the gold answer becomes likelier by what the needle says. *Heads* are
# {term}`retrieval heads <retrieval head>`, and *recall* is the share of the heads of the model trained on real examples
# that a model has, beside the {term}`chance level` of as many random heads of the same layers.

# %% tags=["hide-input"]
losses = result.tables["training"].groupby("condition")["mean_loss"].mean().to_dict()
HTML(figures.page.table_html(figures.diagnosis.score_table(result, losses)))

# %% [markdown]
# *Loss in training* is the mean over all steps, in nats a token. In the one epoch here each step is on examples that are
# new to the model: a set on which the loss is low from the start asks for nothing that the model cannot do. The score by
# the place of the needle ({numref}`fig-own-by-place`) shows what a set has not taught.
#
# What the report says of each set, by best-subspan, the loss of the gold answer and the gain from context, and not by
# token F1 alone:

# %% tags=["hide-input"]
verdicts = {name: verdict(result, name) for name in ("anywhere", "at_end")}
figures.page.prose("\n".join(f"- `{name}`: **{one.kind}**. {one.text}." for name, one in verdicts.items()))

# %% [markdown]
# ## The report
#
# This is `report.html`, which `diagnose` has written: one file that can be sent to anybody. It says of each set what it
# teaches and at which places, which heads it misses, what patching them back would give, and what cannot be said: whether
# the real set teaches at all, whether training moved anything, how many examples would do. The tables
# beside it, `tables/*.csv`, hold every number.

# %% tags=["hide-input"]
written = report_path(request.out).read_text(encoding="utf-8")
HTML(figures.diagnosis.framed(written, "Report of the diagnosis of both sets"))

# %% tags=["nbval-check-output", "remove-cell"]
print({name: len(examples) for name, examples in sets.items()})
print("measured:", ", ".join(result.inputs.conditions))
print("tables:", ", ".join(sorted(name for name, table in result.tables.items() if len(table))))
place = {name: figures.diagnosis.places(examples) for name, examples in sets.items()}
assert place["at_end"].min() > 0.8
assert all(place[name].min() < 0.2 for name in sets if name != "at_end")
assert sorted(one.answer for one in sets["anywhere"]) == sorted(one.answer for one in sets["at_end"])
assert len(result.inputs.test) + len(result.inputs.probe) == (limit or len(sets["real_eval"]))
assert limit or losses["at_end"] < losses["anywhere"], "near needles are found untrained"
assert limit or not verdicts["at_end"].teaches, "a set that one place solves is not praised"
assert by_place.groupby("condition").n.sum().eq(len(result.inputs.test)).all()
gap = figures.diagnosis.difference(result, "anywhere", "at_end")
assert (gap.low > 0) == ("The flawed set teaches less:" in finding[0]), "it says what the interval says"

# %% [markdown]
# ## With your own
#
# Put your files in the place of these, and your model's folder in the place of `models/base`. For models of billions of
# parameters `--lr 0.0002` is usual. With several sets and little time, `rank` orders them by short fine-tunes of three seeds
# each, and calls one better only where another seed could not turn it:
#
# ```bash
# retrieval-heads rank --model models/base \
#     --train anywhere=examples/bring_your_own/anywhere.jsonl \
#     --train at_end=examples/bring_your_own/at_end.jsonl \
#     --probe examples/bring_your_own/real_eval.jsonl --out runs/ranked
# ```
#
# The files of this page are made by `python examples/bring_your_own/make.py`.
#
# **Exercise 1.** Write a function that finds such a flaw before anything is trained: given examples, by how much do the
# places of their needles differ from places drawn at random?
#
# :::{dropdown} Solution
# ```python
# import numpy as np
# from scipy.stats import kstest
#
# for name, examples in sets.items():
#     places = np.array([one.needles[0][0] / len(one.prompt) for one in examples])
#     print(name, f"mean {places.mean():.2f}, {'uneven' if kstest(places, 'uniform').pvalue < 0.001 else 'even'}")
# ```
# :::
#
# **Exercise 2.** Which other shortcuts could a set leave? Test one: can the answer be told without the documents?
#
# :::{dropdown} Solution
# For example, that the answer stands in the question, or that a few answers come again and again:
# ```python
# for name, examples in sets.items():
#     told = sum(one.answer.lower() in one.prompt.rpartition("Question:")[2].lower() for one in examples)
#     print(name, told, "told by the question,", len({one.answer for one in examples}), "different answers")
# ```
# `retrieval_heads check` warns of some of these.
# :::
#
# ## Limits
#
# The *real* examples are generated too, and the flaw was put in by hand, into a set that differs in nothing
# else: with real candidates several things differ at once, and a diagnosis says which heads a set misses, not which line
# of which script is to blame. One seed: `--seeds 1 2 3` shows how much another fine-tuning would differ, in three times the
# time. With the `smoke` and `quick` profiles a handful of examples shows that the commands run, and no more. More in
# {doc}`../limitations`.
