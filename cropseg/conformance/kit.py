"""Holding any library's scores against the kit's cases (docs/conformance.md tells the format and the definitions)."""

from __future__ import annotations

import inspect
import math
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.progress import say, table

FOLDER: Final = Path(__file__).parent / "cases"
FORMAT: Final = 1
TOLERANCE: Final = 1e-6
"""Largest difference of two shares that are the same: float32 holds seven digits. Whole numbers must be equal."""

Mask = npt.NDArray[np.uint8]
Takes = Literal["masks", "confusion"]
Function = Callable[..., Mapping[str, Any]]

FAILURES: Final = (
    *(ValueError, TypeError, ArithmeticError, LookupError, RuntimeError, AssertionError, AttributeError),
    *(OSError, NameError, SyntaxError, MemoryError, ImportError, SystemExit),
)
"""What a module or function under test may raise without ending the kit, or passing for an answer."""


@dataclass(frozen=True)
class Case:
    """Two masks or a confusion matrix, and every score of it.

    Attributes:
        name: Its name.
        what: What it is there for.
        classes: Number of classes.
        background: Id of the background class.
        ignore: Truth value of the pixels to leave out.
        masks: Truth and prediction, uint8 of one shape; None where only the matrix is given.
        confusion: int64 (classes, classes), rows truth.
        expected: Scores by name: a number, a list a class, or None for 0 / 0 (in lists too).
    """

    name: str
    what: str
    classes: int
    background: int
    ignore: int
    masks: tuple[Mask, Mask] | None
    confusion: npt.NDArray[np.int64]
    expected: Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """One score of one case.

    Attributes:
        case: The case.
        score: The score's name.
        expected: What is right.
        got: What came; None may mean 0 / 0, see ``given``.
        given: Whether anything came.
        error: What the function raised instead of an answer; empty if it answered.
    """

    case: str
    score: str
    expected: Any
    got: Any = None
    given: bool = True
    error: str = ""

    @property
    def agrees(self) -> bool:
        """Whether what came is right."""
        return self.given and not self.error and same(self.got, self.expected)

    @property
    def differs(self) -> bool:
        """Whether something came and is wrong."""
        return bool(self.error) or (self.given and not same(self.got, self.expected))


def read_cases(folder: Path = FOLDER) -> list[Case]:
    """Every case of the kit, in order.

    Raises:
        InputError: A file is missing or of another format.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise InputError(f"no cases in {folder}", None, "install cropseg again")
    return [_read(file) for file in files]


def _read(path: Path) -> Case:
    data = storage.read_json(path)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise InputError(f"{path} is no case of format {FORMAT}", None, "install cropseg again")
    truth, prediction = data["truth"], data["prediction"]
    return Case(
        name=data["name"],
        what=data["what"],
        classes=data["classes"],
        background=data["background"],
        ignore=data["ignore"],
        masks=None if truth is None else (np.array(truth, dtype=np.uint8), np.array(prediction, dtype=np.uint8)),
        confusion=np.array(data["confusion"], dtype=np.int64),
        expected=data["expected"],
    )


def same(got: Any, expected: Any) -> bool:
    """Whether two scores are equal: NaN and None are 0 / 0, shares may differ by :data:`TOLERANCE`."""
    if isinstance(expected, list):
        values = _plain(got)
        return isinstance(values, list) and len(values) == len(expected) and all(map(same, values, expected))
    got = _plain(got)
    if isinstance(got, list):
        return False
    if got is None or expected is None:
        return got is None and expected is None
    if not isinstance(got, int | float):
        return False
    if isinstance(expected, int):
        # A whole number that came as a float must be that very number, so a rounded 2^53 + 1 is not.
        return bool(got == expected)
    return math.isclose(float(got), expected, rel_tol=0, abs_tol=TOLERANCE)


def _plain(value: Any) -> Any:
    """Numbers and lists of whatever arrays and tensors came; NaN becomes None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def run(function: Function, cases: Sequence[Case], takes: Takes) -> list[Finding]:
    """Ask a function about every case.

    Args:
        function: ``(truth, prediction, classes, ignore) -> scores`` or ``(confusion) -> scores``: a mapping of the
            kit's score names, any of them, to numbers, sequences or arrays.
        cases: The cases.
        takes: Which of the two.

    Returns:
        A finding for each case and score; cases that have no masks are not given to a function that takes them.

    Raises:
        InputError: The function returns no mapping, or a score that the kit does not know.
    """
    found: list[Finding] = []
    for case in cases:
        if takes == "masks" and case.masks is None:
            found += [Finding(case.name, score, expected, given=False) for score, expected in case.expected.items()]
            continue
        try:
            if takes == "confusion" or case.masks is None:
                answer = function(case.confusion.copy())
            else:
                truth, prediction = case.masks
                answer = function(truth.copy(), prediction.copy(), case.classes, case.ignore)
        except FAILURES as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            found += [Finding(case.name, score, expected, error=text) for score, expected in case.expected.items()]
            continue
        found += compare(case, answer)
    # Where it raised, it failed to give what it gives elsewhere.
    usual = {one.score for one in found if one.given and not one.error}
    return [
        replace(one, given=False, error="") if one.error and usual and one.score not in usual else one for one in found
    ]


