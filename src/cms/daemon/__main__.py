"""`python -m cms.daemon`: how the client starts a daemon."""

from __future__ import annotations

import gc
import os
import sys

if __name__ == "__main__" and "--detach" in sys.argv and os.fork():
    # The parent goes at once, so that whoever started us has no child to wait for. Nothing is loaded yet:
    # what is would be copied, page by page, when the child touches it.
    os._exit(0)

# Collections while modules are loaded find nothing and take an eighth of a start; `main` turns them on again.
gc.disable()

from cms.daemon.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
