"""A page to keep, read as a browser reads it."""

from html.parser import HTMLParser

_VOID = {"meta", "img", "br", "rect", "hr"}


class KeptPage(HTMLParser):
    """Raises AssertionError where elements are not closed in order; collects elements and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self._open.pop() == tag, f"</{tag}> in {self._open}"

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def assert_kept(text: str) -> KeptPage:
    """Check what holds for every page: nothing is fetched or run, and it can be read without seeing it."""
    page = KeptPage(text)
    assert page.all("html") == [{"lang": "en"}]
    assert not page.all("script")
    assert not page.all("link")
    sources = [str(value) for _, found in page.elements for name, value in found.items() if name in ("src", "srcset")]
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "url(" not in text
    assert "@import" not in text
    assert not [name for _, found in page.elements for name in found if name.startswith("on")]
    policy = next(each["content"] for each in page.all("meta") if each.get("http-equiv"))
    assert str(policy).startswith("default-src 'none'")
    assert all(each.get("alt") for each in page.all("img"))
    assert all(each.get("aria-label") for each in page.all("svg"))
    assert len(page.all("table")) <= text.count("<th")
    return page
