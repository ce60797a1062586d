"""The ten lines of the README run as they stand, and on the folder of another family with an adapter of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import matplotlib
import pytest
from model_folders import make_adapter, save_model

from retrieval_heads.data.tokenizer import embedded_tokenizer

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
BASE, ADAPTER = "models/base", "models/adapters/mdqa__real__s1__base"


def python_blocks(name: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(r"```python\n(from retrieval_heads import .*?)```", text, re.DOTALL)


@pytest.fixture
def run(monkeypatch, tmp_path: Path) -> Callable[..., dict]:
    """Run the README's code with texts of it replaced, in a folder of its own; returns its variables."""

    def execute(**replaced: str) -> dict:
        [code] = python_blocks("README.md")
        for old, new in {"n=8": "n=2", **replaced}.items():
            assert old in code
            code = code.replace(old, new)
        variables: dict = {}
        monkeypatch.chdir(tmp_path)
        exec(compile(code, "README.md", "exec"), variables)
        return variables

    yield execute
    plt.close("all")


def losses(output: str) -> list[float]:
    return [float(value) for value in re.findall(r": (\d+\.\d+(?:e-\d+)?)$", output, re.MULTILINE)]


def test_the_code_is_about_ten_lines_and_the_same_in_the_book():
    [code] = python_blocks("README.md")
    lines = [line for line in code.splitlines() if line and not line.startswith("from ")]
    assert len(lines) <= 12
    assert python_blocks("book/run_it_yourself.md") == [code]


def test_the_ten_lines_run(run, capsys, tmp_path: Path):
    if not (ROOT / BASE / "config.json").exists():
        pytest.skip("the base model is not in models/base")
    found = run(**{f'"{ADAPTER}"': repr(str(ROOT / ADAPTER)), f'"{BASE}"': repr(str(ROOT / BASE))})
    output = capsys.readouterr().out
    assert f"{len(found['heads'])} retrieval heads; loss of the answer: " in output
    whole, without, patched = losses(output)
    assert without > whole > patched
    assert (tmp_path / "head_map.png").stat().st_size > 1000


def test_the_ten_lines_run_on_a_folder_of_another_family(run, capsys, tmp_path: Path, tiny_model):
    tokenizer = embedded_tokenizer()
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    base = save_model(tmp_path / "own", tiny_model("qwen3", vocab_size=len(tokenizer), **ids), tokenizer)
    adapter = make_adapter(base, tmp_path / "adapter", seed=1)
    found = run(**{f'"{ADAPTER}"': repr(str(adapter)), f'"{BASE}"': repr(str(base)),
                   "select_heads(scores, threshold=0.1)": "select_heads(scores, k=3)"})
    assert found["model"].config.model_type == "qwen3"
    assert hasattr(found["source"], "extension")
    assert found["scores"].shape == (3, 4)
    assert "3 retrieval heads; " in capsys.readouterr().out
    assert (tmp_path / "head_map.png").stat().st_size > 1000
    for model in (found["model"], found["source"]):
        assert not any(module._forward_pre_hooks for module in model.modules())
