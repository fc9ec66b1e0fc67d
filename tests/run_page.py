"""Run the code of pages, each as one session: `python` blocks as they are, `pycon` blocks as doctests.

A traceback or a difference names the page's own line.
"""

import doctest
import re
import sys
from pathlib import Path

BLOCK = re.compile(r"^```(python|pycon)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run(path: Path) -> bool:
    """Did everything in the page do what the page says?"""
    text, names = path.read_text(encoding="utf-8"), {"__name__": "__main__"}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(2))
        if block[1] == "python":
            exec(compile("\n" * line + block[2], str(path), "exec"), names)
        else:
            test = doctest.DocTestParser().get_doctest(block[2], names, path.name, str(path), line)
            runner.run(test, clear_globs=False)
            names |= test.globs
    print(f"ran {path.name}")
    return runner.summarize(verbose=False).failed == 0


if __name__ == "__main__":
    ran = [run(Path(page)) for page in sys.argv[1:]]
    sys.exit(not all(ran))
