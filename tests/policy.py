"""What a strict policy of content forbids in a page: scripts and styles inside it, and handlers."""

from html.parser import HTMLParser


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.violations: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "style" or (tag == "script" and not given.get("src")):
            self.violations.append(f"<{tag}> with its code inside")
        for name, value in given.items():
            if name == "style" or name.startswith("on"):
                self.violations.append(f"{name}= of <{tag}>")
            if (value or "").strip().lower().startswith(("javascript:", "data:")):
                self.violations.append(f"{name}={value!r} of <{tag}>")


def violations(html: str) -> list[str]:
    """What `default-src 'self'` would stop, as short descriptions."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.violations
