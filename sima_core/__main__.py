"""``python -m sima_core``."""

import sys

from sima_core.cli import main

sys.exit(main())
