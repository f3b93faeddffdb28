"""A report as Markdown and as LaTeX; its pictures lie in a folder beside."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from cropseg.report.content import (
    Bars,
    Block,
    Bullets,
    Figure,
    Fold,
    Grid,
    Grouped,
    Heading,
    Index,
    Legend,
    Listing,
    Matrix,
    Missing,
    Picture,
    Report,
    Steps,
    Words,
)
from cropseg.report.latex import escape, unknown_letters
from cropseg.report.page import shares
from cropseg.report.tables import Column, Table

ABREAST: Final = 4
"""Pictures in a row of a LaTeX figure."""


@dataclass
class Files:
    """Names of the pictures' files, as they are met.

    Attributes:
        folder: Of the files, relative to the text.
        contents: Content by file name.
    """

    folder: str
    contents: dict[str, bytes] = field(default_factory=dict)

    def name(self, picture: Picture) -> str:
        """Address of a picture, relative to the text."""
        for known, content in self.contents.items():
            if content is picture.content:
                return f"{self.folder}/{known}"
        new = f"{len(self.contents) + 1:03d}{picture.suffix}"
        self.contents[new] = picture.content
        return f"{self.folder}/{new}"


def to_markdown(report: Report, files: Files) -> str:
    """The report as Markdown (GitHub's tables)."""
    lines = [f"# {_plain(report.title)}", _plain(report.lead)]
    if report.warning:
        lines.append(f"> **Simulated data.** {_plain(report.warning)}")
    for section in report.sections:
        lines.append(f"## {_plain(section.title)}")
        for block in section.blocks:
            lines += _markdown(block, report, files)
    lines += ["---", _plain(report.sources)]
    return "\n\n".join(line for line in lines if line) + "\n"


def _markdown(block: Block, report: Report, files: Files) -> Iterator[str]:
    match block:
        case Words() | Missing():
            yield _plain(block.text)
        case Heading():
            yield f"### {_plain(block.text)}"
        case Bullets():
            yield "\n".join(f"- {_plain(item)}" for item in block.items)
        case Grid() | Grouped() | Bars():
            yield _escaped(block.table).to_markdown().rstrip()
        case Matrix():
            yield _escaped(_percent(block)).to_markdown().rstrip()
        case Figure():
            yield f"**{_plain(block.title)}**"
            shown = (f"![{_plain(one.alt)}]({files.name(one)})<br>{_plain(one.caption)}" for one in block.pictures)
            cells = " | ".join(shown)
            count = len(block.pictures)
            yield "\n".join([f"|{'  |' * count}", f"|{'---|' * count}", f"| {cells} |"])
            yield _plain(block.note)
        case Steps():
            yield f"**{_plain(block.title)}**"
            yield "\n".join(
                f"{i}. **{_plain(name)}**{f': {_plain(told)}' if told else ''}"
                for i, (name, told) in enumerate(block.steps, 1)
            )
            yield _plain(block.note)
        case Index():
            yield "\n".join(
                f"- {_plain(name)}: {_plain(what)}{f' ({_plain(reason)})' if reason else ''}"
                for name, what, _, reason in block.entries
            )
        case Legend():
            yield "Classes: " + ", ".join(f"{_plain(name)} ({colour})" for name, colour in report.classes.items())
        case Listing():
            fence = "`" * (max((len(found) for found in re.findall("`+", block.text)), default=2) + 1)
            yield f"**{_plain(block.title)}**\n\n{fence}yaml\n{block.text.rstrip()}\n{fence}"
        case Fold():
            if block.unfolded:
                yield f"**{_plain(block.unfolded)}**"
            for one in block.blocks:
                yield from _markdown(one, report, files)


def _plain(text: str) -> str:
    """Text that no Markdown reader takes for markup."""
    return re.sub(r"([\\`*_\[\]<>|~])", r"\\\1", text)


def _escaped(table: Table) -> Table:
    """The table with its words escaped; bars are escaped where it is written."""

    def safe(text: str) -> str:
        return re.sub(r"([\\`*_\[\]<>~])", r"\\\1", text)

    columns = tuple(Column(safe(one.title), safe(one.rule), text=one.text) for one in table.columns)
    rows = tuple(tuple(safe(cell) for cell in row) for row in table.rows)
    return Table(safe(table.title), columns, rows, safe(table.note))


def _percent(matrix: Matrix) -> Table:
    """A confusion matrix as a table of percent."""
    rows = tuple(
        (name, *("" if value is None or value < 0.5 else f"{value:.0f}" for value in row))
        for name, row in zip(matrix.names, shares(matrix.confusion), strict=True)
    )
    columns = (Column("truth, then predicted", text=True), *(Column(name) for name in matrix.names))
    return Table(f"{matrix.title} (percent of the row)", columns, rows, matrix.note)


PREAMBLE: Final = r"""\documentclass[10pt,a4paper]{article}
\usepackage{iftex}
\ifPDFTeX\usepackage[T1]{fontenc}\usepackage[utf8]{inputenc}\fi
\usepackage{lmodern,textcomp,amsmath,amssymb}
\usepackage[margin=22mm]{geometry}
\usepackage{array,booktabs,longtable,graphicx,xcolor,hyperref}
\hypersetup{colorlinks,allcolors=black}
\setlength{\parindent}{0pt}\setlength{\parskip}{.5em}\setlength{\tabcolsep}{4pt}
"""


def to_latex(report: Report, files: Files) -> str:
    """The report as a LaTeX document that needs nothing beyond a usual installation and its pictures."""
    lines = [
        rf"\title{{{escape(report.title)}}}" + "\n" + r"\date{}" + "\n" + r"\begin{document}",
        r"\maketitle",
        escape(report.lead),
    ]
    if report.warning:
        lines.append(rf"\textbf{{Simulated data.}} {escape(report.warning)}")
    lines.append(r"\tableofcontents")
    for section in report.sections:
        # Floats of the section before are set first: LaTeX holds back but a few.
        lines.append(rf"\clearpage\section{{{escape(section.title)}}}")
        for block in section.blocks:
            lines += _latex(block, report, files)
    lines += [r"\medskip\hrule\medskip", rf"{{\small {escape(report.sources)}}}", r"\end{document}"]
    text = "\n\n".join(line for line in lines if line) + "\n"
    # pdfLaTeX stops at a letter that its fonts lack: it gets a question mark.
    missing = "".join(rf"\DeclareUnicodeCharacter{{{ord(one):04X}}}{{?}}" for one in unknown_letters(text))
    return PREAMBLE + (f"\\ifPDFTeX{missing}\\fi\n" if missing else "") + text


def _latex(block: Block, report: Report, files: Files) -> Iterator[str]:
    match block:
        case Words() | Missing():
            yield escape(block.text)
        case Heading():
            yield rf"\subsection*{{{escape(block.text)}}}"
        case Bullets():
            yield _items(escape(item) for item in block.items)
        case Grid() if block.anchor.startswith("table-"):
            yield block.table.to_latex(block.anchor).rstrip()
        case Grid() | Grouped() | Bars():
            yield block.table.to_latex().rstrip()
        case Matrix():
            yield _percent(block).to_latex().rstrip()
        case Figure():
            yield _latex_figure(block, files)
        case Steps():
            steps = (rf"\textbf{{{escape(name)}}}{f': {escape(told)}' if told else ''}" for name, told in block.steps)
            yield rf"\textbf{{{escape(block.title)}}}"
            yield _items(steps, "enumerate")
            yield escape(block.note)
        case Index():
            yield _items(
                f"{escape(name)}: {escape(what)}{f' ({escape(reason)})' if reason else ''}"
                for name, what, _, reason in block.entries
            )
        case Legend():
            yield "Classes: " + ", ".join(
                rf"\fcolorbox[HTML]{{888888}}{{{colour[1:].upper()}}}{{\rule{{1ex}}{{0pt}}}} {escape(name)}"
                for name, colour in report.classes.items()
            )
        case Listing():
            # Verbatim ends where the text says so itself: a line that does is no line of YAML.
            text = block.text.replace(r"\end{verbatim}", r"\end {verbatim}").rstrip()
            yield rf"\textbf{{{escape(block.title)}}}"
            yield f"{{\\scriptsize\n\\begin{{verbatim}}\n{text}\n\\end{{verbatim}}\n}}"
        case Fold():
            if block.unfolded:
                yield rf"\textbf{{{escape(block.unfolded)}}}"
            for one in block.blocks:
                yield from _latex(one, report, files)


def _items(items: Iterator[str], kind: str = "itemize") -> str:
    return "\n".join([rf"\begin{{{kind}}}", *(rf"\item {item}" for item in items), rf"\end{{{kind}}}"])


def _latex_figure(block: Figure, files: Files) -> str:
    """Pictures in rows, a caption below each; no float, so that they stand where they belong."""
    abreast = min(ABREAST if block.patch else 2, len(block.pictures))
    width = 0.96 / abreast - 0.01
    cells = [
        rf"\begin{{minipage}}[t]{{{width:.3f}\linewidth}}\includegraphics[width=\linewidth]{{{files.name(one)}}}\\"
        rf"{{\footnotesize {escape(one.caption)}}}\end{{minipage}}"
        for one in block.pictures
    ]
    rows = ["\\hfill\n".join(cells[i : i + abreast]) for i in range(0, len(cells), abreast)]
    parts = [rf"\textbf{{{escape(block.title)}}}\nopagebreak", *rows, escape(block.note)]
    return "\n\n".join(part for part in parts if part)
