"""A picture before it is drawn: what is said where, and what stands behind it."""

from dataclasses import dataclass, field

from esper_env.render.picture import PAPER, _font


@dataclass
class Sketch:
    """What a picture of a frame consists of, in the place of its pixels."""

    said: list = field(default_factory=list)
    """Words with where they stand and their colour."""
    boxes: list = field(default_factory=list)
    placed: list = field(default_factory=list)
    """Words with the left, top, right and bottom of what they cover."""
    dots: list = field(default_factory=list)
    lines: list = field(default_factory=list)

    def box(self, corner, size, fill=None, outline=None, *, radius=0, width=1.5):
        self.boxes.append((corner, size, fill))

    def dot(self, centre, radius, fill, outline=None):
        self.dots.append((centre, radius, fill))

    def line(self, points, colour, width):
        self.lines.append((points, colour))

    def words(self, at, words, size=14, colour=None, anchor="ls", *, bold=False):
        self.said.append((at, words, colour))
        if words:
            left, top, right, bottom = _font(size).getbbox(words, anchor=anchor, stroke_width=0.35 if bold else 0)
            self.placed.append((words, (left + at[0], top + at[1], right + at[0], bottom + at[1])))

    def pixels(self):
        return self

    @property
    def told(self):
        """All the words in the order of drawing."""
        return " ".join(words for _, words, _ in self.said)

    def beside(self, label):
        """Words and colour of what stands on the line of this label, to the right of it."""
        ((x, y),) = [at for at, words, _ in self.said if words == label]
        return [(words, colour) for at, words, colour in self.said if at[1] == y and at[0] > x]

    def under(self, at):
        """The colour of the last box at a place."""
        filled = [
            fill
            for (x, y), (width, height), fill in self.boxes
            if fill is not None and x <= at[0] <= x + width and y <= at[1] <= y + height
        ]
        return filled[-1] if filled else PAPER

    def curve(self, colour):
        """The points of the curve of this colour."""
        (points,) = [points for points, drawn in self.lines if drawn == colour and len(points) > 2]
        return points
