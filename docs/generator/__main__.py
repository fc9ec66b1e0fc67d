"""Write into the pages what is generated from the code."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path

from docs.generator.sections import fill

DOCS = Path(__file__).parents[1]


def main() -> int:
    """Name the pages that the code has changed, and write them."""
    parser = ArgumentParser(prog="python -m docs.generator", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page would change")
    check = parser.parse_args().check
    changed = False
    for path in sorted(DOCS.rglob("*.md")):
        page = path.read_text(encoding="utf-8")
        filled = fill(page)
        if filled != page:
            changed = True
            done = "is not what the code says: run `python -m docs.generator`" if check else "is written"
            print(f"docs/{path.relative_to(DOCS).as_posix()} {done}")
            if not check:
                path.write_text(filled, encoding="utf-8", newline="\n")
    return int(check and changed)


if __name__ == "__main__":
    sys.exit(main())
