"""Small real examples of the three tasks, with documents enough for the contexts."""

from __future__ import annotations

from retrieval_heads.data.example import Example
from retrieval_heads.data.prompt_format import place, write_citation, write_prompt
from retrieval_heads.data.written.real import Real, take_apart

PLACES = ("Abend", "Borlo", "Cantra", "Dorin", "Elmeth", "Fosk", "Gundal", "Hirst", "Ibran", "Jolt", "Kesk", "Lunt")


def _passage(subject: str, statement: str) -> str:
    return (
        f"{subject} lies between two rivers and has been settled for a long time. Its market is held each spring. "
        f"{statement} Travellers praise the road that leads there, and the old mill near the bridge."
    )


def example(index: int, n_documents: int = 6, head: str = "", tail: str = "") -> Example:
    """`mdqa`: who founded the place of that index; the first distractors are about the following places."""
    subject, founder = PLACES[index], f"Mara Quill{index}"
    statement = f"It was founded by {founder}."
    gold = (index * 2 + 1) % n_documents
    documents = []
    for number in range(n_documents):
        name = subject if number == gold else f"{PLACES[(index + number + 1) % len(PLACES)]} {index}-{number}"
        text = _passage(name, statement if number == gold else f"It has {100 * index + number} wells.")
        documents.append((number + 1, name, text))
    prompt, spans = write_prompt(documents, f"who founded {subject}")
    start = documents[gold][2].index(statement)
    needle = place((start, start + len(statement)), spans[gold])
    return Example(
        "mdqa", head + prompt + tail, founder, (founder, f"M. Quill{index}"),
        ((needle[0] + len(head), needle[1] + len(head)),),
        {"id": f"q{index}", "gold": [gold + 1], "needle": "sentence"}, "" if tail else " ",
    )


def reals(n: int = 4) -> list[Real]:
    return [take_apart(example(index)) for index in range(n)]


def chain_example(index: int) -> Example:
    """`musique`: two steps over the documents of `example`."""
    base = example(index)
    middle = PLACES[index]
    steps = [
        {"question": f"House {index} >> village", "answer": middle, "title": f"House {index}"},
        {"question": "who founded #1", "answer": base.answer, "title": middle},
    ]
    meta = {"id": f"c{index}", "gold": [*{1, *base.meta["gold"]}], "steps": steps, "needle": "sentence"}
    return Example("musique", base.prompt, base.answer, base.answers, base.needles, meta)


def citing_example(index: int) -> Example:
    """`summhay`: two of six reports contain an insight."""
    insight = f"The harbour of {PLACES[index]} handled {index + 3}00 vessels during the stormy winter months."
    gold = [2, 5]
    documents = [
        (number, "", _passage(PLACES[(index + number) % len(PLACES)] + f" {index}{number}",
                              insight if number in gold else "Nothing happened."))
        for number in range(1, 7)
    ]
    prompt, spans = write_prompt(documents, f"Which documents say that {insight.rstrip('.')}?")
    return Example(
        "summhay", prompt, write_citation(gold), (), tuple(spans[number - 1] for number in gold),
        {"id": f"s{index}", "gold": gold, "insight": insight, "needle": "document"},
    )
