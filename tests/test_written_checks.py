"""What is asked of a writer, and what is found wrong with its texts."""

from __future__ import annotations

import pytest
from written_samples import chain_example, citing_example, example, reals

from retrieval_heads.data.written.cache import Reply
from retrieval_heads.data.written.checks import Wanted, cleaned, contains, find_fault
from retrieval_heads.data.written.messages import ask_again, write_messages
from retrieval_heads.data.written.orders import distractor_orders, needle_orders
from retrieval_heads.data.written.real import take_apart
from retrieval_heads.data.written.templates import state_fact, state_insight

TEXT = "The mill of Abend was built by Mara Quill in 1803 and has been kept by her family ever since that year."
WANTED = Wanted(20, ("Mara Quill",), ("Dorin",))


@pytest.mark.parametrize(("text", "finish", "reason"), [
    (TEXT, "stop", None),
    (f'"{TEXT}"', "stop", None),
    (f"  {TEXT[:60]}\n\n{TEXT[60:]}\n", "stop", None),
    ("", "stop", "the text is empty"),
    (" \n", "stop", "the text is empty"),
    (TEXT, "length", "the text is cut off"),
    (TEXT, "content_filter", "the model refused"),
    ("I'm sorry, but I cannot write about Mara Quill, who may be a living person of Abend today.", "stop",
     "the model refused"),
    (f"Sure, here is the passage: {TEXT}", "stop", "a remark before the text"),
    (f"Title: Abend\n{TEXT}", "stop", "a remark before the text"),
    (f"{TEXT}\nQuestion: who built it?", "stop", "a line that reads like part of the prompt"),
    (f"Document 3: Abend\n{TEXT}", "stop", "a line that reads like part of the prompt"),
    (f"## Abend\n{TEXT}", "stop", "markup in the text"),
    (TEXT.replace("Mara Quill", "**Mara Quill**"), "stop", "markup in the text"),
    ("Mara Quill built it.", "stop", "the text is too short"),
    (f"{TEXT} " * 4, "stop", "the text is too long"),
    (TEXT.replace("Mara Quill", "Mara Quills"), "stop", "the answer is missing"),
    (TEXT.replace("Mara Quill", "mara quill"), "stop", "the answer is missing"),
    (f"{TEXT} It lies near DORIN.", "stop", "a forbidden name is there"),
    (f"{TEXT} It lies near Dorinton.", "stop", None),
    (f"{TEXT} It cost 5 \ud83d", "stop", "the text holds a broken character"),
])
def test_faults(text: str, finish: str, reason: str | None):
    fault = find_fault(Reply(text=text, finish=finish), WANTED)
    assert (fault and fault.reason) == reason


def test_an_insight_in_other_words():
    wanted = Wanted(12, insight="The harbour of Abend handled 1,300 vessels during the stormy winter months.")
    told = "During the winter, 1,300 vessels passed through the harbour of Abend despite its weather."
    assert find_fault(Reply(text=told), wanted) is None
    elsewhere = "In 1,300 ways the town council spoke about the price of bread then."
    for broken in (told.replace("1,300", "many"), elsewhere):
        assert find_fault(Reply(text=broken), wanted).reason == "the insight is missing"


def test_a_report_that_must_not_state_a_finding():
    finding = "The harbour of Abend handled 1,300 vessels during the stormy winter months."
    wanted = Wanted(16, unsaid=finding)
    told = "In the stormy winter months, during which others closed, the harbour of Abend handled 1,300 vessels."
    assert find_fault(Reply(text=told), wanted).reason == "the finding itself is stated"
    other = "The town council of Abend spoke about the price of bread for most of winter."
    assert find_fault(Reply(text=other), wanted) is None


def test_a_refusal_by_the_endpoint():
    assert find_fault(Reply(text=TEXT, refused=True), WANTED).reason == "the model refused"


def test_words_and_quotation_marks():
    assert contains("In 1900 DORIN fell.", "dorin")
    assert not contains("In 2015.", "5")
    assert cleaned('"One" and "two"') == '"One" and "two"'


@pytest.mark.parametrize(("question", "statement", "kind"), [
    ("Hello Love >> performer", "The performer of Hello Love is A.", "relation"),
    ("who won", 'The person or group asked for in "who won" is A.', "person"),
    ("In what year was {x} made?", 'The time asked for in "In what year was {x} made?" is A.', "time"),
    ("Where is it?", 'The place asked for in "Where is it?" is A.', "place"),
    ("how many  are there", 'The number or amount asked for in "how many are there" is A.', "number"),
    ("name the king", 'The answer to "name the king" is A.', "other"),
])
def test_templates(question: str, statement: str, kind: str):
    assert state_fact(question, "A") == (statement, kind)


def test_the_statement_of_an_insight_ends_in_one_stop():
    assert state_insight("It rains. ") == "The report finds this: It rains."


@pytest.mark.parametrize("task", ["mdqa", "musique", "summhay", "my_task"])
def test_prompts_say_what_is_checked(task: str):
    fields = {"question": "who {did} it", "answer": "Ada {L}", "title": "T", "words": 77, "number": 3, "topic": "{t}"}
    for purpose, named in (("needle", ["who {did} it", "77"]), ("distractor", ["{t}", "77", "3"])):
        messages = write_messages(task, purpose, **fields, forbidden=["Dorin", "Fosk"])
        assert [message["role"] for message in messages] == ["system", "user"]
        named += ["Dorin; Fosk"] + ["letter for letter: Ada {L}"] * (purpose == "needle" and task != "summhay")
        assert all(name in messages[1]["content"] for name in named)
        assert "must not occur" not in write_messages(task, purpose, **fields)[1]["content"]
    assert write_messages("my_task", "needle", **fields) == write_messages("mdqa", "needle", **fields)


def test_asking_again_tells_the_reason_in_the_same_conversation():
    first = write_messages("mdqa", "distractor", topic="T", words=50, number=1)
    again = ask_again(first, "", "it is empty.")
    assert again[:2] == first
    assert [message["role"] for message in again[2:]] == ["assistant", "user"]
    assert again[2]["content"]
    assert "it is empty." in again[3]["content"]


def test_orders_of_needles():
    (order,) = needle_orders(take_apart(example(0)))
    assert order.wanted.present == ("Mara Quill0",)
    first, last = needle_orders(take_apart(chain_example(2)))
    assert (first.wanted.present, last.wanted.present) == (("Cantra",), ("Mara Quill2",))
    # the first link must not tell where the chain ends
    assert set(first.wanted.absent) == {"Mara Quill2", "M. Quill2"}
    assert last.wanted.absent == ()
    assert "House 2 >> village" in first.messages[1]["content"]
    assert "who founded Cantra" in last.messages[1]["content"]
    cited = needle_orders(take_apart(citing_example(1)))
    assert len({order.messages[1]["content"] for order in cited}) == 2
    assert all("harbour of Borlo" in order.wanted.insight for order in cited)


def test_orders_of_distractors_forbid_the_answers_of_their_topic():
    everything = reals(3)
    titles, orders = distractor_orders(everything, 40)
    assert distractor_orders(everything, 40) == (titles, orders)
    assert len({order.messages[1]["content"] for order in orders}) == len(orders) == len(titles) == 40
    by_title = {title: real for real in everything for _, title, _ in real.documents}
    for title, order in zip(titles, orders, strict=True):
        assert order.wanted.absent == by_title[title].hidden
