"""What papermill was asked for: a parameter that a chapter does not have fails it, where papermill alone only warns."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence

from retrieval_heads.errors import ConfigError

INJECTED = "# Parameters\n"
"""What the cell begins with that papermill puts behind the one tagged `parameters`."""


def check_parameters(cells: Sequence[str] | None = None) -> None:
    """Refuse values of parameters that do not exist; outside of a notebook nothing is done.

    Args:
        cells: the code cells that were run, in order; None for those of the notebook that this is called in.

    Raises:
        ConfigError: an injected name that the cell before it does not set.
    """
    if cells is None:
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        cells = shell.user_ns.get("In", ()) if shell is not None else ()
    for place, cell in enumerate(cells):
        if place and cell.startswith(INJECTED):
            known, given = _names(cells[place - 1]), _names(cell)
            if unknown := [name for name in given if name not in known]:
                raise ConfigError("unknown parameter", where="papermill", value=", ".join(unknown),
                                  remedy=f"The parameters of this notebook are: {', '.join(known)}.")


def _names(code: str) -> list[str]:
    """The names that a cell assigns."""
    return [target.id for one in ast.parse(code).body if isinstance(one, ast.Assign) for target in one.targets
            if isinstance(target, ast.Name)]
