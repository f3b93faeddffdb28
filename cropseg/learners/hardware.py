"""On what a model was trained, and how long it took: ``hardware.json`` of the run folder (the like of Table 6)."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any, Final

from cropseg.core import storage

FILE: Final = "hardware.json"

CPUINFO: Final = Path("/proc/cpuinfo")

GIB: Final = 2**30


def machine() -> dict[str, Any]:
    """Processor, memory and system of this machine; what it does not tell is left out. No name of it is recorded."""
    cores, model = _processor()
    found: dict[str, Any] = {
        "cpu": model,
        "cpu_cores": cores,
        "cpu_threads": os.cpu_count(),
        "threads_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "ram_gib": _ram(),
        "system": _system(),
    }
    return {name: value for name, value in found.items() if value}


def gpu(device: str) -> dict[str, Any]:
    """Name, memory and driver of the GPU called ``device``, such as ``cuda:0``; empty for other devices."""
    if not device.startswith("cuda"):
        return {}
    import torch

    properties = torch.cuda.get_device_properties(device)
    driver = Path("/sys/module/nvidia/version")
    return {
        "gpu": properties.name,
        "gpu_memory_gib": round(properties.total_memory / GIB, 1),
        "cuda": str(torch.version.cuda),
        **({"gpu_driver": driver.read_text(encoding="utf-8").strip()} if driver.is_file() else {}),
    }


def record(
    run_dir: Path, *, device: str = "cpu", processes: int = 1, seconds: float | None = None, epochs: int | None = None
) -> None:
    """Write ``hardware.json``.

    Args:
        run_dir: The run folder.
        device: What was trained on: ``cpu``, ``cuda:0``, ``mps:0``.
        processes: Processes that trained together.
        seconds: What training took, validations included; None if it went on from an earlier start, whose time is gone.
        epochs: Epochs that it ran; None for a model that has none.
    """
    training = {"seconds": None if seconds is None else round(seconds, 2), "epochs": epochs}
    content = {"device": device, "processes": processes, **machine(), **gpu(device)}
    content |= {name: value for name, value in training.items() if value is not None}
    storage.write_json(run_dir / FILE, content)


def _processor() -> tuple[int | None, str]:
    """Cores, and the processor's name."""
    if not CPUINFO.is_file():
        return None, platform.processor() or platform.machine()
    pairs = [line.split(":", 1) for line in CPUINFO.read_text(encoding="utf-8").splitlines() if ":" in line]
    lines = [(name.strip(), value.strip()) for name, value in pairs]
    name = next((value for key, value in lines if key == "model name"), platform.machine())
    # A core of each package; on processors that do not tell, none.
    packages = [value for key, value in lines if key == "physical id"]
    cores = [value for key, value in lines if key == "core id"]
    return (len(set(zip(packages, cores, strict=False))) or None), name


def _ram() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"
