"""Every option of every group of every root config composes, resolves, and names things that exist."""

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import OmegaConf

CONF = Path(__file__).resolve().parents[2] / "conf"
ROOTS = sorted(path.stem for path in CONF.glob("*.yaml"))


def groups_of(root):
    """Group -> (key to override it by, whether it takes a list), of the groups that a root config can choose from."""
    found = {}
    queue = [CONF / f"{root}.yaml"]
    while queue:
        path = queue.pop()
        content = yaml.safe_load(path.read_text())
        for entry in (content or {}).get("defaults", ()) if isinstance(content, dict) else ():
            if not isinstance(entry, dict):
                continue
            ((key, chosen),) = entry.items()
            key = key.removeprefix("optional ").strip()
            if key.startswith("override "):
                continue
            absolute = path.parent == CONF or key.startswith("/")
            group = key.lstrip("/").split("@")[0]
            if not absolute or not (CONF / group).is_dir() or group in found:
                continue
            package = key.split("@")[1].removeprefix("_global_.") if "@" in key else group
            found[group] = (group if package == group else f"{group}@{package}", isinstance(chosen, list))
            names = chosen if isinstance(chosen, list) else [chosen]
            queue += [p for name in names if name and (p := CONF / group / f"{name}.yaml").is_file()]
            queue += sorted((CONF / group).glob("*.yaml"))
    return found


def cases():
    for root in ROOTS:
        yield pytest.param(root, None, id=root)
        for group, (key, several) in groups_of(root).items():
            for path in sorted((CONF / group).glob("*.yaml")):
                choice = f"{key}=[{path.stem}]" if several else f"{key}={path.stem}"
                yield pytest.param(root, choice, id=f"{root}-{group}-{path.stem}")


def targets(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "_target_":
                yield value
            else:
                yield from targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets(value)


def given(node):
    """``node`` with every ``???``, which only the user can say, said."""
    if isinstance(node, dict):
        return {key: given(value) for key, value in node.items()}
    if isinstance(node, list):
        return [given(value) for value in node]
    return "given" if node == "???" else node


@pytest.mark.parametrize(("root", "choice"), list(cases()))
def test_option_composes_resolves_and_names_what_exists(root, choice, tmp_path):
    overrides = [choice] if choice else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(root, [*overrides, f"hydra.runtime.output_dir={tmp_path}"], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    raw = {key: value for key, value in OmegaConf.to_container(cfg, resolve=False).items() if key != "hydra"}
    plain = OmegaConf.to_container(OmegaConf.create(given(raw)), resolve=True)
    for name in targets(plain):
        assert callable(get_object(name)), name


def test_every_group_folder_is_reachable_from_a_root_config():
    folders = {
        path.relative_to(CONF).as_posix() for path in CONF.rglob("*") if path.is_dir() and any(path.glob("*.yaml"))
    }
    reachable = {group for root in ROOTS for group in groups_of(root)}
    assert folders - reachable == set()


def test_every_option_says_what_it_is_in_a_comment():
    silent = [str(path.relative_to(CONF)) for path in CONF.rglob("*.yaml") if "#" not in path.read_text()]
    assert not silent
