"""`python -m esper_agent`, and the console command `esper`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; the exit code."""
    try:
        from esper_agent.cli import run
    except ModuleNotFoundError as error:
        if error.name not in ("tyro", "rich"):
            raise
        print(f"error: {error.name} is not installed; the agent needs it: pip install 'esper[agent]'", file=sys.stderr)
        return 1
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
