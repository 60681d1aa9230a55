"""Answers are kept by all that they follow from, and what cannot be kept is found again."""

from pathlib import Path

import pytest

from config import kept_answers
from config.kept_answers import KeptAnswers


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "code.py").write_text("found = 1", encoding="utf-8")
    return tmp_path


def ask(place: Path, question: str = "how many", name: str = "", answer: object = "new") -> object:
    """As another process would, which knows only what is kept."""
    answers = KeptAnswers()
    answers.keep_in(place / "kept.json")
    return answers.ask(question, {name: place / "file"}, place / "code.py", lambda: answer)


def test_an_answer_is_given_to_the_same_question_about_the_same_content(place: Path) -> None:
    assert ask(place, answer=[["a", [2, 28]]]) == [["a", [2, 28]]]

    assert ask(place) == [["a", [2, 28]]]
    assert sorted(path.name for path in place.iterdir()) == ["code.py", "file", "kept.json"]


def test_another_question_name_content_or_version_of_the_code_is_asked_anew(place: Path) -> None:
    ask(place, answer="old")

    assert ask(place, question="how large") == "new"
    assert ask(place, name="other") == "new"
    (place / "file").write_bytes(b"changed")
    assert ask(place, answer="of the change") == "of the change"
    (place / "code.py").write_text("found = 2", encoding="utf-8")
    assert ask(place, answer="of the code") == "of the code"


def test_no_answer_and_an_error_are_not_kept(place: Path) -> None:
    answers = KeptAnswers()
    answers.keep_in(place / "kept.json")

    assert ask(place, answer=None) is None
    with pytest.raises(ZeroDivisionError):
        answers.ask("how many", {"": place / "file"}, place / "code.py", lambda: 1 // 0)
    assert ask(place) == "new"


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"a": ', b"[" * 100_000])
def test_a_file_that_holds_no_answers_counts_as_empty(content: bytes, place: Path) -> None:
    (place / "kept.json").write_bytes(content)

    assert ask(place, answer="old") == "old"
    assert ask(place) == "old"


def test_a_place_that_cannot_be_written_keeps_nothing(place: Path) -> None:
    (place / "kept.json").mkdir()

    assert ask(place, answer="old") == "old"
    assert ask(place) == "new"
    assert sorted(path.name for path in place.iterdir()) == ["code.py", "file", "kept.json"]


def test_nothing_is_kept_until_it_is_said_where(place: Path) -> None:
    answers = KeptAnswers()
    numbers = iter((1, 2))

    for number in (1, 2):
        assert answers.ask("how many", {"": place / "file"}, place / "code.py", lambda: next(numbers)) == number


def test_the_oldest_answers_make_room(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_answers, "_MOST", 2)
    for question in "abc":
        ask(place, question=question, answer="old")

    assert [ask(place, question=question) for question in "cba"] == ["old", "old", "new"]
