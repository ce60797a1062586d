"""An OpenAI-compatible endpoint for chat completions: a hosted service, or a server of one's own such as
`transformers serve`, vLLM or llama.cpp.

The `openai` library sends the requests and repeats them with growing pauses on 408, 409, 429, 5xx, timeouts and broken
connections. Its answers are checked here, since it passes on whatever a server says. Nothing is sent before `complete`.
"""

from __future__ import annotations

import inspect
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from retrieval_heads.data.written.cache import Cache, Reply, Spending, request_key
from retrieval_heads.errors import ConfigError, StudyError

URL_VARIABLE, MODEL_VARIABLE, KEY_VARIABLE = "OPENAI_BASE_URL", "OPENAI_MODEL", "OPENAI_API_KEY"
_SET_ELSEWHERE = {
    "model": "Give it by --model.", "messages": "They are the prompts of this package.",
    "timeout": "Give it by --timeout.", "extra_headers": "They could hold secrets, and parameters are recorded.",
    "extra_query": "Give them in the address.", "n": "A text is asked for again where it fails, with another prompt.",
    **dict.fromkeys(("stream", "stream_options"), "Answers are read whole; there is nothing to gain from it."),
}
"""Parameters that a request cannot have, and why."""
_BODY = ('What your server takes beside them, as arguments of a chat template, goes into "extra_body": '
         '{"extra_body": {"chat_template_kwargs": {"enable_thinking": false}}}.')
_REMEDIES = {
    401: f"Set {KEY_VARIABLE} to the key of the service.", 403: "Ask for access to the model.",
    404: "Check the address (mostly ending in /v1) and the model's name.",
    400: "Check model and parameters (--parameters); the endpoint does not take them.",
}
"""What to do, by the status of a refusal."""
NONSENSE_TRIES = 3
"""How often an answer that is not a chat completion is asked for again."""
PARAMETERS: dict[str, Any] = {"temperature": 0.7, "max_tokens": 2048}


