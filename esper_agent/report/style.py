"""The page's colours, light and dark: those of the curve, and those of the environment's own pictures."""

from __future__ import annotations

from esper_agent.report.curve import COLOURS as CURVE
from esper_env.render.colours import ACCURACY, ALARM, COLOURS, HOST, Colour

TERMS = (
    (31, 138, 76),
    (200, 40, 40),
    (217, 130, 30),
    (176, 48, 140),
    (120, 128, 138),
    (110, 70, 30),
    (52, 110, 200),
    (32, 150, 172),
    (91, 75, 158),
    (150, 150, 40),
)
"""Of the reward's terms, in their order."""
WHITE: Colour = (255, 255, 255)
PALE = 0.3
"""Share of white that makes a colour stand out on a dark page."""


def colours() -> str:
    """Definitions for light pages, and for dark ones where the reader prefers them."""
    named = {stage.name.lower(): colour for stage, colour in COLOURS.items()}
    named |= {"accuracy": ACCURACY, "alarm": ALARM, "host": HOST}
    named |= {f"term{number}": colour for number, colour in enumerate(TERMS)}
    light = {name: _css(colour) for name, colour in named.items()}
    light |= {"raised": "#f2f4f7", "edge": "#7d8894", "good": "#157a4b"}
    dark = {name: _css(_mix(colour, WHITE, PALE)) for name, colour in named.items()}
    dark |= {"host": _css(_mix(HOST, WHITE, 0.15)), "raised": "#222931", "edge": "#7f8b98", "good": "#62cf98"}
    preferred = f"@media (prefers-color-scheme: dark) {{:root {{{_definitions(dark)}}}}}"
    return f"{CURVE}:root {{{_definitions(light)}}}\n{preferred}\n"


def _definitions(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    r, g, b = (round((1 - share) * c + share * o) for c, o in zip(colour, other, strict=True))
    return r, g, b


def _css(colour: Colour) -> str:
    return f"#{colour[0]:02x}{colour[1]:02x}{colour[2]:02x}"
