r"""Tables and text as LaTeX: booktabs, whatever stands in the cells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

PACKAGES: Final = ("array", "booktabs", "graphicx")
"""What a document must load beside a text font with the letters used."""

WIDE: Final = 36
"""Characters from which on a column of words is broken into lines."""

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
    """A floating table, made as narrow as the text where it is wider.

    Args:
        title: Its caption; empty for none.
        columns: Heading of each column, and whether it holds words (set left) rather than numbers (set right).
        rows: Cells.
        notes: Stand below in small print; empty ones are left out.
        label: What it is referred to by; empty for none.
    """
    layout = "".join(_kind(words, [row[i] for row in rows]) for i, (_, words) in enumerate(columns))
    heads = [[name for name, _ in columns]] if any(name for name, _ in columns) else []
    lines = [
        r"\begin{table}[htbp]",
        r"\centering",
        *_caption(title),
        *([rf"\label{{{label}}}"] if label else []),
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{layout}}}",
        r"\toprule",
        *(f"{_row(head)}\n\\midrule" for head in heads),
        *(_row(row) for row in rows),
        r"\bottomrule",
        r"\end{tabular}}",
        *(rf"\par\smallskip{{\footnotesize {escape(note)}\par}}" for note in notes if note),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _caption(title: str) -> list[str]:
    """The caption; one that opens with ``Table 7.`` keeps that number, which LaTeX puts before it."""
    if not title:
        return []
    number, rest = re.fullmatch(r"(?:Table (\d+)\. )?(.*)", title, re.DOTALL).groups()  # type: ignore[union-attr]
    return [*([rf"\setcounter{{table}}{{{int(number) - 1}}}"] if number else []), rf"\caption{{{escape(rest)}}}"]


def _kind(words: bool, cells: Sequence[str]) -> str:
    if not words:
        return "r"
    return r">{\raggedright\arraybackslash}p{6cm}" if max(map(len, cells), default=0) > WIDE else "l"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(escape(cell) for cell in cells) + r" \\"
