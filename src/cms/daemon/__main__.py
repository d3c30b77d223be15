"""`python -m cms.daemon`: how the client starts a daemon."""

from __future__ import annotations

import sys

from cms.daemon.main import main

if __name__ == "__main__":
    sys.exit(main())
