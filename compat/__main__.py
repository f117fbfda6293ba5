"""`python -m compat` is `wharfd`."""

from __future__ import annotations

import sys

from compat.server import main

sys.exit(main())
