"""The README and the pages of docs/, taken apart: links, and blocks of code with the commands in them."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(python -m pipeline \w+ [^`]*--[^`]*)`")


@dataclasses.dataclass(frozen=True)
class Command:
    """One command of a page, as words. `is_whole`: nothing of it was left out, by `...`."""

    page: str
    words: tuple[str, ...]
    is_whole: bool

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)[:70]}"

    @property
    def flags(self) -> list[str]:
        """What stands behind `python -m pipeline COMMAND`."""
        return list(self.words[4:])

    @property
    def name(self) -> str:
        """The pipeline's command, or empty for another program."""
        return self.words[3] if self.words[:3] == ("python", "-m", "pipeline") else ""


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, text) of every block of code in a language."""
    return [
        (page.name, text)
        for page in PAGES
        for kind, text in _BLOCK.findall(page.read_text("utf-8"))
        if kind == language
    ]


def commands() -> list[Command]:
    """Every command of every page, those of running text included where they have flags."""
    found = [command for page, text in blocks("sh") for command in _in_shell(page, text)]
    for page in PAGES:
        inline = _INLINE.findall(page.read_text("utf-8").replace("\n", " "))
        found += [command for text in inline for command in _in_shell(page.name, text)]
    return found


def _in_shell(page: str, text: str) -> Iterator[Command]:
    for line in _lines(text):
        for part in _split(shlex.split(line, comments=True)):
            kept = [word for word in part if word != "..." and not word.endswith("=...")]
            yield Command(page, tuple(kept), is_whole=kept == part)


def _lines(text: str) -> Iterator[str]:
    """The lines of a script; one whose quotation goes on is joined with the next."""
    begun = ""
    text = text.replace("\\\n", " ").replace("\\`", "`")  # a shell drops this backslash too; shlex does not
    for line in text.splitlines():
        begun += line
        try:
            shlex.split(begun, comments=True)
        except ValueError:
            begun += "\n"
        else:
            yield begun
            begun = ""
    assert not begun, begun


def _split(words: list[str]) -> Iterator[list[str]]:
    """The commands of one line, which are joined by && or |."""
    part: list[str] = []
    for word in [*words, "&&"]:
        if word not in ("&&", "|", "||"):
            part.append(word)
        elif part:
            yield part
            part = []


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
