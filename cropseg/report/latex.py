r"""Tables and text as LaTeX: booktabs, whatever stands in the cells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

PACKAGES: Final = ("array", "booktabs", "longtable")
"""What a document must load beside a text font with the letters used."""

LINE: Final = 110
"""Letters that a line of a table has room for; wider tables are set smaller."""

MOST_WORDS: Final = 40
MOST_NUMBERS: Final = 24
"""Letters from which on a column of words, or of numbers, is broken into lines."""

LATIN: Final = 0x17F
"""Last letter of what the usual fonts have all of."""

KNOWN: Final = frozenset("‐‑‒–—‘’‚“”„†‡•…‰‹›€™−")

SPECIAL: Final = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
    # After the end of a row they would be taken for its options.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "±": r"$\pm$",
    "−": "$-$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "≈": r"$\approx$",
    "→": r"$\rightarrow$",
    "Σ": r"$\Sigma$",
    "κ": r"$\kappa$",
    "²": r"\textsuperscript{2}",
    "\N{NO-BREAK SPACE}": "~",
}
"""What a character becomes."""


def escape(text: str) -> str:
    """``text`` as LaTeX shows it: special characters tamed, white space made one space."""
    plain = re.sub(r"[ \x00-\x1f\x7f]+", " ", text)
    # Two hyphens would become a dash.
    shown = "".join(SPECIAL.get(letter, letter) for letter in plain.replace("--", "-\x00-").replace("--", "-\x00-"))
    return shown.replace("\x00", "{}")


def table(
    title: str,
    columns: Sequence[tuple[str, bool]],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str] = (),
    label: str = "",
) -> str:
    """A table as wide as the text at most, which breaks over pages; its columns break their words.

    Args:
        title: Its caption; empty for none. One that opens with ``Table 7.`` keeps that number.
        columns: Heading of each column, and whether it holds words (set left) rather than numbers (set right).
        rows: Cells.
        notes: Stand below in small print; empty ones are left out.
        label: What a numbered one is referred to by; empty for none.
    """
    needs = [_need(name, words, [row[i] for row in rows]) for i, (name, words) in enumerate(columns)]
    whole = max(sum(needs), LINE)
    layout = "".join(
        rf">{{\ragged{'right' if words else 'left'}\arraybackslash}}"
        rf"p{{\dimexpr {need / whole:.4f}\linewidth-2\tabcolsep\relax}}"
        for need, (_, words) in zip(needs, columns, strict=True)
    )
    number, rest = re.fullmatch(r"(?:Table (\d+)\. )?(.*)", title, re.DOTALL).groups()  # type: ignore[union-attr]
    heads = [_row([name for name, _ in columns]), r"\midrule"] if any(name for name, _ in columns) else []
    size = r"\tiny" if whole > LINE else r"\scriptsize"
    named = rf"\label{{{label}}}" if label else ""
    above = rf"\textbf{{{escape(title)}}}\nopagebreak" if title else ""
    first = [rf"\caption{{{escape(rest)}}}{named}\\*", r"\toprule", *heads, r"\endfirsthead"] if number else []
    lines = [
        rf"\setcounter{{table}}{{{int(number) - 1}}}" if number else above,
        f"{{{size}",
        rf"\begin{{longtable}}{{{layout}}}",
        *first,
        r"\toprule",
        *heads,
        r"\endhead",
        *(_row(row) for row in rows),
        r"\bottomrule",
        r"\end{longtable}}",
        *(rf"{{\footnotesize {escape(note)}\par}}" for note in notes if note),
    ]
    return "\n".join(line for line in lines if line) + "\n"


def _need(head: str, words: bool, cells: Sequence[str]) -> int:
    """Letters that a column should have room for: its longest cell within reason, and never less than a word of it."""
    longest = max((len(cell) for cell in cells), default=0)
    word = max((len(word) for text in (head, *cells) for word in re.split(r"[\s_/]+", text)), default=0)
    return max(min(longest, MOST_WORDS if words else MOST_NUMBERS), min(word, MOST_WORDS)) + 2


def _row(cells: Sequence[str]) -> str:
    # Names of files and options have no spaces to break at.
    shown = (escape(cell).replace(r"\_", r"\_\allowbreak{}").replace("/", r"/\allowbreak{}") for cell in cells)
    return " & ".join(shown) + r" \\"


def unknown_letters(text: str) -> list[str]:
    """Letters that a plain pdfLaTeX has no glyph for, which it would stop at."""
    return sorted({letter for letter in text if ord(letter) > LATIN and letter not in KNOWN})
