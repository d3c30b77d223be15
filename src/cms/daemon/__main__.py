"""`python -m cms.daemon`: how the client starts a daemon."""

from __future__ import annotations

import gc
import sys

# Collections while modules are loaded find nothing and take an eighth of a start; `main` turns them on again.
gc.disable()

from cms.daemon.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
