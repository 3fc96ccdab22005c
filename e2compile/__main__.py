"""`python -m e2compile` is the command `e2compile`."""

import sys

from e2compile.cli import main

sys.exit(main())
