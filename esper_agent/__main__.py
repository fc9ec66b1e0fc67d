"""`python -m esper_agent`, and the console command `esper`."""

from __future__ import annotations

import sys

from esper_agent.doctor import missing_extra
from esper_agent.failures import INTERRUPTED


def main() -> int:
    """Run the command line; the exit code."""
    try:
        from esper_agent.cli import run
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except ModuleNotFoundError as error:
        advice = missing_extra(error)
        if advice is None:
            raise
        print(f"error: {advice}", file=sys.stderr)
        return 1
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
