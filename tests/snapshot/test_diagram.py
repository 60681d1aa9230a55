"""The drawing in docs/ is the one that the templates give."""

from tests.synthesis import assembly
from tools.diagram import DRAWING, draw


def test_the_drawing_is_current() -> None:
    drawn = draw(assembly("dev"))

    assert drawn == DRAWING.read_text(encoding="utf-8"), "run make diagram"
