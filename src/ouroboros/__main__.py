"""`python -m ouroboros` is the command `ouroboros`."""

import sys

from ouroboros.cli.main import main

sys.exit(main())
