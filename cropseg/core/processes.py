"""Whether this process speaks and writes for its run, which several processes may share."""

from __future__ import annotations

import os
from typing import Final

RANKS: Final = ("RANK", "NODE_RANK", "LOCAL_RANK", "SLURM_PROCID")
"""Variables by which torchrun, Lightning and SLURM number the processes of a run; absent where there is but one."""


def is_first() -> bool:
    """Whether this is the only process of its run, or the first of several."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


def side_by_side() -> bool:
    """Whether other processes of this run start beside this one, as the tasks of ``srun`` do, and not after it."""
    return int(os.environ.get("SLURM_NTASKS", "1")) > 1
