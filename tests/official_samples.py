"""Small records in the official formats, for the tests of the loaders."""

from __future__ import annotations

import json
from pathlib import Path

GOLD = "Ada met G. Stanley Hall in 1903. The prize went to Marie Curie! She came from Warsaw. Marie Curie stayed."


def mdqa(**changes) -> dict:
    record = {
        "question": "who got the prize", "answers": ["M. Curie", "Marie Curie"], "model_answer": 7,
        "ctxs": [
            {"id": "1", "title": "Radium", "text": "Marie Curie is named here too.", "score": "1.5", "isgold": False},
            {"title": "Prizes", "text": GOLD, "hasanswer": True, "isgold": True},
            {"id": "2", "title": "Warsaw", "text": "A city.", "score": "1.1", "isgold": False},
        ],
    }
    return record | changes


def musique(**changes) -> dict:
    record = {
        "id": "2hop__1_2", "question": "Where was the winner of the prize born?", "answer": "Warszawa",
        "answer_aliases": ["Warsaw"], "answerable": True,
        "paragraphs": [
            {"idx": 0, "title": "Born", "paragraph_text": "It rains. Marie Curie was born in Warsaw."},
            {"idx": 1, "title": "Filler", "paragraph_text": "Warsaw is a city.", "is_supporting": False},
            {"idx": 2, "title": "Prizes", "paragraph_text": GOLD, "is_supporting": True},
        ],
        "question_decomposition": [
            {"id": 1, "question": "Who won?", "answer": "Marie Curie", "paragraph_support_idx": 2},
            {"id": 2, "question": "Where was #1 born?", "answer": "Warszawa", "paragraph_support_idx": 0},
        ],
    }
    return record | changes


def topic(**changes) -> dict:
    record = {
        "topic_id": "t", "topic_metadata": {"articles": []},
        "subtopics": [
            {"query": "?", "insights": [
                {"insight_id": "a", "insight": "The car burns 5 litres of fuel.", "insight_name": "Fuel"},
                {"insight_id": "b", "insight": "Its roof is green."},
            ]},
            {"insights": [{"insight_id": "c", "insight": "Nobody says this."}]},
        ],
        "documents": [
            {"document_text": "Cars are fast. Some 5 litres of fuel it burns.", "insights_included": ["a", "unknown"]},
            {"document_text": "A text about nothing.", "insights_included": [], "label_a": 0},
            {"document_text": "Hear: The car burns 5 litres of fuel. Its roof, though, is green.",
             "insights_included": ["a", "b"]},
        ],
    }
    return record | changes


def save(folder: Path, *records: dict, name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
