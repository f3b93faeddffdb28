"""Where two runs differ: config, data, code and results side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cropseg.core.progress import say, table
from cropseg.runs import Run
from cropseg.scores import format_score

ABSENT: Final = "—"
_PLACES: Final = ("run_dir", "resume", "paths.")
"""Keys that say where things lie and nothing of what was learned."""


def facts(run: Run) -> dict[str, str]:
    """All that can differ between two runs, as text by key, sections in the order of the table.

    A reference in the config is followed where it can be: with ``seed=1`` every key that takes the seed differs.
    """
    options = {group: name for group, name in run.choices.items() if not group.startswith("hydra/")}
    found = {f"option {group}": "null" if name == "None" else name for group, name in options.items()}
    found |= {key: text for key, text in _flat(run.config).items() if not key.startswith(_PLACES)}
    spec = run.spec
    found |= {
        "data: name": spec.dataset,
        "data: manifest digest": spec.manifest_digest,
        "data: split": spec.split,
        "data: bands": " ".join(spec.bands),
        "data: classes": " ".join(spec.taxonomy.names),
        "data: resolution": f"{spec.resolution:g} m",
        "data: simulated": str(spec.simulated).lower(),
        "window": f"{spec.patch_size} px",
    }
    found |= {f"version: {name}": version for name, version in sorted(spec.versions.items())}
    score, epoch = run.validation.get("miou_present"), run.validation.get("epoch")
    if score is not None:
        found["validation miou_present"] = format_score(float(score))
    if epoch is not None:
        found["epoch"] = str(int(epoch) + 1)
    return found


def differences(a: Run, b: Run) -> list[tuple[str, str, str]]:
    """Key, value in ``a``, value in ``b``, wherever they differ; :data:`ABSENT` where one has no such key."""
    left, right = facts(a), facts(b)
    keys = [*left, *(key for key in right if key not in left)]
    rows = [(key, left.get(key, ABSENT), right.get(key, ABSENT)) for key in keys]
    return sorted((row for row in rows if row[1] != row[2]), key=lambda row: _section(row[0]))


def show(a: Run, b: Run) -> None:
    """Print the differences of two runs."""
    rows = differences(a, b)
    if not rows:
        say(f"{a.name} and {b.name} differ in nothing: config, data, versions and score are the same")
        return
    table(f"{len(rows)} differences", ["key", a.name, b.name], rows)


def _section(key: str) -> int:
    """Chosen options first, then config, data and versions, and results last."""
    heads = ("option ", "data: ", "window", "version: ", "validation ", "epoch")
    if key == "epochs":
        return 1
    found = [i for i, head in enumerate(heads) if key.startswith(head)]
    return 1 if not found else 0 if found[0] == 0 else found[0] + 1


def _flat(config: DictConfig) -> dict[str, str]:
    """Leaves of a config by dotted key."""
    found: dict[str, str] = {}

    def walk(node: Any, raw: Any, prefix: str) -> None:
        for key in raw:
            name = f"{prefix}{key}"
            try:
                value = node[key]
            except OmegaConfBaseException:  # a reference to what only Hydra knows
                found[name] = str(raw[key])
                continue
            if OmegaConf.is_dict(value) and isinstance(raw[key], str):
                continue  # a reference to a whole group, which has rows of its own
            if OmegaConf.is_dict(value) and len(value) and isinstance(raw[key], Mapping):
                walk(value, raw[key], f"{name}.")
            else:
                found[name] = _text(value, raw[key])

    walk(config, OmegaConf.to_container(config, resolve=False), "")
    return found


def _text(value: Any, raw: Any) -> str:
    """A leaf as YAML writes it, or as it stands in the file where a reference in it leads nowhere."""
    try:
        plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException:
        return str(raw)
    return "null" if plain is None else str(plain).lower() if isinstance(plain, bool) else str(plain)
