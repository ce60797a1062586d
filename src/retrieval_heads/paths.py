"""Where things are, as absolute paths that do not depend on the working directory.

The checkout is found from this file, so a notebook, a worker process and a script see the same folders; of a package
that was installed from a wheel it is the one that the process was started in, if any. Live results go
below the home folder, which is the checkout unless the environment variable `RETRIEVAL_HEADS_HOME` names another one.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from retrieval_heads.errors import ConfigError

HOME_VARIABLE = "RETRIEVAL_HEADS_HOME"

_PACKAGE = Path(__file__).resolve().parent


def checkout() -> Path | None:
    """The repository that this package runs from, or is used in; None when there is none."""
    root = _PACKAGE.parents[1]
    if _PACKAGE.parent.name == "src" and (root / "configs").is_dir():
        return root
    return _around(Path.cwd())


@cache
def _around(folder: Path) -> Path | None:
    """The folder or one above it that holds the repository."""
    marks = ("configs", "notebooks", "src/retrieval_heads")
    return next((one for one in (folder, *folder.parents) if all((one / mark).is_dir() for mark in marks)), None)


def needed_checkout() -> Path:
    """The repository; `ConfigError` in one line where there is none."""
    root = checkout()
    if root is None:
        raise ConfigError("this needs the files of the repository, and the package is installed without them",
                          where="the folder that this runs in", value=str(Path.cwd()),
                          remedy="Run it inside a checkout, such as in its folder notebooks/.")
    return root


def home() -> Path:
    """The folder that live results are written below; `ConfigError` for a relative path, or where there is none."""
    named = os.environ.get(HOME_VARIABLE, "")
    if named:
        folder = Path(named).expanduser()
        if not folder.is_absolute():
            raise ConfigError("the results folder must be an absolute path", value=named,
                              where=f"environment variable {HOME_VARIABLE}",
                              remedy="Give the whole path, or unset it to use the checkout.")
        return folder
    root = checkout()
    if root is None:
        raise ConfigError("the package is installed without its repository, so it has no place for results",
                          where=f"environment variable {HOME_VARIABLE}",
                          remedy="Set it to an absolute path, or give --home DIR.")
    return root


def configs_folder() -> Path:
    """The folder of the packaged profiles: `configs/` of the checkout, or its copy in the installed package.

    In the checkout the package's `configs` is a link to that folder, so that a wheel takes the files along.
    """
    root = checkout()
    return root / "configs" if root else _PACKAGE / "configs"


def runs_folder(profile: str) -> Path:
    """Live results of a profile: `HOME/runs/PROFILE`."""
    return home() / "runs" / profile


def results_folder(profile: str) -> Path:
    """Committed tables of a profile, which come with the repository: `results/PROFILE`."""
    return (checkout() or home()) / "results" / profile


def from_checkout(path: str) -> Path:
    """A path as a profile gives it: absolute, below `~`, or starting at the checkout."""
    return (checkout() or home()) / Path(path).expanduser()


def resolve_model(path_or_id: str) -> str:
    """A model as an absolute path when it is a folder (relative ones start at the checkout), unchanged otherwise."""
    folder = from_checkout(path_or_id)
    if not folder.is_dir() and path_or_id.startswith("models/"):
        needed_checkout()  # which says in one line what is missing
    return str(folder) if folder.is_dir() else path_or_id


def shown(path: Path) -> str:
    """A path for a message: relative to the home folder or the checkout where it lies inside one of them."""
    for root in (checkout(), Path(os.environ.get(HOME_VARIABLE) or "/").expanduser()):
        if root not in (None, Path("/")) and path.is_relative_to(root):
            return str(path.relative_to(root))
    return str(path)
