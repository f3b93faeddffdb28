"""Words of a command line that can be told to be wrong before anything starts: text where a number stands, and such.

A config says by its own values what kind each option is of: a number, true or false, a list. What is null or a word
there may become anything, and is looked at by those who use it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString, Transformer
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cropseg.core.checks import whole
from cropseg.core.errors import ConfigError

WHOLE: Final = frozenset({
    "accumulate_grad_batches", "batch_size", "epochs", "every", "patience", "per_class_and_patch", "seed", "T_max",
    "update_every_n_steps", "workers",
})  # fmt: skip
"""Last parts of the names of options that are whole numbers, never null."""

WORDS: Final = frozenset({
    "init_from", "legend", "map", "out", "parcels", "product", "resume", "root", "run_dir", "sample", "title",
    "uri",
})  # fmt: skip
"""Last parts of the names of options that are words or null, most of them paths."""

ELSE: Final = frozenset({"devices", "trainer.devices", "trainer.deterministic"})
"""Options whose default does not tell all that they take."""


def check(conf: Path, name: str, words: Sequence[str]) -> None:
    """Refuse a word whose value is of another kind than the config's own.

    Args:
        conf: Folder of the configs.
        name: Of the root config.
        words: The command line without the script.

    Raises:
        ConfigError: Naming the option.
    """
    given = [word for word in words if word not in ("-m", "--multirun")]
    if any(word.startswith("-") for word in given):
        return  # help, or another place of the configs
    try:
        overrides = OverridesParser.create().parse_overrides(given)
        with initialize_config_dir(str(conf), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            groups = [one for one in overrides if loader.get_group_options(one.key_or_group)]
            elsewhere = any(one.key_or_group == "hydra.searchpath" for one in overrides)
            for one in () if elsewhere else groups:
                _check_choice(one, loader.get_group_options(one.key_or_group))
            plain = [one for one in overrides if one not in groups and not one.key_or_group.startswith("hydra")]
            if not plain:
                return
            defaults = compose(name, [word for one in groups if (word := _chosen(one))])
    except (HydraException, OmegaConfBaseException, OSError):
        return  # Hydra says it itself, once it reads them
    for one in plain:
        if one.is_delete() or one.key_or_group in ELSE:
            continue
        default = _default(defaults, one.key_or_group)
        for value in _values(one):
            remedy = _wrong(one.key_or_group.rpartition(".")[2], default, value)
            if remedy:
                raise ConfigError(f"option {one.key_or_group}", "null" if value is None else value, remedy)


def _check_choice(group: Override, options: Sequence[str]) -> None:
    """Refuse a list of choices that is empty or holds an unknown one: Hydra says neither in words that help."""
    for chosen in () if group.is_delete() else _values(group):
        unknown = [one for one in chosen if one not in options] if isinstance(chosen, list) else []
        if chosen == [] or unknown:
            remedy = f"choose from {', '.join(options)}"
            raise ConfigError(f"option {group.key_or_group}", unknown or "[]", remedy)


def _chosen(group: Override) -> str | None:
    """The words of a choice; of several in a sweep, the first."""
    if not group.is_sweep_override():
        return group.input_line
    if not group.is_choice_sweep():
        return None
    return f"{(group.input_line or '').partition('=')[0]}={next(iter(group.sweep_string_iterator()))}"


def _values(override: Override) -> Iterator[Any]:
    if override.is_choice_sweep():
        # Choices keep their quotes, values do not.
        for one in override.sweep_iterator(transformer=Transformer.identity):
            yield one.text if isinstance(one, QuotedString) else one
    elif not override.is_sweep_override():
        yield override.value()


def _default(config: DictConfig, key: str) -> Any:
    try:
        return OmegaConf.select(config, key)
    except OmegaConfBaseException:  # it refers to what is known only once the command runs
        return None


def _wrong(name: str, default: Any, value: Any) -> str:
    """What to give instead; empty where nothing is wrong, or where only those who use the value can tell."""
    if (isinstance(value, str) and "${" in value) or isinstance(value, dict):
        return ""
    if name in WORDS and (default is None or isinstance(default, str)):
        return "" if value is None or isinstance(value, str) else "give one word, in quotes if it is a number"
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "give true or false"
    if isinstance(default, int | float):
        if name in WHOLE and isinstance(default, int):
            return "" if whole(value) else "give a whole number"
        is_nan = isinstance(value, float) and math.isnan(value)
        return "" if value is None or (_is_number(value) and not is_nan) else "give a number"
    if isinstance(default, ListConfig):
        if isinstance(value, bool | int | float):
            return "give a list: [a,b]"
        if isinstance(value, list) and len(default) and all(_is_number(one) for one in default):
            wrong = any(isinstance(one, str) and "${" not in one for one in value)
            return "give a list of numbers: [1,2]" if wrong else ""
    if isinstance(default, DictConfig) and isinstance(value, bool | int | float):
        return f"give what is in it: {name}.<key>=…"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
