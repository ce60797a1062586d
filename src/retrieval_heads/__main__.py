"""`python -m retrieval_heads`: see `cli.py`."""

import sys

from retrieval_heads.cli import main

if __name__ == "__main__":
    sys.exit(main())
