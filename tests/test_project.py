"""The files around the package agree with each other, and a module imports only what stands below it in the layers."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import tomllib
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TEXT = {".py", ".md", ".toml", ".yml", ".yaml", ".cff", ".cfg", ".txt", ".bib", ".css", ".ipynb", ".json", ".csv", ""}
HOSTS = {"arxiv.org", "aclanthology.org", "proceedings.mlr.press", "download.pytorch.org", "doi.org", "www.apache.org"}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pins() -> dict[str, str]:
    lines = [line for line in read("constraints.txt").splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def project_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout, so there is no list of the project's files")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.suffix in TEXT and path.is_file()]


def declared() -> list[Requirement]:
    """All direct requirements, those of the extras among them."""
    texts = [*PROJECT["dependencies"], *chain.from_iterable(PROJECT["optional-dependencies"].values())]
    return [requirement for requirement in map(Requirement, texts) if requirement.name != PROJECT["name"]]


def installed_closure() -> tuple[dict[str, str], set[str]]:
    """The version of each distribution that `.[dev]` needs here, and the names that are needed and absent."""
    found: dict[str, str] = {}
    absent: set[str] = set()
    todo = [(canonicalize_name(requirement.name), frozenset(requirement.extras)) for requirement in declared()]
    seen = set(todo)
    while todo:
        name, wanted = todo.pop()
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            absent.add(name)
            continue
        found[name] = distribution.version
        for text in distribution.requires or ():
            needed = Requirement(text)
            if needed.marker and not any(needed.marker.evaluate({"extra": extra}) for extra in (*wanted, "")):
                continue
            step = (canonicalize_name(needed.name), frozenset(needed.extras))
            if step not in seen:
                seen.add(step)
                todo.append(step)
    return found, absent


def test_constraints_are_what_is_installed():
    found, absent = installed_closure()
    if "torch" not in found or absent:
        pytest.skip(f"the dev extra is not installed as a whole: {sorted(absent)}")
    if found["torch"].split("+")[0] != pins()["torch"]:
        pytest.skip("this environment was not installed with constraints.txt")
    bare = {name: version.split("+")[0] for name, version in found.items()}
    assert bare == {name: version for name, version in pins().items() if name in bare}
    # other systems and Pythons need a few more, never fewer than are pinned for this one
    assert set(pins()) - set(bare) == set()


def test_pins_satisfy_the_declared_ranges():
    assert pins()["torch"] == "2.13.0"
    for requirement in declared():
        assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)]), str(requirement)
    assert all(re.fullmatch(r"[\w.]+", version) for version in pins().values())


def test_environment_installs_the_same_set():
    environment = yaml.safe_load(read("environment.yml"))
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    installs = re.findall(r"pip install .*", read("Makefile"))
    assert pip == ["-c constraints.txt", "-e .[dev]"]
    assert installs
    assert all("-c constraints.txt -e" in line for line in installs)
    assert any("'.[dev]'" in line for line in installs)
    assert "python=3.11" in environment["dependencies"]


def test_commands_in_the_documents_exist():
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md", "book/index.md", "book/run_it_yourself.md", ".ci/run"):
        named = set(re.findall(r"(?:^|`|exec |\w=\S+ )make ([a-z]+)", read(name), re.MULTILINE))
        assert named, name
        assert named <= targets, name
    for target in ("study", "test", "book", "notebooks"):
        dry = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert dry.returncode == 0, dry.stderr


def test_continuous_integration_runs_the_tests():
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0
    assert script.read_text().rstrip().endswith("exec make test")


def toc_files() -> list[str]:
    toc = yaml.safe_load(read("_toc.yml"))
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


def test_contents_name_what_there_is():
    files = toc_files()
    assert len(files) == len(set(files))
    made = [name for name in files if name.startswith("book/chapters/")]
    assert all((ROOT / f"{name}.md").exists() for name in files if name not in made)
    prose = {path.relative_to(ROOT).with_suffix("").as_posix() for folder in ("book", "book/reference")
             for path in (ROOT / folder).glob("*.md")}
    assert prose == set(files) - set(made), "a page of prose is in no table of contents"
    sources = sorted(path.stem for path in (ROOT / "notebooks").glob("*.py"))
    if not sources:
        pytest.skip("no chapters in notebooks/")
    assert [Path(name).name for name in made] == [*sources, "data", "status"]


def test_book_is_built_from_outputs_alone():
    config = yaml.safe_load(read("_config.yml"))
    assert config["execute"]["execute_notebooks"] == "off"
    assert config["only_build_toc_files"] is True
    assert "linkify" not in config["parse"]["myst_enable_extensions"]
    assert not any(config["html"][f"use_{button}_button"] for button in ("repository", "issues", "edit_page"))
    assert all((ROOT / name).exists() for name in config["bibtex_bibfiles"])


def test_glossary_has_the_words_of_the_study():
    glossary = read("book/glossary.md")
    for word in (
        "task", "needle", "haystack", "concept expression", "context diversity", "condition", "run", "retrieval score",
        "insight score", "retrieval head", "recall of heads", "precision of heads", "knock-out", "knock-out mode",
        "knock-out scope", "patching", "patching set", "teacher forcing", "RoPE theta", "GQA group", "LoRA",
        "chance level",
    ):
        assert f"\n{word}\n  " in glossary, word


def test_references_are_whole_and_cited():
    entries = re.findall(r"^@\w+\{(\w+),\n(.*?)^\}", read("book/references.bib"), re.DOTALL | re.MULTILINE)
    cited = set(re.findall(r"\{cite:[tp]\}`(\w+)`", "".join(path.read_text() for path in (ROOT / "book").glob("*.md"))))
    assert cited <= {key for key, _ in entries}
    for key, body in entries:
        for field in ("title", "author", "year", "url"):
            assert re.search(rf"^  {field}\s*= \{{", body, re.MULTILINE), (key, field)
        identifiers = set(re.findall(r"\d{4}\.\d{5}", body))
        assert len(identifiers) <= 1, key


def test_citation_and_licence():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(citation)
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Zhao", "Yin", "Durrett"]
    assert paper["year"] == 2025
    assert "Apache License" in read("LICENSE")


def test_hooks_need_no_network():
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))
    assert [repository["repo"] for repository in hooks["repos"]] == ["local"]
    assert all(hook["language"] == "system" for hook in hooks["repos"][0]["hooks"])


def test_no_paths_of_a_machine_and_no_invented_addresses():
    path = re.compile(r"(?<![\w/:.])/(?:home|root|Users|work)/\w")
    address = re.compile(r"https?://([\w.-]+)")
    for file in project_files():
        text = file.read_text(encoding="utf-8")
        found = path.search(text)
        assert found is None, f"{file.relative_to(ROOT)}: {found.group()}"
        if file.suffix in {".md", ".toml", ".yml", ".cff", ".bib"}:
            unknown = set(address.findall(text)) - HOSTS
            assert not unknown, f"{file.relative_to(ROOT)}: {unknown}"


def test_modules_are_short_and_importable():
    modules = sorted((ROOT / "src").rglob("*.py"))
    lengths = {module.relative_to(ROOT).as_posix(): len(module.read_text().splitlines()) for module in modules}
    assert {name: length for name, length in lengths.items() if length > 300} == {}
    assert importlib.import_module("retrieval_heads").__doc__


def test_make_works_in_a_folder_whose_path_has_a_blank():
    uses = [line for line in read("Makefile").splitlines() if "$(CURDIR)" in line]
    assert uses
    assert all(re.search(r'"[^"]*\$\(CURDIR\)[^"]*"', line) for line in uses)


PACKAGE = ROOT / "src" / "retrieval_heads"


def layers() -> list[str]:
    """The folders and modules in the order of the section, bottom first."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## The layers\n")[2].partition("\n## ")[0]
    lines = re.findall(r"(?m)^\d+\. (.*?):", section)
    return [name for line in lines for name in re.findall(r"`(\w+)`", line)]


def imports() -> dict[tuple[str, str], list[str]]:
    """By importing and imported folder or module, the files; also of imports in functions and for types only."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        own = path.relative_to(PACKAGE).with_suffix("").parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{name}" for name in names]
            for name in names:
                package, *rest = name.split(".")
                if package == "retrieval_heads" and rest and rest[0] not in (own[0], "__version__"):
                    found.setdefault((own[0], rest[0]), []).append("/".join(own))
    return found


def test_the_list_has_every_folder_and_module_once() -> None:
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert sorted(layers()) == sorted(there - {"__init__", "__main__"})


def test_imports_go_down() -> None:
    order = layers()
    assert {pair: files for pair, files in imports().items()
            if pair[0] != "__main__" and order.index(pair[0]) <= order.index(pair[1])} == {}
