"""A report about finished runs: what they are, what they score, and what that may be taken for.

One self-contained HTML page, and the same as Markdown and LaTeX.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from cropseg.core import storage
from cropseg.core.errors import ConfigError
from cropseg.core.progress import say
from cropseg.report import beside, claims, panels, sections, statistics, tables
from cropseg.report.content import Report, Section
from cropseg.report.page import to_html
from cropseg.report.writers import Files, to_latex, to_markdown
from cropseg.runs import Run

SOURCES = (
    "Made by cropseg from stored confusion matrices. This page needs no connection. Contains modified Copernicus "
    "Sentinel data wherever pixels are measured. Class colours: EUCROPMAP, JRC, CC BY 4.0."
)


def build_report(
    runs: Sequence[Run], out: str | Path, *, title: str = "Crop segmentation report", panels: int = 4
) -> Path:
    """Write the report as ``.html``, ``.md`` and ``.tex``, and its score tables as CSV and Markdown beside.

    Runs that differ in their seed alone are shown together: means with ranges, curves with bands.

    Args:
        runs: The runs; their stored evaluations are shown, and none is computed anew.
        out: Path of the page, ``.html``.
        title: Its heading.
        panels: Patches shown of each evaluation set, chosen by their labels; the best, median and worst come on top.
            0 for no patch at all, which spares loading the models.

    Returns:
        ``out``.

    Raises:
        ConfigError: ``out`` is no HTML file, there is no run, or the runs' classes differ.
    """
    if not isinstance(out, str | Path):
        raise ConfigError("a report is an HTML page", out, "let out= end in .html")
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError("a report is an HTML page", str(out), "let out= end in .html")
    if out.is_dir():
        raise ConfigError("a report is written to a file", str(out), "name a file that ends in .html")
    if not runs:
        raise ConfigError("a report needs a run", None, "name a run's folder")
    if isinstance(panels, bool) or not isinstance(panels, int) or panels < 0:
        raise ConfigError("panels must be 0 or more", panels, "give the number of patches to show of each set")
    if len({run.spec.taxonomy.digest for run in runs}) != 1:
        raise ConfigError(
            "one report shows runs with the same classes", [run.name for run in runs], "report them one by one"
        )
    report = gather(runs, title=str(title or "Crop segmentation report"), panels=panels)
    # Markdown and LaTeX both need an address without letters of their own use.
    files = Files(f"{re.sub(r'[^A-Za-z0-9.-]+', '_', out.stem)}_files")
    texts = {".md": to_markdown(report, files), ".tex": to_latex(report, files)}
    for name, content in files.contents.items():
        storage.write_bytes(out.parent / files.folder / name, content)
    for suffix, text in texts.items():
        storage.write_bytes(out.with_suffix(suffix), text.encode())
    for what, written in (("scores", tables.scores(runs)), ("seeds", tables.seeds(runs))):
        if written is not None:
            storage.write_bytes(out.with_name(f"{out.stem}_{what}.csv"), written.to_csv().encode())
            storage.write_bytes(out.with_name(f"{out.stem}_{what}.md"), written.to_markdown().encode())
    page = to_html(report).encode()
    storage.write_bytes(out, page)
    say(f"report: {out} ({len(page) / 1e6:.1f} MB), and {out.stem}.md, {out.stem}.tex with {files.folder}/")
    return out


def gather(runs: Sequence[Run], *, title: str, panels: int) -> Report:
    """All that the report holds; see :func:`build_report`."""
    found = [sections.summary(runs), sections.scores(runs), sections.classes(runs), statistics.section(runs)]
    if panels:
        found.append(_maps(runs, panels))
    found += [sections.confusion(runs), sections.training(runs), sections.data(runs)]
    found.append(beside.figures_section(runs, found))
    found.append(beside.tables_section(runs))
    found.append(sections.described(runs))
    models, classes = len(sections.groups(runs)), runs[0].spec.taxonomy.classes
    names = ", ".join(dict.fromkeys(run.spec.dataset for run in runs))
    again = f" ({len(runs)} trained runs)" if len(runs) > models else ""
    lead = (
        f"How well {'one model' if models == 1 else f'{models} models'}{again} map{'s' if models == 1 else ''} land, "
        f"pixel by pixel, into {len(classes)} classes. Training data: {names}."
    )
    warning = (
        "Some of the pixels were made by a simulation, not measured by a satellite. Scores that rest on them show "
        "that the software works; they say nothing about real fields. They are marked simulated throughout."
        if claims.simulated(runs)
        else ""
    )
    colours = {crop.name: f"#{crop.color.lower()}" for crop in classes}
    return Report(title, lead, warning, tuple(found), colours, SOURCES)


def _maps(runs: Sequence[Run], count: int) -> Section:
    found = panels.galleries(runs, None, count)
    return beside.maps(found, seeds=any(len(group) > 1 for _, group in sections.groups(runs)))
