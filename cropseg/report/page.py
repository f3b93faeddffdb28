"""A report as one self-contained HTML page."""

from __future__ import annotations

import base64
import re
from typing import Final

import jinja2
import numpy as np
from markupsafe import Markup, escape

from cropseg.metrics import Confusion
from cropseg.report import figures
from cropseg.report.content import Picture, Report

RANGE: Final = re.compile(r"^(\S+) (\([^()]* … [^()]*\)|\[[^\[\]]*, [^\[\]]*\])$")
"""``mean (low … high)`` or ``value [lower, upper]``: the range is set smaller."""


def to_html(report: Report) -> str:
    """The page; it asks for nothing that is not in it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cropseg.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"address": address, "breakable": breakable, "cell": cell, "shares": shares}
    classes = {name.lower(): number for number, name in enumerate(report.classes)}
    return environment.get_template("report.html").render(
        report=report,
        kind_of=lambda block: type(block).__name__,
        row_class=lambda row: row_class(row, classes),
        class_of=lambda text: classes.get(str(text).lower(), ""),
        has_heads=lambda table: any(column.title for column in table.columns),
        unknown="#{:02x}{:02x}{:02x}".format(*figures.UNKNOWN),
        ramp=figures.CONFIDENCE,
    )


def address(picture: Picture) -> str:
    """The picture itself, as the address of an image."""
    form = "png" if picture.suffix == ".png" else "jpeg"
    return f"data:image/{form};base64,{base64.b64encode(picture.content).decode()}"


def cell(text: str) -> Markup:
    """A cell's text; of ``mean (low … high)`` the range is set apart."""
    if found := RANGE.match(text):
        mean, span = (escape(part.replace(" … ", "\u00a0… ")) for part in found.groups())
        return Markup('{} <span class="span">{}</span>').format(mean, span)
    return escape(text.replace(" … ", "\u00a0…\u00a0"))


def breakable(text: str) -> Markup:
    """A heading that may be broken behind each underscore, as names of models need."""
    return Markup(escape(text).replace("_", Markup("_<wbr>")))


def shares(confusion: Confusion) -> list[list[float | None]]:
    """Percent of each row; None in a row without truth pixels."""
    total = confusion.sum(axis=1, keepdims=True)
    share = np.divide(confusion * 100.0, total, out=np.full(confusion.shape, np.nan), where=total > 0)
    return [[None if np.isnan(value) else float(value) for value in row] for row in share]


def row_class(row: tuple[str, ...], classes: dict[str, int]) -> int | str:
    """Number of the one class that a row is about, by its first two cells; empty for none."""
    named = {classes[text.lower()] for text in row[:2] if text.lower() in classes}
    return named.pop() if len(named) == 1 else ""


def _luminance(colour: str) -> float:
    """Relative luminance 0 … 1 of ``#rrggbb`` (WCAG 2)."""
    parts = np.frombuffer(bytes.fromhex(colour[1:]), dtype=np.uint8) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