def compare(case: Case, answer: object) -> list[Finding]:
    """Hold the scores that someone gave for a case against those expected.

    Raises:
        InputError: They are no mapping, or hold a score that the kit does not know.
    """
    if not isinstance(answer, Mapping):
        raise InputError("scores must come as a mapping of names to values", type(answer).__name__, "return a dict")
    unknown = [key for key in answer if key not in case.expected]
    if unknown:
        remedy = f"choose from {', '.join(case.expected)}"
        raise InputError("the kit has no score of that name", unknown[0], remedy)
    return [
        Finding(case.name, score, expected, answer.get(score), given=score in answer)
        for score, expected in case.expected.items()
    ]


def run_file(path: Path, cases: Sequence[Case]) -> list[Finding]:
    """Hold scores that another program wrote, JSON ``{case: {score: value}}``, against those expected.

    Raises:
        InputError: It holds something else, or a case or score that the kit does not know.
    """
    answers = storage.read_json(path)
    if not isinstance(answers, dict):
        raise InputError(f"{path} must hold an object of cases", type(answers).__name__, "see docs/conformance.md")
    if unknown := set(answers) - {case.name for case in cases}:
        raise InputError("the kit has no case of that name", sorted(unknown)[0], "take the names of the case files")
    return [finding for case in cases for finding in compare(case, answers.get(case.name, {}))]


def takes_of(function: Function) -> Takes:
    """What a function takes, told by its number of required parameters: one is a matrix, otherwise masks."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        found = inspect.signature(function).parameters.values()
    except ValueError:  # some compiled functions have none
        return "masks"
    return "confusion" if sum(p.kind in kinds and p.default is p.empty for p in found) == 1 else "masks"


def load(name: str) -> Function:
    """The function ``my_module:function``.

    Raises:
        ConfigError: It cannot be imported or called.
    """
    remedy = "name one that can be imported from here: my_module:function"
    if ":" not in name:
        raise ConfigError("a function is named my_module:function", name, remedy)
    try:
        function = pkgutil.resolve_name(name)
    except FAILURES as error:
        raise ConfigError(f"no function {name}", f"{type(error).__name__}: {error}", remedy) from error
    if not callable(function):
        raise ConfigError("this cannot be called", name, remedy)
    return function  # type: ignore[no-any-return]


def show(findings: Sequence[Finding]) -> bool:
    """Print a table case × score for each protocol and a line that counts; True if nothing differs."""
    scores = list(dict.fromkeys(one.score for one in findings if one.given or one.error))
    names = list(dict.fromkeys(one.case for one in findings if one.given or one.error))
    for title, crop in (("All valid pixels", False), ("Labelled crop pixels", True)):
        columns = [score for score in scores if score.startswith("crop_") is crop]
        if not columns:
            continue
        cells = {(one.case, one.score): _cell(one) for one in findings}
        table(title, ("case", *columns), [(name, *(cells[name, score] for score in columns)) for name in names])
    errors = {one.case: one.error for one in findings if one.error}
    for case, error in errors.items():
        say(f"{case}: {error}")
    for one in findings:
        if one.differs and not one.error and isinstance(one.expected, list):
            say(f"{one.case}, {one.score}: got {_short(one.got)}, expected {_short(one.expected)}")
    counts = [sum(test) for test in zip(*((one.agrees, one.differs, not one.given) for one in findings), strict=True)]
    if silent := {one.case for one in findings} - set(names):
        say(f"no score for {', '.join(sorted(silent))}")
    say("{} scores agree, {} differ, {} were not given".format(*counts))
    if not counts[0] and not counts[1]:
        raise InputError("not one score was given", None, "return a dict of the kit's score names, docs/conformance.md")
    return not counts[1]


def _cell(finding: Finding) -> str:
    if finding.error:
        return "error"
    if not finding.given:
        return "not given"
    if finding.agrees:
        return "agrees"
    if isinstance(finding.expected, list):
        return "differs, see below"
    return f"differs: {_short(finding.got)}, not {_short(finding.expected)}"


def _short(value: Any) -> str:
    value = _plain(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]"
    return "0/0" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
