"""The same against a real endpoint, such as `transformers serve`, named by RETRIEVAL_HEADS_ENDPOINT.

    pip install fastapi uvicorn
    transformers serve FOLDER --device cpu --port 8000       # a model with a chat template
    RETRIEVAL_HEADS_ENDPOINT=http://localhost:8000/v1 OPENAI_MODEL=FOLDER pytest tests/test_written_endpoint.py
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from written_samples import reals

from retrieval_heads.data.written.author import write_texts
from retrieval_heads.data.written.cache import Cache
from retrieval_heads.data.written.checks import Fault, contains
from retrieval_heads.data.written.client import Client, find_endpoint
from retrieval_heads.data.written.orders import needle_orders


def test_a_real_endpoint_is_asked_once_and_its_texts_are_checked(tmp_path: Path):
    url = os.environ.get("RETRIEVAL_HEADS_ENDPOINT")
    if not url:
        pytest.skip("RETRIEVAL_HEADS_ENDPOINT is not set: it names an OpenAI-compatible endpoint")
    endpoint = find_endpoint(url, parameters={"max_tokens": 120})
    orders = [order for real in reals(2) for order in needle_orders(real)]
    first, second = (Client(endpoint, Cache(tmp_path)) for _ in range(2))
    results = write_texts(first, orders, concurrency=2, attempts=2)
    assert first.spending.requests >= len(orders)
    assert first.spending.tokens_in > 0
    for order, result in zip(orders, results, strict=True):
        assert isinstance(result, Fault) or contains(result, order.wanted.present[0])
    assert write_texts(second, orders, concurrency=2, attempts=2) == results
    assert second.spending.requests == 0
    assert second.spending.cached == first.spending.requests
