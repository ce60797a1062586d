"""The endpoint: good, slow, failing and talking nonsense; and the cache that nothing is paid for twice."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from chat_server import ChatServer, completion, running

from retrieval_heads.data.written.cache import Cache, Reply, Spending, request_key
from retrieval_heads.data.written.client import Client, Endpoint, EndpointError, find_endpoint
from retrieval_heads.errors import ConfigError, ResultError

pytest.importorskip("openai")
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def chat():
    with running() as server:
        server.answer = lambda body: f"You said {body['messages'][-1]['content']}"
        yield server


def client_of(chat: ChatServer, folder: Path, spending: Spending | None = None, **options) -> Client:
    return Client(Endpoint(chat.url, "m", **options), Cache(folder), spending)


def test_an_answer_is_counted_and_then_free(chat: ChatServer, tmp_path: Path):
    spending = Spending(price_in=2.0, price_out=10.0)
    client = client_of(chat, tmp_path, spending)
    reply = client.complete(HELLO)
    assert reply == Reply(text="You said Hello", tokens_in=100, tokens_out=50)
    assert chat.bodies == [{"model": "m", "messages": HELLO, "temperature": 0.7, "max_tokens": 2048}]
    assert client.complete(HELLO) == client_of(chat, tmp_path).complete(HELLO) == reply
    assert len(chat.bodies) == 1
    assert spending.cost() == pytest.approx((100 * 2 + 50 * 10) / 1e6)
    assert spending.line() == "1 requests, 1 from the cache, 100 tokens in, 50 out, cost 0.0007"
    assert Spending().cost() is None


def test_equal_requests_at_the_same_time_are_sent_once(chat: ChatServer, tmp_path: Path):
    chat.delay = 0.05
    client = client_of(chat, tmp_path)
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: client.complete(HELLO), range(4)))
    assert len(set(replies)) == len(chat.bodies) == 1


def test_another_model_message_or_parameter_is_another_request(chat: ChatServer, tmp_path: Path):
    keys = {
        request_key("m", HELLO, {"a": 1, "b": 2}), request_key("n", HELLO, {"a": 1, "b": 2}),
        request_key("m", [*HELLO, *HELLO], {"a": 1, "b": 2}), request_key("m", HELLO, {"a": 1, "b": 3}),
    }
    assert len(keys) == 4
    assert request_key("m", HELLO, {"b": 2, "a": 1}) in keys
    for parameters in ({"temperature": 0}, {"temperature": 1}):
        client_of(chat, tmp_path, parameters=parameters).complete(HELLO)
    assert [body["temperature"] for body in chat.bodies] == [0, 1]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_failures_are_tried_again(chat: ChatServer, tmp_path: Path, status: int):
    chat.answer = lambda body: (status, b'{"error": {"message": "busy"}}') if len(chat.bodies) < 3 else "At last."
    assert client_of(chat, tmp_path).complete(HELLO).text == "At last."
    assert len(chat.bodies) == 3


def test_a_slow_answer_is_tried_again(chat: ChatServer, tmp_path: Path):
    slow = threading.Event()
    chat.answer = lambda body: "In time." if len(chat.bodies) > 1 else str(slow.wait(2))
    assert client_of(chat, tmp_path, timeout=0.3).complete(HELLO).text == "In time."
    slow.set()
    assert len(chat.bodies) == 2


@pytest.mark.parametrize(("status", "told"), [
    (500, "the same command goes on"), (401, "OPENAI_API_KEY"), (404, "model's name"), (400, "--parameters"),
])
def test_an_endpoint_that_fails_for_good_is_one_clear_error(chat: ChatServer, tmp_path: Path, status: int, told: str):
    chat.answer = lambda body: (status, b'{"error": {"message": "no"}}')
    with pytest.raises(EndpointError, match=told) as caught:
        client_of(chat, tmp_path, retries=1).complete(HELLO)
    assert chat.url in str(caught.value)
    assert len(chat.bodies) == (2 if status == 500 else 1)
    assert not list(tmp_path.rglob("*.json"))


def test_an_endpoint_that_is_not_there(tmp_path: Path):
    with running() as gone:
        pass
    with pytest.raises(EndpointError, match=r"no answer .APIConnectionError"):
        client_of(gone, tmp_path, retries=0).complete(HELLO)


@pytest.mark.parametrize(("body", "told"), [
    (b"<html>busy</html>", "not JSON"), (b"", "not JSON"), (b"[1]", "body"), (b"{}", "choices"),
    (b'{"choices": []}', "no choices"), (b'{"choices": [{}]}', r"choices\.0\.message"),
    (b'{"choices": [{"message": {"content": 7}}]}', r"choices\.0\.message\.content"),
    (b'{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": "many"}}', r"usage\.prompt_tokens"),
    (b"[" * 100_000, "not JSON"),
])
def test_nonsense_is_asked_for_again_and_then_refused(chat: ChatServer, tmp_path: Path, body: bytes, told: str):
    chat.answer = lambda _: (200, body)
    with pytest.raises(EndpointError, match=rf"not a chat completion \({told}.*3 times"):
        client_of(chat, tmp_path).complete(HELLO)
    assert len(chat.bodies) == 3
    chat.answer = lambda _: (200, body) if len(chat.bodies) < 5 else "Sense."
    assert client_of(chat, tmp_path).complete(HELLO).text == "Sense."


def test_what_an_endpoint_may_leave_out(chat: ChatServer, tmp_path: Path):
    chat.answer = lambda _: (200, b'{"choices": [{"message": {"content": null, "refusal": "No."}}]}')
    spending = Spending()
    assert client_of(chat, tmp_path, spending).complete(HELLO) == Reply(text="", refused=True)
    assert (spending.unreported, spending.tokens_in) == (1, 0)
    assert "(1 answers without a count)" in spending.line()


def test_damaged_cache_entries_are_asked_again(chat: ChatServer, tmp_path: Path):
    client = client_of(chat, tmp_path)
    client.complete(HELLO)
    (entry,) = tmp_path.rglob("*.json")
    whole = entry.read_bytes()
    stored = json.loads(whole)
    other = json.dumps(stored | {"reply": stored["reply"] | {"text": "Another text."}}).encode()
    unknown = json.dumps(stored | {"key": "0" * 64}).encode()
    damages = [b"", whole[: len(whole) // 2], b"\x00" * len(whole), b"[]", b"null", other, unknown]
    for place, damage in enumerate(damages):
        entry.write_bytes(damage)
        assert client.complete(HELLO).text == "You said Hello"
        assert len(chat.bodies) == place + 2
        assert entry.read_bytes() == whole
    assert client.cache.damaged == len(damages)


def test_half_a_character_is_kept_as_it_came(chat: ChatServer, tmp_path: Path):
    chat.answer = lambda _: (200, completion("half \ud83d"))
    client = client_of(chat, tmp_path)
    assert client.complete(HELLO) == client.complete(HELLO)
    assert len(chat.bodies) == 1


def test_a_cache_that_cannot_be_written(chat: ChatServer, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cache cannot be used"):
        client_of(chat, tmp_path / "file").complete(HELLO)


def test_nothing_is_assumed_about_where_to_ask(monkeypatch: pytest.MonkeyPatch):
    for name in ("OPENAI_BASE_URL", "OPENAI_MODEL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"no address.*OPENAI_BASE_URL"):
        find_endpoint(model="m")
    with pytest.raises(ConfigError, match="no address"):
        find_endpoint("localhost:8000", "m")
    with pytest.raises(ConfigError, match=r"no model.*OPENAI_MODEL"):
        find_endpoint("http://localhost:8000/v1")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://there/v1")
    monkeypatch.setenv("OPENAI_MODEL", "big")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    found = find_endpoint()
    assert (found.url, found.model, found.key) == ("http://there/v1", "big", "secret")
    assert "secret" not in repr(found)
    assert find_endpoint("http://here/v1", "small").url == "http://here/v1"


@pytest.mark.parametrize(("parameters", "message"), [
    ({"self": 1}, r"not a parameter of chat completions"),
    ({"warmth": 1}, r"not a parameter of chat completions \(got \['warmth'\]\)\. What your server takes"),
    ({"chat_template_kwargs": {"enable_thinking": False}}, 'goes into "extra_body"'),
    ({"enable_thinking": False}, 'goes into "extra_body"'),
    ({"stream": True}, r"--parameters: cannot be set here \(got 'stream'\)\. Leave it out"),
    ({"extra_body": {"stream": True}}, "got 'stream'"),
    ({"stream_options": {"include_usage": True}}, "got 'stream_options'"),
    ({"model": "other"}, r"cannot be set here \(got 'model'\).*--model"),
    ({"messages": []}, "got 'messages'"),
    ({"n": 3}, "got 'n'"),
    ({"timeout": 3}, r"got 'timeout'.*--timeout"),
    ({"extra_headers": {"Authorization": "secret"}}, "got 'extra_headers'"),
    ({"extra_body": [1]}, "extra_body: no JSON object"),
    ({"temperature": float("nan")}, "not values of JSON"),
    ({"temperature": object()}, "not values of JSON"),
])
def test_parameters_that_no_request_can_have_are_refused_before_one(chat, tmp_path: Path, parameters, message: str):
    with pytest.raises(ConfigError, match=message):
        client_of(chat, tmp_path, parameters=parameters)
    assert not chat.bodies


def test_what_a_server_takes_beside_openai_goes_into_the_body(chat: ChatServer, tmp_path: Path):
    own = {"chat_template_kwargs": {"enable_thinking": False}, "top_k": 20}
    for parameters in ({"temperature": 0.1}, {"temperature": 0.1, "extra_body": own}):
        client_of(chat, tmp_path, parameters=parameters).complete(HELLO)
    plain, told = chat.bodies  # another request: not found in the cache
    assert told == plain | own


@pytest.mark.parametrize("parameters", [{"tools": 3}, {"stop": {"a": 1}}, {"response_format": "json"}])
def test_a_parameter_of_another_type_is_one_error(chat: ChatServer, tmp_path: Path, parameters):
    chat.answer = lambda body: (400, b'{"error": {"message": "no such type"}}')
    with pytest.raises(EndpointError, match="no answer"):
        client_of(chat, tmp_path, parameters=parameters).complete(HELLO)
