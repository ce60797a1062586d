"""A folder or module of the package imports only what stands before it in the list of layers in CONTRIBUTING.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
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
