"""Runs the kit: python -m cropseg.conformance my_module:function; see docs/conformance.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cropseg.conformance import kit, libraries
from cropseg.core import storage
from cropseg.core.errors import CropsegError, InputError
from cropseg.core.progress import say, warn


def main(arguments: list[str] | None = None) -> int:
    """0 if nothing differs, 1 if something does, 2 if the kit could not be run."""
    parser = argparse.ArgumentParser(prog="python -m cropseg.conformance", description=__doc__)
    parser.add_argument(
        "what",
        help="my_module:function that gives scores; a .json file of scores that another program wrote; `cases`: say "
        "where the case files are; `libraries`: a table of what other libraries' calls mean",
    )
    parser.add_argument("--takes", choices=["masks", "confusion"], help="what the function takes, if it cannot be told")
    parser.add_argument("--write", type=Path, help="with `libraries`: put the tables into this Markdown page")
    chosen = parser.parse_args(arguments)
    try:
        return _run(chosen)
    except CropsegError as error:
        warn(f"error: {' '.join(str(error).split())}")
        return 2


def _run(chosen: argparse.Namespace) -> int:
    cases = kit.read_cases()
    if chosen.what == "cases":
        say(f"{len(cases)} cases in {kit.FOLDER}")
        for case in cases:
            say(f"{case.name}: {case.what}")
        return 0
    if chosen.what == "libraries":
        if chosen.write is not None and not chosen.write.is_file():
            raise InputError("no such page", str(chosen.write), "give one that has the marks of docs/conformance.md")
        content = libraries.markdown(cases)
        if chosen.write is None:
            say(content)
        else:
            page = chosen.write.read_text(encoding="utf-8")
            storage.write_bytes(chosen.write, libraries.replaced(page, content).encode())
        return 0
    if chosen.what.endswith(".json"):
        return 0 if kit.show(kit.run_file(Path(chosen.what), cases)) else 1
    sys.path.insert(0, "")  # a module of the folder that this was started in
    function = kit.load(chosen.what)
    return 0 if kit.show(kit.run(function, cases, chosen.takes or kit.takes_of(function))) else 1


if __name__ == "__main__":
    sys.exit(main())
