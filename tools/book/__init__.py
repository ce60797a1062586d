"""From the notebooks' sources to the pages of the book.

One way: `notebooks/NN_stage.py` is converted, run by papermill with the parameters of a profile, cleaned, checked, and
stored. There are two places for the outcome:

- `notebooks/NN_stage.ipynb` holds the outputs of the notebook's own defaults, the `smoke` profile (`store`);
- `book/chapters/NN_stage.ipynb` is the page of the book: what a study ran (`run`), else a copy of the former (`build`).

Sources are only read: an executed notebook is never synchronised back.
"""

import sys

from retrieval_heads.errors import StudyError

# the library that checks notebooks takes 2 s, when it is imported, for a grammar of international web addresses, and
# there are none to be checked
sys.modules.setdefault("rfc3987_syntax", None)


class NotebookError(StudyError):
    """A notebook that cannot be run, that failed, or whose page would be incomplete."""
