"""`python -m benchmarks`: list the benchmarks, or run one and judge its claims."""

import sys

from benchmarks.harness.command import main

sys.exit(main(sys.argv[1:]))
