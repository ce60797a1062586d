"""Made-up official files of the three tasks, with as many records as a test wants."""

from __future__ import annotations

import json
from pathlib import Path

_WORDS = ("river", "stone", "lamp", "cloud", "bridge", "garden", "mirror", "violin", "harbour", "window", "candle",
          "meadow", "anchor", "copper", "saddle")


def _filler(number: int, words: int = 20) -> str:
    return " ".join(_WORDS[(number * 7 + step * (1 + number % 4)) % len(_WORDS)] for step in range(words)) + "."


def mdqa_records(n: int) -> list[dict]:
    """Questions with `who` (two of three) and `when`; record 2 accepts what record 0 answers."""
    records = []
    for number in range(n):
        name = f"Person{number:03}x Quill"
        records.append({
            "question": f"{'when' if number % 3 == 1 else 'who'} opened the hall number {number:03}",
            "answers": [name, "PERSON000X  quill!"] if number == 2 else [name],
            "ctxs": [
                {"title": f"Hall {number:03}", "isgold": True,
                 "text": f"It is old. The hall {number:03} was opened by {name} at noon. {_filler(number)}"},
                {"title": f"Near {number:03}", "isgold": False,
                 "text": f"Next door {number:03}: {_filler(number + 5)}"},
            ],
        })
    return records


def musique_records(n: int) -> list[dict]:
    """Two hops, every third record three; each has one paragraph that is not supporting."""
    records = []
    for number in range(n):
        names = [f"Place{number:03}{letter}" for letter in "abc"][: 3 if number % 3 == 2 else 2]
        paragraphs = [
            {"idx": step, "title": f"T{number}-{step}", "is_supporting": True,
             "paragraph_text": f"Old thing {number:03}. Step {step} leads to {name}. {_filler(number + step)}"}
            for step, name in enumerate(names)
        ]
        other = {"idx": 9, "title": "Other", "paragraph_text": f"Beside {number:03}. {_filler(number + 3)}"}
        records.append({
            "id": f"hop_{number:03}", "question": f"Where does the road {number:03} lead?", "answer": names[-1],
            "paragraphs": [other, *paragraphs],
            "question_decomposition": [
                {"question": "?", "answer": name, "paragraph_support_idx": step} for step, name in enumerate(names)
            ],
        })
    return records


def topic_record(number: int, insights: int = 12, documents: int = 30) -> dict:
    """A topic of two subtopics; insight `i` stands in the documents `i` and `i + 1`."""
    made = [{"insight_id": f"t{number}i{place}", "insight": f"Idea {number} {place} is good."}
            for place in range(insights)]
    return {
        "topic_id": f"t{number}",
        "subtopics": [{"insights": made[: insights // 3]}, {"insights": made[insights // 3 :]}],
        "documents": [
            {"document_text": f"Report {number} {place}: {_filler(number * 40 + place, 25)}",
             "insights_included": [f"t{number}i{i}" for i in (place - 1, place) if 0 <= i < insights]}
            for place in range(documents)
        ],
    }


def save_official(folder: Path, task: str, n: int = 40) -> Path:
    """Files of a task as the publisher names them, in `FOLDER/TASK`; for `summhay`, `n` topics."""
    place = folder / task
    place.mkdir(parents=True)
    if task == "summhay":
        for number in range(n):
            (place / f"topic_news{number}.json").write_text(json.dumps(topic_record(number)))
        return folder
    name, records = ("nq-open-made.jsonl", mdqa_records(n)) if task == "mdqa" else (
        "musique_ans_made.jsonl", musique_records(n))
    (place / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder
