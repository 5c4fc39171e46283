"""Entry point of ``oppu``: Ctrl-C ends it with one line, even while the command line is still loading."""

import sys


def main() -> None:
    """Load the command line and run it."""
    try:
        from oppu_core.cli.main import main as run

        run()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
