"""`python -m ouroboros` is the command `ouroboros`."""

import signal
import sys


def run() -> int:
    """Runs the command line; Ctrl-C is one line even while the program is still being imported."""
    try:
        from ouroboros.cli.main import main

        code = main()
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        code = 130
    # Nothing is left to stop: the interpreter only ends its threads, and would show a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


if __name__ == "__main__":
    sys.exit(run())
