"""Typed errors: each says what is wrong, which value it was, and what to do about it."""

from __future__ import annotations


class CropsegError(Exception):
    """Root of every error that a user can mend.

    The root scripts print it as one line and exit with :attr:`exit_code`; a traceback is kept for defects of ours.

    Args:
        what: What is wrong, naming the thing (a file, an option, a column).
        value: The value that was found, shown by ``repr``; None if there is none to show.
        remedy: What the user can do about it.
    """

    exit_code = 2

    def __init__(self, what: str, value: object = None, remedy: str = "") -> None:
        self.what = what
        self.value = value
        self.remedy = remedy
        text = what if value is None else f"{what}: {value!r}"
        super().__init__(f"{text}. {remedy}" if remedy else text)

    def __reduce__(self) -> tuple[type[CropsegError], tuple[str, object, str]]:
        """Pickle by arguments, so that worker processes can raise it across."""
        return type(self), (self.what, self.value, self.remedy)


class ConfigError(CropsegError):
    """An option that does not exist, does not fit the others, or has an impossible value."""


class InputError(CropsegError):
    """A file or table of the user's that is missing, unreadable, or not what its place asks for."""


class SourceError(CropsegError):
    """A service (catalogue, download, login) that refuses, fails or answers something unusable."""


class StorageError(CropsegError):
    """The disk: full, read-only, or not ours."""


class MismatchError(CropsegError):
    """A run and a dataset that do not belong together (bands, taxonomy, scaling, resolution)."""


class TrainingError(CropsegError):
    """Training that cannot go on, such as at a loss that is no number."""
