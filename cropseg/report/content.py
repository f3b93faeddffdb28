"""What a report holds, before it becomes a page, Markdown or LaTeX: sections of blocks, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cropseg.metrics import Confusion
from cropseg.report.tables import Table


@dataclass(frozen=True)
class Words:
    """A paragraph; ``quiet`` ones are small print."""

    text: str
    quiet: bool = False


@dataclass(frozen=True)
class Heading:
    """A heading below that of the section."""

    text: str
    anchor: str = ""


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Missing:
    """Why something is not shown."""

    text: str


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        table: Its content.
        anchor: What the index of the paper's tables links to.
        by_class: Whether rows and columns that are named after a class go when the class is switched off.
        style: Style class of the page.
    """

    table: Table
    anchor: str = ""
    by_class: bool = False
    style: str = ""


@dataclass(frozen=True)
class Group:
    """Rows of the score table that belong to one evaluation set; a cell is a text and its marks with their meaning."""

    name: str
    note: str
    rows: tuple[tuple[tuple[str, tuple[tuple[str, str], ...]], ...], ...]


@dataclass(frozen=True)
class Grouped:
    """A table in groups of rows; ``table`` is the same without groups, for Markdown and LaTeX."""

    table: Table
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Bar:
    """One bar of the summary: a model's score on a set, with its range where it has several seeds."""

    model: str
    seeds: str
    value: float
    text: str
    low: float
    high: float


@dataclass(frozen=True)
class Glance:
    """The summary of one evaluation set."""

    name: str
    note: str
    measure: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Bars:
    """The summaries of all sets; ``table`` says the same."""

    glances: tuple[Glance, ...]
    table: Table


@dataclass(frozen=True)
class Picture:
    """A picture in a file format that pages and LaTeX both take.

    Attributes:
        caption: In a few words, below it.
        alt: What it shows, for those who do not see it.
        content: PNG or JPEG.
        below: Whether it stands below the one before, such as a truth below its image.
        painted: Whether it is a map in the colours of the classes, in which classes can be switched off.
    """

    caption: str
    alt: str
    content: bytes
    below: bool = False
    painted: bool = False

    @property
    def suffix(self) -> str:
        """Of a file that holds it."""
        return ".png" if self.content.startswith(b"\x89PNG") else ".jpg"


@dataclass(frozen=True)
class Figure:
    """Pictures beside each other under one caption.

    Attributes:
        title: The caption.
        pictures: From left to right.
        note: Below.
        anchor: What the index of the paper's figures links to.
        patch: Whether the pictures are of one patch, which can be enlarged.
    """

    title: str
    pictures: tuple[Picture, ...]
    note: str = ""
    anchor: str = ""
    patch: bool = False


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix in pixels, rows truth; shown in percent of its rows."""

    title: str
    names: tuple[str, ...]
    confusion: Confusion
    note: str = ""
    anchor: str = ""


@dataclass(frozen=True)
class Steps:
    """A pipeline: stages in order, each with what it does and what came of it."""

    title: str
    steps: tuple[tuple[str, str], ...]
    note: str = ""
    anchor: str = ""


@dataclass(frozen=True)
class Index:
    """Where the paper's tables or figures stand: number, what it shows, anchor, and the reason where there is none."""

    title: str
    entries: tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True)
class Legend:
    """The classes with their colours, where they can be switched off; ``scale`` adds that of confidence."""

    scale: bool = False


@dataclass(frozen=True)
class Listing:
    """A long text that is folded away."""

    title: str
    text: str


@dataclass(frozen=True)
class Fold:
    """Blocks that are folded away under a line."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def unfolded(self) -> str:
        """The title where nothing is folded: none, if the first block says the same."""
        table = getattr(self.blocks[0], "table", None) if self.blocks else None
        return "" if table is not None and table.title == self.title else self.title


Block = (
    Words
    | Heading
    | Bullets
    | Missing
    | Grid
    | Grouped
    | Bars
    | Figure
    | Matrix
    | Steps
    | Index
    | Legend
    | Listing
    | Fold
)


@dataclass(frozen=True)
class Section:
    """A chapter: anchor, heading, and what stands in it."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Report:
    """All of it.

    Attributes:
        title: The heading of the whole.
        lead: What it is about, in a sentence or two.
        warning: What must be read first; empty for nothing.
        sections: The chapters.
        classes: Names and colours (``#rrggbb``) by class id.
        sources: Where the data comes from and who holds the rights, last of all.
    """

    title: str
    lead: str
    warning: str
    sections: tuple[Section, ...]
    classes: Mapping[str, str] = field(default_factory=dict)
    sources: str = ""
