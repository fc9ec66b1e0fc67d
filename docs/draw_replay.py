"""Draw docs/agent/replay.png: an epoch of an episode as the report of a run shows it, in Chromium.

Run it with `python -m docs.draw_replay runs/mine --epoch 15`, after `esper report runs/mine`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from tests.agent.chromium import Chromium

WIDTH, HEIGHT = 1080, 1400
PLACE = Path(__file__).parent / "agent" / "replay.png"


def main() -> None:
    """Open the page, go to the epoch, and save what is to be seen from the controls on."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--epoch", type=int, default=15)
    given = parser.parse_args()
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Chromium(profile)
        browser.resize(WIDTH, HEIGHT)
        browser.ask("Emulation.setScrollbarsHidden", hidden=True)
        browser.open(given.run / "report.html")
        browser.value(f"player.go({given.epoch}), document.getElementById('player').scrollIntoView()")
        browser.picture(PLACE)
        browser.close()
    Image.open(PLACE).convert("RGB").save(PLACE, optimize=True)


if __name__ == "__main__":
    main()
