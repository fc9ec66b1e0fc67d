"""Draw docs/frame.png: the frame that the README shows as text, as a picture.

Run it with `python -m docs.draw_frame`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium
import torch
from PIL import Image

HERE = Path(__file__).parent
MODE = 'render_mode="ansi"'


def main() -> None:
    """Run the README's own code with the other render mode, and save what it makes."""
    torch.set_num_threads(1)
    readme = (HERE.parent / "README.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"^```python\n(.*?)^```", readme, re.M | re.S) if MODE in block)
    names: dict[str, Any] = {"gym": gymnasium}
    exec(code.replace(MODE, 'render_mode="rgb_array"'), names)
    Image.fromarray(names["frame"]).quantize(96).save(HERE / "frame.png", optimize=True)


if __name__ == "__main__":
    main()