class EndpointError(StudyError):
    """An endpoint that is not reached, refuses, or answers with something else than a chat completion."""


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and how: base address, the model's name there, the service's key (local servers take any), what is
    sent with each request, seconds for one answer, and how often the library repeats a request that failed."""

    url: str
    model: str
    key: str = field(default="none", repr=False)
    parameters: Mapping[str, Any] = field(default_factory=lambda: dict(PARAMETERS))
    timeout: float = 300.0
    retries: int = 6

    def __post_init__(self) -> None:
        check_parameters(self.parameters)


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for what a request cannot have, also in `extra_body`, and for what is not JSON."""
    body = parameters.get("extra_body", {})
    if not isinstance(body, Mapping):
        raise ConfigError("no JSON object", where="--parameters, extra_body", value=body, remedy="Give one, or none.")
    for name in (*parameters, *body):
        if name in _SET_ELSEWHERE:
            raise ConfigError("cannot be set here", where="--parameters", value=name,
                              remedy=f"Leave it out. {_SET_ELSEWHERE[name]}")
    try:
        json.dumps(dict(parameters), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError("not values of JSON", where="--parameters", value=str(error),
                          remedy="Give text, finite numbers, true, false, null, lists and objects.") from error


def find_endpoint(url: str | None = None, model: str | None = None, **options: Any) -> Endpoint:
    """The endpoint of the arguments, and where they are None of OPENAI_BASE_URL and OPENAI_MODEL; the key is
    OPENAI_API_KEY. No address and no model is assumed, so that nothing is sent anywhere unasked."""
    url = url or os.environ.get(URL_VARIABLE, "")
    model = known_model(model)
    if not url.startswith(("http://", "https://")):
        raise ConfigError(
            "no address of an endpoint", where="--endpoint", value=url,
            remedy=f"Give one like http://localhost:8000/v1, or set {URL_VARIABLE}; conditions with low or symbolic "
            "needles need none.",
        )
    if not model:
        raise ConfigError(
            "no model of the endpoint", where="--model", value=model,
            remedy=f"Give the name that the endpoint knows it by, or set {MODEL_VARIABLE}.",
        )
    return Endpoint(url, model, os.environ.get(KEY_VARIABLE) or "none", **options)


def known_model(model: str | None = None) -> str:
    """The model of the argument, else of OPENAI_MODEL, else empty."""
    return model or os.environ.get(MODEL_VARIABLE, "")


class Client:
    """Asks an endpoint, through a cache; may be used by many threads. `ConfigError` where the `openai` library is not
    installed, or does not know a parameter."""

    def __init__(self, endpoint: Endpoint, cache: Cache, spending: Spending | None = None) -> None:
        try:
            import openai
        except ImportError as error:
            raise ConfigError(
                "the library for endpoints is not installed", where="openai",
                remedy="Install it: pip install 'retrieval-heads[llm]'.",
            ) from error
        self.endpoint, self.cache, self.spending = endpoint, cache, spending or Spending()
        self._errors = openai.OpenAIError
        known = inspect.signature(openai.resources.chat.Completions.create).parameters
        if unknown := sorted(set(endpoint.parameters) - (set(known) - {"self"})):
            raise ConfigError("not a parameter of chat completions", where="--parameters", value=unknown, remedy=_BODY)
        self._client = openai.OpenAI(
            base_url=endpoint.url, api_key=endpoint.key, timeout=endpoint.timeout, max_retries=endpoint.retries,
        )
        self._locks: dict[str, threading.Lock] = {}

    def complete(self, messages: list[dict[str, str]]) -> Reply:
        """The endpoint's answer to chat messages, from the cache where it was given before; `EndpointError` without a
        chat completion after all retries, `ResultError` for a folder of the cache that cannot be used."""
        key = request_key(self.endpoint.model, messages, self.endpoint.parameters)
        # an equal request of another thread waits, and finds the answer in the cache
        with self._locks.setdefault(key, threading.Lock()):
            reply = self.cache.get(key)
            if reply is None:
                reply = self._ask(messages)
                self.spending.add(reply)
                self.cache.put(key, reply)
            else:
                self.spending.add_cached()
            return reply

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _ask(self, messages: list[dict[str, str]]) -> Reply:
        for _ in range(NONSENSE_TRIES):
            body = self._send(messages)
            try:
                return read_reply(body)
            except ValueError as error:
                problem = error
        raise EndpointError(
            f"the answer is not a chat completion ({problem}), {NONSENSE_TRIES} times", where=self.endpoint.url,
            value=body[:80], remedy="Check that the address is an OpenAI-compatible one, which mostly ends in /v1; "
            "answers so far are in the cache.",
        )

    def _send(self, messages: list[dict[str, str]]) -> str:
        try:
            response = self._client.chat.completions.with_raw_response.create(
                model=self.endpoint.model, messages=messages, **self.endpoint.parameters,
            )
            return response.http_response.text
        except (self._errors, TypeError, ValueError, AttributeError) as error:  # a parameter of another type, say
            raise EndpointError(
                f"no answer ({type(error).__name__}: {str(error)[:200]})", where=self.endpoint.url,
                value=self.endpoint.model, remedy=_REMEDIES.get(
                    getattr(error, "status_code", None),
                    "Try again later: the same command goes on with what is in the cache."),
            ) from error


class _Message(BaseModel, strict=True):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel, strict=True):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel, strict=True):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(BaseModel, strict=True):
    choices: list[_Choice]
    usage: _Usage | None = None


def read_reply(body: str) -> Reply:
    """The reply in the body of an answer; ValueError says why there is none."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    try:
        completion = _Completion.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}") from None
    if not completion.choices:
        raise ValueError("no choices")
    choice, usage = completion.choices[0], completion.usage or _Usage()
    return Reply(
        text=choice.message.content or "", finish=choice.finish_reason or "stop", refused=bool(choice.message.refusal),
        tokens_in=usage.prompt_tokens, tokens_out=usage.completion_tokens,
    )
