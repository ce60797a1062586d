"""The command line, with a stage of the tests' own in place of the real ones."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import retrieval_heads
from retrieval_heads import cli, paths
from retrieval_heads.commands.study import STAGES, stages_of
from retrieval_heads.config import load_profile
from retrieval_heads.errors import DataError
from retrieval_heads.keys import Options
from retrieval_heads.stages import provide


@pytest.fixture
def stages(monkeypatch, tmp_path: Path):
    """The calls of fake stages as (name, profile, options); what `stages.act` does comes before each returns."""
    calls = SimpleNamespace(made=[], act=lambda: None)
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path))

    def fake(name: str):
        def run(profile, options) -> list[Path]:
            calls.made.append((name, profile, options))
            calls.act()
            return [paths.runs_folder(profile.name) / "tables" / f"{name}.csv"]

        return run

    monkeypatch.setattr(provide, "stage_function", fake)
    return calls


def run(line: str) -> int:
    return cli.main(line.split())


def test_a_stage_gets_the_profile_and_options_and_its_line_says_what_it_made(stages, capsys) -> None:
    assert run("run detect --profile report --task musique --seed 1 --base base-1 --device cuda:0 --workers 3") == 0
    [(name, profile, options)] = stages.made
    assert (name, profile.name, profile.device, profile.workers) == ("detect", "report", "cuda:0", 3)
    assert options == Options(task="musique", seed=1, base="base-1")
    captured = capsys.readouterr()
    assert captured.out.startswith("detect: runs/report/tables/detect.csv (")
    assert captured.out.count("\n") == 1
    assert captured.err == ""


def test_all_runs_every_stage_of_the_profile_in_order_with_one_line_each(stages, capsys) -> None:
    assert run("run all --profile smoke") == 0
    own = [name for name in STAGES if name not in ("gold_loss", "decide")]
    assert [name for name, _, _ in stages.made] == own
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == own
    with_losses = ["base", "data", "finetune", "lengths", "detect", "gold_loss", "decide"]
    assert stages_of(load_profile("pretrained")) == with_losses


def test_limit_has_a_folder_of_its_own(stages, capsys) -> None:
    assert run("run data --profile report --limit 2") == 0
    [(_, profile, _)] = stages.made
    assert (profile.name, profile.n_train, profile.n_test, profile.knockout.n) == ("report-limit2", 2, 2, 2)
    assert "runs/report-limit2/" in capsys.readouterr().out


def test_home_is_where_results_go(stages, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    homes = []
    stages.act = lambda: homes.append(paths.home())
    assert run("run data --profile smoke --home elsewhere") == 0
    assert homes == [tmp_path / "elsewhere"]


def test_dry_run_lists_stages_and_runs_and_makes_nothing(stages, capsys, tmp_path: Path) -> None:
    assert run("run all --profile report --task summhay --seed 2 --base base --dry-run") == 0
    out = capsys.readouterr().out
    assert out.count("summhay__") == len(load_profile("report").conditions)
    assert "mdqa" not in out
    assert "base-1" not in out
    assert "base, data, finetune" in out
    assert stages.made == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("line", "message"), [
    ("run all --profile quikc", "unknown profile (got 'quikc'). Did you mean `quick`?"),
    ("run all --profile report --task mdaq", "no such task (got 'mdaq'). Did you mean `mdqa`?"),
    ("run all --profile report --seed 99", "no such seed (got 99)"),
    ("run all --profile report --base bsae", "no such base (got 'bsae'). Did you mean `base`?"),
    ("run all --profile report --limit 0", "--limit: at least one example is needed (got 0)"),
    ("run all --profile report --workers 0", "`workers`"),
    ("run all --profile report --device gpu", "`device`"),
])
def test_a_bad_value_is_one_line_and_status_2(stages, capsys, line: str, message: str) -> None:
    assert run(line) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert stages.made == []


@pytest.mark.parametrize("line", ["run finetune", "run all", "grid"])
def test_missing_weights_and_data_give_one_message(stages, capsys, tmp_path: Path, line: str) -> None:
    profile = paper_profile(tmp_path / "mine.yaml")
    assert run(f"{line} --profile {profile}") == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: profile mine: the study cannot begin without the weights of nobody/nothing ")
    for part in (
        "in the cache of the hub", "the examples of mdqa, musique, summhay (looked for in ", "no-data/TASK",
        "hf download nobody/nothing", "under `bases`", "retrieval_heads fetch", "under `data`", "book/full_size.md",
    ):
        assert part in captured.err
    assert captured.err.count("\n") == 1
    assert stages.made == []


def test_only_what_is_asked_for_has_to_be_there(stages, capsys, tmp_path: Path) -> None:
    (tmp_path / "no-data" / "musique").mkdir(parents=True)
    (tmp_path / "weights").mkdir()
    profile = paper_profile(tmp_path / "mine.yaml", str(tmp_path / "weights"))
    assert run(f"run detect --profile {profile} --task musique") == 0
    assert run(f"run detect --profile {profile}") == 2
    captured = capsys.readouterr()
    assert "without the examples of mdqa, summhay (looked for" in captured.err
    assert "weights" not in captured.err.replace(str(tmp_path), "")
    # from tables alone, and to be told what would be run
    assert run(f"run claims --profile {profile}") == 0
    assert run(f"run all --profile {profile} --dry-run") == 0
    assert [name for name, _, _ in stages.made] == ["detect", "claims"]


def paper_profile(path: Path, base: str = "nobody/nothing") -> Path:
    profile = yaml.safe_load((paths.configs_folder() / "paper.yaml").read_text(encoding="utf-8"))
    profile |= {"bases": [base], "data": str(path.parent / "no-data"), "device": "cpu"}
    path.write_text(yaml.safe_dump(profile), encoding="utf-8")
    return path


def test_a_stage_that_fails_stops_the_rest(stages, capsys) -> None:
    def fail() -> None:
        raise DataError("bad\nrecord", where="file.jsonl, line 3", remedy="Mend it.")

    stages.act = fail
    assert run("run all --profile smoke") == 2
    assert [name for name, _, _ in stages.made] == ["base"]
    assert capsys.readouterr().err == "error: file.jsonl, line 3: bad record. Mend it.\n"


def test_ctrl_c_is_status_130_and_says_how_to_go_on(stages, capsys) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    stages.act = interrupt
    assert run("run data --profile smoke") == 130
    assert "same command again" in capsys.readouterr().err


def test_a_fault_of_the_program_is_not_hidden(stages) -> None:
    stages.act = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run("run data --profile smoke")


@pytest.mark.parametrize("line", ["", "walk", "run", "run all", "run nothing --profile smoke"])
def test_an_incomplete_command_is_status_2(line: str, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        run(line)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("line", ["--help", "run --help"])
def test_help_shows_examples_that_parse(stages, line: str, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        run(line)
    assert caught.value.code == 0
    out = re.sub(r"\\\n\s+", "", capsys.readouterr().out)  # commands of several lines
    examples = [text.strip() for text in out.splitlines() if text.startswith("  python -m retrieval_heads ")]
    assert len(examples) >= 3
    for example in examples:
        assert run(example.removeprefix("python -m retrieval_heads ")) == 0, example


def test_the_command_answers_without_torch() -> None:
    code = (
        "import sys, retrieval_heads.cli as cli\n"
        "assert cli.main('run all --profile smoke --dry-run'.split()) == 0\n"
        "heavy = {'torch', 'transformers', 'peft', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_the_package_runs_as_a_module_from_any_folder(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "retrieval_heads", "run", "all", "--profile", "nope"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("error: profile: unknown profile (got 'nope').")


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m retrieval_heads run all --profile report --dry-run | head -1; echo ${{PIPESTATUS}}"
    told = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert told.stdout.endswith("\n0\n")
    assert not told.stderr


def test_a_mistyped_verb_is_suggested(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        run("diagnos --model x")
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith("error: unknown verb `diagnos`. Did you mean `diagnose`?\n")
    with pytest.raises(SystemExit):
        run("zzz")
    assert "Known: run, grid, " in capsys.readouterr().err


def test_version_and_completion(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        run("--version")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"retrieval-heads {retrieval_heads.__version__}\n"
    pyproject = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert retrieval_heads.__version__ == pyproject["project"]["version"]
    assert pyproject["project"]["scripts"] == {cli.SCRIPT: "retrieval_heads.cli:main"}
    with pytest.raises(SystemExit):
        run("--print-completion bash")
    script = capsys.readouterr().out
    assert "diagnose" in script
    assert "--real-train" in script


def test_a_machine_that_only_computes_needs_no_completion(monkeypatch, stages) -> None:
    monkeypatch.setattr(cli, "shtab", None)
    assert run("run data --profile smoke") == 0
