"""Processes of chapters: what they are forked from, how they fail, and that they end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nbformat
import pytest
from book_project import SOURCE, make_project

from tools.book.__main__ import main
from tools.book.check import page_problems


def test_a_failing_cell_fails_the_run_and_is_named(tmp_path, capsys):
    failing = "print(1)\nraise OSError('first\\nlast line')"
    layout = make_project(tmp_path, SOURCE.replace("print(profile, count)", failing))
    assert main(["--root", str(layout.root), "run"]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith("[1/1] 00_line")
    assert "error: 00_line: code cell 2 (print(1)) stopped with OSError: last line." in captured.err
    assert not (layout.pages / "00_line.ipynb").exists()
    assert (layout.work / "00_line.executed.ipynb").exists()


def test_a_dead_kernel_fails_the_run(tmp_path, capsys):
    layout = make_project(tmp_path, SOURCE.replace("print(profile, count)", "import os; os._exit(1)"))
    assert main(["--root", str(layout.root), "run"]) == 2
    assert "Kernel died" in capsys.readouterr().err


def test_a_kernel_and_its_workers_are_forked_from_one_process(tmp_path):
    forked = """import os
from retrieval_heads.workers import Workers
with Workers(1, 1) as workers:
    print(os.getppid() == workers.pool("cpu").submit(os.getppid).result(), "OLD" in os.environ, os.getcwd()[-9:])
"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLD", "1")
        layout = make_project(tmp_path, SOURCE.replace("print(profile, count)", forked))
        assert main(["--root", str(layout.root), "run"]) == 0
    page = nbformat.read(layout.pages / "00_line.ipynb", as_version=4)
    shown = [output.text for cell in page.cells for output in cell.get("outputs", ()) if output.output_type == "stream"]
    assert shown == ["True True notebooks\n"]


def test_a_profile_for_a_gpu_gets_new_processes(tmp_path):
    in_this = "import sys; print('retrieval_heads.figures' in sys.modules)"
    layout = make_project(tmp_path, SOURCE.replace("print(profile, count)", in_this))
    (layout.root / "configs/quick.yaml").write_text("device: cuda\n")
    assert main(["--root", str(layout.root), "run"]) == 0
    page = nbformat.read(layout.pages / "00_line.ipynb", as_version=4)
    assert page_problems(page, layout.root) == []
    assert any(kind.startswith("image/") for kind in page.cells[-1].outputs[0].data)
    assert page.cells[3].outputs[0].text == "False\n", "it has imported nothing for others"


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_a_study_that_is_stopped_leaves_no_process(tmp_path, ending):
    layout = make_project(tmp_path, SOURCE.replace("print(profile, count)", "import time; time.sleep(600)"))
    command = [sys.executable, "-m", "tools.book", "--root", str(layout.root), "run"]
    # where the tests run in the background of a shell, it is ignored, and by all that they start
    with_ctrl_c = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    study = subprocess.Popen(command, env=os.environ | {"TO_BE_STOPPED": str(tmp_path)}, start_new_session=True,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=with_ctrl_c)

    def others() -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"TO_BE_STOPPED={tmp_path}".encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
        return [pid for pid in found if pid != study.pid]

    deadline = time.monotonic() + 120
    running = layout.work / "00_line.executed.ipynb"
    while not (running.exists() and "sleep(600)" in running.read_text()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert others()
    time.sleep(1)
    os.killpg(study.pid, ending) if ending == signal.SIGINT else study.kill()
    study.wait(30)
    while others() and time.monotonic() < deadline + 30:
        time.sleep(0.2)
    assert not others()
