"""`python -m frankenlab` is the command `frankenlab`."""

import sys

from frankenlab.cli import main

sys.exit(main())
