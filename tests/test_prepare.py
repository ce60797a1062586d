"""`prepare`: sets that share nothing, files that follow from their arguments, and folders that are left alone."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import pytest
from made_official import mdqa_records, save_official

from retrieval_heads.cli import main
from retrieval_heads.data.encode import encode
from retrieval_heads.data.jsonl import read_examples
from retrieval_heads.data.official import prepare as prepare_module
from retrieval_heads.data.official.prepare import MANIFEST, Request, files_of, prepare
from retrieval_heads.data.official.sources import official_files, read_sources, text_key
from retrieval_heads.data.official.split import gold_keys
from retrieval_heads.errors import ConfigError, ModelError, ResultError

TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[model]:"


@pytest.fixture(scope="module")
def tokenizer_folder(tiny_tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    """40 questions of `mdqa`."""
    return save_official(tmp_path_factory.mktemp("official"), "mdqa", 40)


def _request(task: str, **changes) -> Request:
    settings = {"task": task, "length": 1200, "short_length": 800, "eval_lengths": (1000,), "train": 8, "probe": 3,
                "test": 5, "seed": 1}
    return Request(**settings | changes)


def _parts(folder: Path, request: Request) -> dict[str, list]:
    return {name: read_examples(folder / name) for name in files_of(request)}


@pytest.mark.parametrize("task", ["mdqa", "musique", "summhay"])
def test_data_folder(task: str, tmp_path: Path, tokenizer_folder: Path, tiny_tokenizer):
    official = save_official(tmp_path / "official", task, 3 if task == "summhay" else 60)
    request = _request(task, length=1500 if task == "summhay" else 1200)
    path, made = prepare(request, official, tokenizer_folder, tmp_path / "out")
    folder = tmp_path / "out" / task
    assert (path, made) == (folder / MANIFEST, True)
    assert {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} == {
        "manifest.json", "records.json", "real.jsonl.gz", "real_limited.jsonl.gz", "real_short.jsonl.gz",
        *(f"held_out/{part}_{n}.jsonl.gz" for part in ("probe", "test") for n in (1000, request.length)),
    }
    parts = _parts(folder, request)
    manifest = json.loads(path.read_text())
    for name, examples in parts.items():
        asked = int(name.split("_")[-1].split(".")[0]) if "held_out" in name else 800 if "short" in name else (
            request.length)
        counts = [len(encode(example, tiny_tokenizer, asked).ids) for example in examples]
        assert 0.85 * asked < min(counts) <= max(counts) <= asked
        facts = manifest["files"][name]
        assert (facts["examples"], facts["tokens"]["min"], facts["tokens"]["max"]) == (
            len(examples), min(counts), max(counts))
    ids = {name: [example.meta["id"] for example in examples] for name, examples in parts.items()}
    assert [len(set(ids[name])) for name in files_of(request)] == [8, 8, 8, 3, 3, 5, 5]
    assert ids["real.jsonl.gz"] == ids["real_short.jsonl.gz"]
    longest = f"_{request.length}.jsonl.gz"
    assert ids[f"held_out/test{longest}"] == ids["held_out/test_1000.jsonl.gz"]
    sets = [ids["real.jsonl.gz"] + ids["real_limited.jsonl.gz"], ids[f"held_out/probe{longest}"],
            ids[f"held_out/test{longest}"]]
    assert all(not set(first) & set(second) for first, second in combinations(sets, 2))
    assert manifest["haystacks_without_gold_of_other_sets"] is True
    assert sum(manifest["shared_gold_documents"].values()) == 0
    _no_gold_of_the_other_side(official, task, parts)
    for long, short in zip(parts["real.jsonl.gz"], parts["real_short.jsonl.gz"], strict=True):
        assert sorted(long.meta["depths_asked"]) == sorted(short.meta["depths_asked"])


def _no_gold_of_the_other_side(official: Path, task: str, parts: dict[str, list]) -> None:
    gold = {source.id: gold_keys([source]) for source in read_sources(task, official_files(official, task))}
    sides = {True: [], False: []}
    for name, examples in parts.items():
        sides[name.startswith("held_out")] += examples
    for side, examples in sides.items():
        others = {key for example in sides[not side] for key in gold[example.meta["id"]]}
        for example in examples:
            assert not [key for key in others if key in text_key(example.prompt)]


def test_named_training_questions_and_a_development_set(tmp_path: Path, tokenizer_folder: Path):
    official = save_official(tmp_path / "official", "mdqa", 60)
    known = [source.id for source in read_sources("mdqa", official_files(official, "mdqa"))]
    wanted = known[40:30:-1]
    (tmp_path / "ids.jsonl").write_text("".join(f'{{"id": "{one}", "fact": {n}}}\n' for one in wanted for n in (0, 1)))
    command = ["prepare", "--official", str(official), "--task", "mdqa", "--tokenizer", str(tokenizer_folder),
               "--length", "1200", "--train-ids", str(tmp_path / "ids.jsonl"), "--probe", "8", "--test", "20",
               "--dev", "7"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    folder = tmp_path / "out" / "mdqa"
    ids = {name: [example.meta["id"] for example in read_examples(folder / f"{name}.jsonl.gz")]
           for name in ("real", "real_limited", "held_out/probe_1200", "held_out/test_1200", "held_out/dev_1200")}
    assert ids["real"] == wanted
    assert [len(set(one)) for one in ids.values()] == [10, 10, 8, 20, 7]
    held_out = ids["held_out/probe_1200"] + ids["held_out/test_1200"] + ids["held_out/dev_1200"]
    assert len(set(held_out)) == 35
    assert not {*wanted, *ids["real_limited"]} & {*held_out}
    assert json.loads((folder / "records.json").read_text()) == {
        "train": wanted, "limited": ids["real_limited"], "probe": ids["held_out/probe_1200"],
        "test": ids["held_out/test_1200"], "dev": ids["held_out/dev_1200"],
    }
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["haystacks_without_gold_of_other_sets"] is True
    assert manifest["shared_gold_documents"]["train-dev"] == manifest["shared_gold_documents"]["test-dev"] == 0
    assert manifest["arguments"]["records"] == {"train": wanted}


def test_records_of_another_folder_are_used_again(tmp_path: Path, tokenizer_folder: Path, capsys):
    official = save_official(tmp_path / "official", "mdqa", 60)
    command = ["prepare", "--official", str(official), "--task", "mdqa", "--tokenizer", str(tokenizer_folder),
               "--length", "1200"]
    assert main([*command, "--train", "9", "--probe", "8", "--test", "20", "--dev", "7", "--seed", "3",
                 "--out", str(tmp_path / "first")]) == 0
    records = tmp_path / "first" / "mdqa" / "records.json"
    assert main([*command, "--records", str(records), "--out", str(tmp_path / "second")]) == 0
    assert (tmp_path / "second" / "mdqa" / "records.json").read_bytes() == records.read_bytes()
    capsys.readouterr()
    assert main([*command, "--records", str(tmp_path / "first" / "mdqa" / MANIFEST), "--out", str(tmp_path / "x")]) == 2
    assert "no records.json of `prepare`" in capsys.readouterr().err
    assert main([*command, "--train", "9", "--test", "20", "--out", str(tmp_path / "x")]) == 2
    assert "no number of probe examples" in capsys.readouterr().err


def test_too_few_records_are_told_before_anything_is_measured(
    tmp_path: Path, tokenizer_folder: Path, monkeypatch, capsys,
):
    official = save_official(tmp_path / "official", "summhay", 2)
    monkeypatch.setattr(prepare_module, "check_room", lambda *_, **__: pytest.fail("documents were counted"))
    assert main(["prepare", "--official", str(official), "--task", "summhay", "--tokenizer", str(tokenizer_folder),
                 "--length", "1500", "--train", "250", "--probe", "80", "--test", "200",
                 "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert re.match(r"error: summhay: train \+ probe \+ test: the files hold \d\d different questions, and each "
                    r"example needs one of its own \(got '250 \+ 80 \+ 200 = 530'\)\. Give all official files", told)
    assert "n_train, n_probe and n_test in a copy of the profile" in told
    assert not (tmp_path / "out" / "summhay").exists()


def test_short_examples_are_made_where_asked_for(official: Path, tmp_path: Path, tokenizer_folder: Path):
    path, _ = prepare(_request("mdqa", train=3, short_length=None), official, tokenizer_folder, tmp_path / "out")
    assert "real_short.jsonl.gz" not in json.loads(path.read_text())["files"]
    assert not (path.parent / "real_short.jsonl.gz").exists()


def test_same_arguments_are_left_alone_and_others_refused(official, tmp_path: Path, tokenizer_folder: Path, capsys):
    out = tmp_path / "out"
    command = ["prepare", "--official", str(official), "--task", "mdqa", "--tokenizer", str(tokenizer_folder),
               "--length", "1000", "--short-length", "500", "--train", "4", "--probe", "2", "--test", "3",
               "--out", str(out)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "real.jsonl.gz: 4 examples of" in shown
    assert "CC BY-SA 3.0" in shown
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}
    assert main(command) == 0
    assert "is there already" in capsys.readouterr().out
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before}
    assert main([*command, "--seed", "2"]) == 2
    assert "prepared with other arguments (got 'seed is 0 there and 2 now')" in capsys.readouterr().err
    (out / "mdqa" / "real.jsonl.gz").unlink()  # a file that got lost is made again, equal to the last byte
    assert main(command) == 0
    assert {path: content for path, (content, _) in before.items()} == {path: path.read_bytes() for path in before}
    for part in out.rglob("*"):
        assert str(tmp_path) not in (part.read_text() if part.suffix == ".json" else "")


def test_interrupted_preparation(official: Path, tmp_path: Path, tokenizer_folder: Path, monkeypatch):
    request = _request("mdqa", train=3)
    real, written = prepare_module.write_examples, []

    def full_disk(path, examples):
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        written.append(path)
        return real(path, examples)

    monkeypatch.setattr(prepare_module, "write_examples", full_disk)
    with pytest.raises(OSError, match="No space left"):
        prepare(request, official, tokenizer_folder, tmp_path / "out")
    assert not (tmp_path / "out" / "mdqa" / MANIFEST).exists()
    monkeypatch.setattr(prepare_module, "write_examples", real)
    with pytest.raises(ResultError, match=r"not of this request, and no manifest.*probe_1000"):
        prepare(_request("mdqa", train=3, eval_lengths=()), official, tokenizer_folder, tmp_path / "out")
    assert prepare(request, official, tokenizer_folder, tmp_path / "out")[1]
    whole = prepare(request, official, tokenizer_folder, tmp_path / "other")[0]
    assert whole.read_bytes() == (tmp_path / "out" / "mdqa" / MANIFEST).read_bytes()


def test_manifest_of_something_else(tmp_path: Path, tokenizer_folder: Path):
    official = save_official(tmp_path / "official", "mdqa", 10)
    (tmp_path / "out" / "mdqa").mkdir(parents=True)
    (tmp_path / "out" / "mdqa" / MANIFEST).write_text("[1]")
    with pytest.raises(ResultError, match="no manifest of `prepare`"):
        prepare(_request("mdqa"), official, tokenizer_folder, tmp_path / "out")


def test_chat_template_and_instruction_are_used_and_recorded(official, tmp_path, tiny_tokenizer, tokenizer_folder):
    request = _request("mdqa", train=3, chat=True, instruction="Answer in few words.")
    with pytest.raises(ModelError, match="no chat template"):
        prepare(request, official, tokenizer_folder, tmp_path / "out")
    folder = tmp_path / "chatty"
    tiny_tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    path, _ = prepare(request, official, folder, tmp_path / "out")
    arguments = json.loads(path.read_text())["arguments"]
    assert (arguments["chat"], arguments["instruction"]) == (True, "Answer in few words.")
    assert arguments["tokenizer"]["chat_template"] == TEMPLATE
    assert arguments["tokenizer"]["special_tokens"]["eos_token"] == "<eos>"
    assert "chat_template.jinja" in arguments["tokenizer"]["files"]
    for example in read_examples(path.parent / "real.jsonl.gz"):
        assert example.prompt.startswith("<bos>[user] Answer in few words.\n\nDocument 1: ")
        assert example.prompt.endswith("Answer:\n[model]:")
        assert example.joint == ""
        assert all(example.answer in text for text in example.needle_texts())


def test_a_template_is_told_its_arguments_and_its_day(official: Path, tmp_path: Path, tiny_tokenizer):
    folder = tmp_path / "chatty"
    tiny_tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text("{{ strftime_now('%Y-%m-%d') }}{{ style }}" + TEMPLATE)
    made = {}
    for name, told in (("a", None), ("b", {"style": "calm", "strftime_now": "2025-01-02"})):
        request = _request("mdqa", train=3, chat=True, template_arguments=told)
        path, _ = prepare(request, official, folder, tmp_path / name)
        known = {"strftime_now": "2024-07-26"} | (told or {})
        assert json.loads(path.read_text())["arguments"]["template_arguments"] == known
        made[name] = read_examples(path.parent / "real.jsonl.gz")
        assert all(one.chat_template == {"arguments": known} for one in made[name])
        assert not prepare(request, official, folder, tmp_path / name)[1]
    assert made["a"][0].prompt.startswith("2024-07-26<bos>[user] Document 1: ")
    assert made["b"][0].prompt.startswith("2025-01-02calm<bos>[user] Document 1: ")
    with pytest.raises(ConfigError, match="no template to take arguments"):
        prepare(_request("mdqa", template_arguments={"style": "calm"}), official, folder, tmp_path / "c")
    with pytest.raises(ConfigError, match="colour: the chat template does not read it"):
        prepare(_request("mdqa", chat=True, template_arguments={"colour": 1}), official, folder, tmp_path / "c")


def test_function_words_among_the_answers_fill_haystacks_and_control_tokens_do_not(tmp_path: Path, tokenizer_folder):
    records = mdqa_records(40)
    for one in records[:30]:
        one["answers"] += ["it", "is", "IT"]
    records[39]["ctxs"][1]["text"] += " <eos> "
    official = save_official(tmp_path / "official", "mdqa", 1)
    (official / "mdqa" / "nq-open-made.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    path, _ = prepare(_request("mdqa", train=3), official, tokenizer_folder, tmp_path / "out")
    manifest = json.loads(path.read_text())
    assert manifest["answers_not_searched"] == {"it": 30, "is": 30}
    assert manifest["dropped"] == {"a text holds a control token of the tokenizer": 1}
    examples = read_examples(path.parent / "real.jsonl.gz")
    assert all(one.meta["tokens"] > 0.9 * one.meta["length"] for one in examples)
    assert all("<eos>" not in one.prompt for one in examples)


@pytest.mark.parametrize(("changes", "named"), [
    ({"length": 0}, "length"), ({"train": 0}, "train"), ({"eval_lengths": (0,)}, "eval_lengths"),
    ({"short_length": 1200}, "short_length"), ({"depths": (2,)}, "depths"), ({"instruction": " Hm. "}, "instruction"),
    ({"train": 8, "records": {"train": ("a", "b")}}, "2 train questions are named"),
])
def test_wrong_requests(changes: dict, named: str):
    with pytest.raises(ConfigError, match=named):
        _request("mdqa", **changes)


@pytest.mark.parametrize("task", ["mdqa", "musique"])
def test_real_files(task: str, real_data: Path, tmp_path: Path, tokenizer_folder: Path):
    request = _request(task, length=4000, short_length=1500, eval_lengths=(), train=6, probe=2, test=4)
    path, _ = prepare(request, real_data, tokenizer_folder, tmp_path)
    parts, manifest = _parts(path.parent, request), json.loads(path.read_text())
    assert [len(examples) for examples in parts.values()] == [6, 6, 6, 2, 4]
    assert set(manifest["limited_to"]) == {{"mdqa": "who", "musique": "2-hop"}[task]}
    assert manifest["arguments"]["sources"].keys() == {file.name for file in official_files(real_data, task)}
    _no_gold_of_the_other_side(real_data, task, parts)
