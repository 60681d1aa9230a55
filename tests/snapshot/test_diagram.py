"""The drawing in docs/ is the one that the templates give: every stack, every component, and the ways between them."""

import pytest

from tests.synthesis import assembly
from tools import diagram
from tools.diagram import DRAWING, draw, graph


def test_the_drawing_is_current() -> None:
    drawn = draw(assembly("dev"))

    assert drawn == DRAWING.read_text(encoding="utf-8"), "run make diagram"


def test_it_shows_every_stack_and_every_component_once() -> None:
    folder = assembly("dev")
    lines = graph(folder).splitlines()

    for template in folder.glob("*.template.json"):
        stack = template.name.removesuffix(".template.json")
        assert len([line for line in lines if f'label="{stack} stack' in line]) == 1
    for component in ("Runtime", "Inference", "model.Digits", "model.Iris", "model.ImageClassification"):
        assert len([line for line in lines if f'label="{component}"' in line]) == 1


def test_a_model_reaches_the_component_that_asks_it() -> None:
    ways = [line for line in graph(assembly("dev")).splitlines() if " -> " in line]

    assert any('"edgewright.dev.model.Iris" -> "edgewright.dev.Inference"' in way for way in ways)
    assert any('topics -> "edgewright.dev.Inference"' in way and "dir=both" in way for way in ways)


def test_without_graphviz_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagram, "_LAYOUT", 'import "@hpcc-js/not-installed";')

    with pytest.raises(ValueError, match="run make setup"):
        draw(assembly("dev"))
