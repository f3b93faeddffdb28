"""What every test shares: where the real recorded data lies, and that nothing but loopback is reached."""

import os
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("MPLBACKEND", "Agg")
# One thread a process: two workers of pytest-xdist on two cores otherwise wait for each other's spinning threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config):
    config.option.allow_unix_socket = True
    config.option.allow_hosts = "127.0.0.1,::1,localhost"


@pytest.fixture(autouse=True)
def _no_command_left_behind():
    """Hydra keeps the config of the last command for the whole process: the next test must not see it."""
    yield
    if hydra := sys.modules.get("hydra.core.hydra_config"):
        hydra.HydraConfig.instance().cfg = None


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real recorded data; the test is skipped with its reason where it is absent."""
    path = Path(os.environ.get("CROPSEG_REAL_DATA", REPO.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"real recorded data is absent: {path} (set CROPSEG_REAL_DATA)")
    return path
