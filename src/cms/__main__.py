"""`python -m cms`: the same as the `cms` script, for where scripts are not on PATH."""

from __future__ import annotations

import sys

from cms.cli import main

if __name__ == "__main__":
    sys.exit(main())
