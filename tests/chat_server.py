"""A small server that speaks the chat-completions JSON, in a thread, and can be as bad as real ones."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FILLER = "The subject has been described by many authors, and its history is long and rather well documented by now."


class ChatServer:
    """What the server does, and what it has seen.

    Attributes:
        url: for `Endpoint`.
        bodies: the requests, in order of arrival.
        answer: makes the reply of a request: a text, or `(status, body as bytes)`.
        most_at_once: the most requests that were in work at a time.
    """

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[dict[str, Any]] = []
        self.answer: Callable[[dict[str, Any]], str | tuple[int, bytes]] = good
        self.delay = 0.0
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()

    def serve(self, body: dict[str, Any]) -> tuple[int, bytes]:
        with self._lock:
            self.bodies.append(body)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            time.sleep(self.delay)
            answer = self.answer(body)
            return (200, completion(answer)) if isinstance(answer, str) else answer
        finally:
            with self._lock:
                self._now -= 1


def completion(text: str | None, finish: str = "stop", **message: Any) -> bytes:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
    return json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()


def good(body: dict[str, Any]) -> str:
    """A text that does what the first message of the user asks."""
    return write(body["messages"][1]["content"])


def write(prompt: str, statement: str | None = None) -> str:
    """A text of the wanted number of words with the wanted answer or insight in it, or another statement."""
    words = int(re.search(r"about (\d+) words", prompt)[1])
    if statement is None:
        answer = re.search(r"letter for letter: (.+)", prompt)
        insight = re.search(r"stated in full:\n(.+)", prompt)
        statement = f"It is known to be {answer[1]} today." if answer else insight[1] if insight else ""
    number = re.search(r"number (\d+)|version (\d+)", prompt)
    opening = f"Remark {number[1] or number[2]} has to be made here." if number else "A remark comes first."
    filler = [FILLER] * max(1, (words - len(statement.split())) // len(FILLER.split()))
    return " ".join([opening, *filler, statement]).strip()


@contextmanager
def running() -> Iterator[ChatServer]:
    """A server on a free port of this machine."""
    chat = ChatServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, content = chat.serve(body)
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.send_header("retry-after-ms", "5")  # the pauses of the library are no part of the tests
                self.end_headers()
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client lost patience, as a test wants it to

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    chat.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
