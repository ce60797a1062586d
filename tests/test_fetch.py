"""`fetch` against a local server: good files, wrong digests, missing files, broken transfers; nothing half is left."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from retrieval_heads.cli import main
from retrieval_heads.data.official import sources as known
from retrieval_heads.data.official.sources import Origin, Remote, origin, origins
from retrieval_heads.errors import ConfigError, DataError, StudyError
from retrieval_heads.fetch import fetch

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
