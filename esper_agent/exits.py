"""Exit codes of the command line."""

DONE, FAILURE, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Usage is what another command line would mend; 130 is what shells give a program that Ctrl-C ended."""
