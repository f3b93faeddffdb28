import json
from types import SimpleNamespace

import pytest

from cropseg.learners import hardware


def test_what_this_machine_tells_of_itself():
    found = hardware.machine()
    assert found["cpu_threads"] >= 1
    assert found["cpu"]
    assert found["system"]
    assert all(found.values())


def test_cores_are_told_from_threads(tmp_path, monkeypatch):
    # Two packages of two cores with two threads each.
    lines = [
        f"processor : {n}\nmodel name : Some CPU @ 3.20GHz\nphysical id : {n // 4}\ncore id : {n % 2}\n"
        for n in range(8)
    ]
    (tmp_path / "cpuinfo").write_text("\n".join(lines))
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "cpuinfo")
    assert hardware.machine()["cpu_cores"] == 4
    assert hardware.machine()["cpu"] == "Some CPU @ 3.20GHz"
    (tmp_path / "cpuinfo").write_text("processor : 0\nBogoMIPS : 50.00\n")  # as on ARM
    assert "cpu_cores" not in hardware.machine()
    assert hardware.machine()["cpu"]
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "none")
    assert "cpu_cores" not in hardware.machine()


def test_a_gpu_is_told_by_name_and_memory(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(name="Some GPU", total_memory=11 * 2**30)
    )
    found = hardware.gpu("cuda:1")
    assert (found["gpu"], found["gpu_memory_gib"]) == ("Some GPU", 11.0)
    assert hardware.gpu("cpu") == {}


def test_what_is_not_known_is_left_out(tmp_path):
    hardware.record(tmp_path, seconds=1.234567, epochs=3)
    found = json.loads((tmp_path / hardware.FILE).read_text())
    assert (found["device"], found["processes"], found["seconds"], found["epochs"]) == ("cpu", 1, 1.23, 3)
    assert "gpu" not in found
    hardware.record(tmp_path)
    assert not {"seconds", "epochs"} & set(json.loads((tmp_path / hardware.FILE).read_text()))
