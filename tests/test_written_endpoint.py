"""The same against a real endpoint: `transformers serve` with the embedded model, started here on a free port.

A larger model at an endpoint of one's own is tried by

    RETRIEVAL_HEADS_ENDPOINT=http://localhost:8000/v1 OPENAI_MODEL=NAME pytest tests/test_written_endpoint.py
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from written_samples import example, reals

from retrieval_heads.cli import main
from retrieval_heads.data.jsonl import write_examples
from retrieval_heads.data.tokenizer import BASE_PATH
from retrieval_heads.data.written.cache import Cache, request_key
from retrieval_heads.data.written.client import Client, Endpoint, EndpointError, find_endpoint
from retrieval_heads.data.written.orders import Fault, contains, find_fault, needle_orders
from retrieval_heads.data.written.writers import EndpointWriter

pytest.importorskip("openai")
STARTS_WITHIN = 300  # seconds; some on a machine with nothing else to do
PARAMETERS = {"temperature": 0.7, "max_tokens": 60}
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.content }}\n{% endfor %}"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    if url := os.environ.get("RETRIEVAL_HEADS_ENDPOINT"):
        yield find_endpoint(url, parameters=PARAMETERS)
        return
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    folder = tmp_path_factory.mktemp("served") / "model"
    shutil.copytree(BASE_PATH, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--device", "cpu",
               "--host", "127.0.0.1", "--port", str(port), "--default-seed", "0"]
    log = folder.with_name("log")
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        _await(f"http://127.0.0.1:{port}/health", server, log)
        yield Endpoint(f"http://127.0.0.1:{port}/v1", str(folder), parameters=PARAMETERS)
    finally:
        server.kill()
        server.wait()


def _await(address: str, server: subprocess.Popen, log: Path) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    ends = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < ends:
        if server.poll() is not None:
            pytest.fail(f"the server ended with {server.returncode}:\n{log.read_text()}")
        try:
            with direct.open(address, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the server did not answer in {STARTS_WITHIN} s:\n{log.read_text()}")


def test_a_real_endpoint_is_asked_once_and_its_texts_are_checked(endpoint: Endpoint, tmp_path: Path, capsys):
    orders = [order for real in reals(2) for order in needle_orders(real)]
    cache = Cache(tmp_path / "cache")
    first, second = (Client(endpoint, cache) for _ in range(2))
    results = EndpointWriter(first, concurrency=2, attempts=2).texts(orders)
    assert len(orders) <= first.spending.requests <= 2 * len(orders)
    assert first.spending.tokens_in > first.spending.requests * 100
    assert 0 < first.spending.tokens_out <= first.spending.requests * PARAMETERS["max_tokens"]
    for order, result in zip(orders, results, strict=True):
        reply = cache.get(request_key(endpoint.model, order.messages, PARAMETERS))
        assert reply.tokens_in > 100
        if not isinstance(result, Fault):
            assert contains(result, order.wanted.present[0])
        elif find_fault(reply, order.wanted) is None:
            pytest.fail("a good first text was given up")
    assert EndpointWriter(second, concurrency=2, attempts=2).texts(orders) == results
    assert (second.spending.requests, second.spending.cached) == (0, first.spending.requests)

    with pytest.raises(EndpointError, match="no answer"):
        Client(Endpoint(endpoint.url, "no/such-model", retries=0), cache).complete(orders[0].messages)

    # the command tells what a model wrote that cannot be used, and pays for nothing twice
    write_examples(tmp_path / "real.jsonl.gz", [example(index) for index in range(2)])
    command = ["write", "--real", str(tmp_path / "real.jsonl.gz"), "--tokenizer", str(BASE_PATH), "--length", "900",
               "--out", str(tmp_path), "--conditions", "high_high", "--attempts", "2", "--cache",
               str(tmp_path / "cache"), "--parameters", json.dumps(PARAMETERS), "--endpoint", endpoint.url,
               "--model", endpoint.model]
    status = main(command)
    told = capsys.readouterr()
    assert f"0 requests, {first.spending.requests} from the cache" in told.out
    assert (status, (tmp_path / "high_high.jsonl.gz").exists()) == (
        (0, True) if not all(isinstance(result, Fault) for result in results) else (2, False)), told.err
