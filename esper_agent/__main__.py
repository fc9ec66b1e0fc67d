"""`python -m esper_agent`, and the console command `esper`."""

from __future__ import annotations

import sys

from esper_agent.exits import FAILURE, INTERRUPTED


def main() -> int:
    """Run the command line; the exit code."""
    if not sys.flags.safe_path:
        sys.path.append("")  # a policy of one's own is in the current folder, where `python -m` looks anyway
    try:  # importing takes a second, in which Ctrl-C is as likely as in any other
        from esper_agent.cli import run
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except ModuleNotFoundError as error:
        from esper_agent.doctor import missing_extra

        advice = missing_extra(error)
        if advice is None:
            raise
        print(f"error: {advice}", file=sys.stderr)
        return FAILURE
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
