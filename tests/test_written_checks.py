"""What is asked of a writer, and what is found wrong with its texts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from written_samples import chain_example, citing_example, example, reals

from retrieval_heads.data.written.cache import Reply
from retrieval_heads.data.written.conditions import state_fact, state_insight
from retrieval_heads.data.written.orders import (
    Wanted,
    ask_again,
    cleaned,
    contains,
    distractor_orders,
    find_fault,
    needle_orders,
    write_messages,
)
from retrieval_heads.data.written.real import take_apart

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
    (f"{TEXT}\x03", "stop", "the text holds a broken character"),
    (f"Thinking process: {TEXT}", "stop", "a remark before the text"),
    (f"{TEXT} The user of the final model said so.", "stop", None),
])
def test_faults(text: str, finish: str, reason: str | None):
    fault = find_fault(Reply(text=text, finish=finish), WANTED)
    assert (fault and fault.reason) == reason


@pytest.mark.parametrize("text", [
    "<think>\n\n</think>\n\n{}", "I will write.\n</think>\n\n{}", "<think>- a list\n# of Mara</think>{}<|im_end|>",
    "[THINK]Hm.[/THINK]{}</s>", "<thinking>Hm.</thinking>\n<answer>{}</answer>", "{}<|eot_id|>", "{}<end_of_turn>\n",
    "{} [/INST]", "{}<|im_end|>\n<|im_start|>",
    "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>{}<|END_RESPONSE|>",
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>",
    "<|begin_of_thought|>Hm.<|end_of_thought|>\n<|begin_of_solution|>{}<|end_of_solution|>", "◁think▷Hm.◁/think▷{}",
    "<seed:think>Hm.</seed:think>{}<｜end▁of▁sentence｜>", "<|channel>thought\nHm.<channel|>{}<turn|>",
])
def test_markup_of_the_writing_model_is_cut_where_that_is_certain(text: str):
    reply = text.replace("{}", TEXT)
    assert find_fault(Reply(text=reply), WANTED) is None
    assert cleaned(reply) == TEXT


@pytest.mark.parametrize("text", [
    "<think>Hm. {}", "{} <think>Is it right?", "Well. <think>Hm.</think> {}", "{}<|im_end|>\n<|im_start|>user\nMore?",
    "<|channel|>analysis<|message|>{}", "[INST] Write. [/INST] {}", "<start_of_turn>model\n{}", "<passage>{}</passage>",
    "{}<tool_call>x</tool_call>", "<<SYS>>{}", "[|assistant|]{}", "<|assistant|>{}", "<b>Mara Quill</b> of {}",
    "analysisI will write.assistantfinal{}", "final{}", "assistant\n\n{}", "Assistant: {}", "{}\nHuman: more",
    "model\n{}", "{}\n\nuser\nMore?", "<think/>{}", "{}<think />", "&lt;think&gt;Hm.&lt;/think&gt;{}", "{}[e~[",
    "{}]~b]user", "{}<0x0A>", "[unused17]{}", "\\boxed{{}}", "▁{}", "{} <|", "<x|think>{}",
])
def test_other_markup_is_refused_and_named(text: str):
    fault = find_fault(Reply(text=text.replace("{}", TEXT)), WANTED)
    assert fault.reason == "markup of a language model in the text"
    assert fault.told.startswith("it holds ")


def test_control_tokens_of_the_model_that_reads_are_refused():
    text = f"{TEXT} ##END##"
    assert find_fault(Reply(text=text), WANTED) is None
    wanted = replace(WANTED, control=("##END##",))
    assert find_fault(Reply(text=text), wanted).told == "it holds ##END##; give the text alone."
    assert find_fault(Reply(text=f"{TEXT} It was 3 < 5 and 7 > 2."), WANTED) is None


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
    assert cleaned(" One\n\n two\t\u2028three ") == "One two three"


def test_an_answer_with_a_no_break_space_is_found():
    text = "The episode was shown in the spring, on April\u00a09, 2018, as the last of the third season."
    assert find_fault(Reply(text=text), Wanted(20, ("April\u00a09, 2018",))) is None
    assert "April\u00a09, 2018" in cleaned(text)


@pytest.mark.parametrize(("question", "statement", "kind"), [
    ("Hello Love >> performer", "The performer of Hello Love is A.", "relation"),
    ("Kadıköy >> located in the administrative territorial entity", "Kadıköy is located in A.", "relation"),
    ("who wrote the song let me love you", "A wrote the song let me love you.", "doer"),
    ("who was the original host of what's my line", "The original host of what's my line was A.", "noun"),
    ("What was Tucson 's population in 1900?", "Tucson 's population in 1900 was A.", "noun"),
    ("what are the zords in the power rangers movie", "The zords in the power rangers movie are A.", "nouns"),
    ("What is Nina Sky named after?", "Nina Sky is named after A.", "named_after"),
    ("when did amnesia the dark descent come out", "The time when amnesia the dark descent came out is A.", "when_did"),
    ("when does season 8 of shameless come back", "The time when season 8 of shameless comes back is A.", "when_does"),
    ("when do stores stop selling alcohol", "The time when stores stop selling alcohol is A.", "when_do"),
    ("when was the united states founded", "The time when the united states was founded is A.", "when_done"),
    ("when was the term first used", "The time when the term was first used is A.", "when_done"),
    ("In what year was {x} made?", "The time when {x} was made is A.", "when_done"),
    ("when was the last time mount ruapehu erupted", "The last time mount ruapehu erupted was A.", "last_time"),
    ("when is the new season of chicago pd", "The time of the new season of chicago pd is A.", "when_is"),
    ("where does the red wolf live", "The place where the red wolf lives is A.", "where_does"),
    ("Where is Saaremaa located?", "The place where Saaremaa is located is A.", "where_done"),
    ("Which state is WEKL located?", "The state where WEKL is located is A.", "place_done"),
    ("In what place did K. V. Bey die?", "The place where K. V. Bey died is A.", "place_did"),
    ("At what location did Renzo Zorzi die?", "The location at which Renzo Zorzi died is A.", "in_what_did"),
    ("what type of government did the ming dynasty have", "The type of government that the ming dynasty had is A.",
     "what_did"),
    ("what nfl coach has the most wins ever", "The nfl coach that has the most wins ever is A.", "what_has"),
    ("what percentage of the earth's surface is water", "The percentage of the earth's surface that is water is A.",
     "percentage"),
    ("how many seasons of it is there", "The number of seasons of it is A.", "how_many_there"),
    ("how many publix stores are in Ohio", "The number of publix stores in Ohio is A.", "how_many_in"),
    ("how long has he been quarterback", "The length of time that he has been quarterback is A.", "how_long_has"),
    ("the world famous corn belt is in which country", "The world famous corn belt is in A.", "within"),
    ("the first line of http request message is called ____", "The first line of http request message is called A.",
     "open_end"),
    ("winner of first series of the bake off", "The winner of first series of the bake off is A.", "title"),
])
def test_templates(question: str, statement: str, kind: str):
    assert state_fact(question, "A") == (statement, kind, False)


@pytest.mark.parametrize(("question", "begins", "kind"), [
    ("who won", "The person or group asked for in", "person"),
    ("who did the chiefs play in the playoffs", "The person or group asked for in", "person"),
    ("who was the declaration written for", "The person or group asked for in", "person"),
    ("who is pam married to on the office", "The person or group asked for in", "person"),
    ("when is the womens ice skating for the olympics", "The time asked for in", "time"),
    ("when did the red guards start and end", "The time asked for in", "time"),
    ("when did the us not go to the olympics", "The answer to", "unclear"),
    ("who is the founder of google and when was it founded", "The answer to", "unclear"),
    ("where are they playing at this year", "The place asked for in", "place"),
    ("how many inches  is the screen", "The number or amount asked for in", "number"),
    ("what was the city of beijing previously known as", "The answer to", "other"),
    ("which domain of life are humans members of?", "The answer to", "other"),
    ("name the king", "The answer to", "other"),
])
def test_questions_that_no_template_understands_are_quoted(question: str, begins: str, kind: str):
    quoted = " ".join(question.split())
    assert state_fact(question, "A") == (f'{begins} "{quoted}" is A.', kind, True)


def test_statements_hold_the_answer_letter_for_letter_and_end_in_one_stop():
    assert state_fact("who sang the end", "the Archies").text == "the Archies sang the end."
    assert state_fact("who sang the end", "R.E.M.").text == "R.E.M. sang the end."
    assert state_fact("who is the owner of the label", "Warner Bros.").text == "The owner of the label is Warner Bros."


def test_no_template_takes_the_place_of_the_last_resort():
    kinds = [state_fact(question, "A").kind for question in ("", "?", "a", "who", "when did", "what is", "how many")]
    assert kinds == ["other", "other", "other", "person", "time", "other", "number"]


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
    orders = distractor_orders(everything, 40)
    assert distractor_orders(everything, 40) == orders
    assert len({order.messages[1]["content"] for order in orders}) == len(orders) == 40
    by_title = {title: real for real in everything for _, title, _ in real.documents}
    for order in orders:
        assert order.wanted.absent == by_title[order.title].hidden
