"""A trained network as one file for other programs: ONNX or ``torch.export``, checked against the original.

The file takes what our images hold and does all that is done to them inside: no-data pixels are filled, digital numbers
become reflectance.
"""

from __future__ import annotations

import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from cropseg.core import storage
from cropseg.core.errors import ConfigError, MismatchError
from cropseg.core.progress import say, table
from cropseg.data.fill import NoData, model_input
from cropseg.learners.network import NeuralPredictor
from cropseg.predictor import ModelSpec
from cropseg.runs import Run

Format = Literal["onnx", "torch"]
FORMATS: Final = (*get_args(Format), "both")
SUFFIXES: Final[Mapping[str, str]] = {"onnx": ".onnx", "torch": ".pt2"}
AXES: Final[Sequence[Mapping[int, str]]] = ({0: "batch", 2: "height", 3: "width"}, {0: "batch"}, {})
"""Axes of the input whose length may stay open, tried in this order."""

TOLERANCE: Final = 1e-3
"""Largest difference of a logit, as a share of the largest logit where that is above 1."""

AGREEMENT: Final = 0.999
"""Least share of pixels whose class is the same; near ties are decided by rounding."""

Call = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Check:
    """How an exported file answers, compared with the network it was made of.

    Attributes:
        shapes: Shapes of the random inputs, (n, bands, height, width); each held pixels without data.
        difference: Largest absolute difference of a logit.
        largest: Largest absolute logit of the original.
        agreement: Share of pixels with the same class.
    """

    shapes: tuple[tuple[int, ...], ...]
    difference: float
    largest: float
    agreement: float

    @property
    def holds(self) -> bool:
        """Whether the file may pass for the network."""
        return self.difference <= TOLERANCE * max(1.0, self.largest) and self.agreement >= AGREEMENT


@dataclass(frozen=True)
class Exported:
    """One file that was written.

    Attributes:
        path: The file.
        format: ``onnx`` or ``torch``.
        dynamic: Axes whose length is open: of ``batch``, ``height``, ``width``.
        check: Its comparison with the original.
    """

    path: Path
    format: Format
    dynamic: tuple[str, ...]
    check: Check


class WholeModel(nn.Module):
    """A network with what is done to its input.

    Args:
        net: Logits of reflectance, in evaluation mode.
        nodata: What it sees where there is no data, see :func:`cropseg.data.fill.model_input`.
    """

    def __init__(self, net: nn.Module, nodata: NoData) -> None:
        super().__init__()
        self.net = net
        self.nodata: NoData = nodata

    def forward(self, images: Tensor) -> Tensor:
        """Logits float32 (N, classes, H, W) of float32 (N, bands, H, W), reflectance × 10000, 0 = no data."""
        x, _ = model_input(images, self.nodata)
        logits: Tensor = self.net(x)
        return logits


def export_run(run: Run, out: str | Path | None = None, format: str = "both") -> list[Exported]:
    """Write the network of a finished run as files for other programs, and say how well they agree with it.

    Args:
        run: The run.
        out: Folder for ``model.onnx`` and ``model.pt2``; None is ``export`` in the run's folder.
        format: ``onnx``, ``torch`` or ``both``.

    Returns:
        What was written.

    Raises:
        ConfigError: The format is unknown, the run is no network, or a package is missing.
        MismatchError: No way of exporting it gives what the network gives.
    """
    if format not in FORMATS:
        raise ConfigError("format of export", format, f"choose from {', '.join(FORMATS)}")
    # The name first: a forest takes a gigabyte to load.
    if run.loader != "cropseg.learners.network.load" or not isinstance(run.predictor, NeuralPredictor):
        remedy = (
            "use forest.skops with predict.py, or skops.io.load: ONNX Runtime takes five times as long for a forest"
        )
        raise ConfigError("only networks are exported; this run holds", run.model, remedy)
    wanted = [one for one in get_args(Format) if format in (one, "both")]
    if "onnx" in wanted:
        _need("onnx", "onnxruntime", "onnxscript")
    folder = Path(out) if out is not None else run.path / "export"
    predictor = run.predictor.to("cpu")
    model = WholeModel(predictor.net.eval(), predictor.spec.model["nodata"]).eval()
    programs: dict[int, ExportedProgram] = {}  # both formats are made of the same one, and tracing is slow
    done = [_export(model, run.spec, one, folder / f"model{SUFFIXES[one]}", programs) for one in wanted]
    table(
        f"{run.name}: exported and compared with the network on random pixels, a part of them without data",
        ["file", "MB", "open axes", "inputs compared", "largest difference of a logit", "same class"],
        [
            (
                one.path,
                f"{one.path.stat().st_size / 1e6:.1f}",
                ", ".join(one.dynamic) or "none",
                " ".join("×".join(map(str, shape)) for shape in one.check.shapes),
                f"{one.check.difference:.1e} of {one.check.largest:.1f}",
                f"{one.check.agreement:.4%}",
            )
            for one in done
        ],
    )
    return done


def metadata(spec: ModelSpec, dynamic: Sequence[str], window: int, check: Check) -> dict[str, Any]:
    """What stands in the file beside the weights: all that a caller must know of input and output."""
    offset = "left in, as in the training data" if spec.reading.get("boa_offset") == "ignore" else "removed"
    return {
        "input": f"float32 (batch, bands, height, width): surface reflectance × 10000 with the BOA offset {offset}; "
        "0 in any band = no data",
        "reading": dict(spec.reading),
        "normalisation": "inside: pixels without data are treated by the rule under nodata, then divided by 10000",
        "nodata": spec.model["nodata"],
        "output": "float32 (batch, classes, height, width): logits; their largest is the class",
        "bands": list(spec.bands),
        "taxonomy": spec.taxonomy.name,
        "classes": list(spec.taxonomy.names),
        "colors": [crop.color for crop in spec.taxonomy.classes],
        "resolution": spec.resolution,
        "training_window": spec.patch_size,
        "dynamic_axes": list(dynamic),
        "fixed_window": None if "height" in dynamic else window,
        "simulated": spec.simulated,
        "dataset": spec.dataset,
        "manifest_digest": spec.manifest_digest,
        "split": spec.split,
        "commit": spec.versions.get("commit", "unknown"),
        "versions": dict(spec.versions),
        "largest_difference": check.difference,
        "same_class": check.agreement,
    }


def _export(
    model: WholeModel, spec: ModelSpec, format: Format, path: Path, programs: dict[int, ExportedProgram]
) -> Exported:
    """Write one file, with as many open axes as give the network's answers."""
    window, bands = spec.patch_size, len(spec.bands)
    reasons: list[str] = []
    for attempt, axes in enumerate(AXES):
        names = tuple(axes.values())
        shapes = _shapes(window, bands, names)
        try:
            with _quiet():
                program = programs.get(attempt) or _program(model, axes, window, bands)
                programs[attempt] = program
                proto = _onnx(program, axes) if format == "onnx" else None
                call = _run_onnx(proto.SerializeToString()) if proto is not None else _run_torch(program)
                check = compare(model, call, shapes)
        # What exporters raise beyond these is not documented: UserError and OnnxExporterError are RuntimeErrors.
        except (RuntimeError, ValueError, TypeError, AssertionError, LookupError) as error:
            reasons.append(f"{'/'.join(names) or 'nothing'} open: {' '.join(str(error).split())[:160]}")
            continue
        if not check.holds:
            reasons.append(f"{'/'.join(names) or 'nothing'} open: a logit differs by {check.difference:.1e}")
            continue
        if reasons:
            say(f"{format}: {', '.join(names) or 'no axis'} left open; more was refused ({reasons[-1]})")
        about = metadata(spec, names, window, check)
        content = _torch_bytes(program, about) if proto is None else _onnx_bytes(proto, about)
        storage.write_bytes(path, content)
        return Exported(path, format, names, check)
    raise MismatchError(f"the network cannot be exported as {format}", reasons, "use predict.py, or another network")


def compare(original: Call, exported: Call, shapes: Sequence[tuple[int, ...]], seed: int = 0) -> Check:
    """Ask both on the same random pixels, a part of them without data.

    Args:
        original: The network with its input's treatment.
        exported: What was made of it.
        shapes: Of the inputs, (n, bands, height, width).
        seed: Of the pixels.
    """
    difference = largest = 0.0
    same = pixels = 0
    with torch.inference_mode():
        for index, shape in enumerate(shapes):
            images = random_images(shape, seed + index)
            expected, got = original(images), exported(images)
            if got.shape != expected.shape:
                return Check(tuple(shapes), math.inf, 0.0, 0.0)
            difference = max(difference, float((got - expected).abs().max()))
            largest = max(largest, float(expected.abs().max()))
            same += int((got.argmax(dim=1) == expected.argmax(dim=1)).sum())
            pixels += expected[:, 0].numel()
    return Check(tuple(shapes), difference if math.isfinite(difference) else math.inf, largest, same / max(pixels, 1))


def random_images(shape: tuple[int, ...], seed: int) -> Tensor:
    """Digital numbers as float32: uniform, with an empty border, scattered empty pixels, and empty single bands."""
    random = np.random.default_rng(seed)
    images = random.integers(1, 8000, shape).astype(np.float32)
    images[:, :, : shape[2] // 5, : shape[3] // 2] = 0
    images[:, :, -shape[2] // 4 :, -shape[3] // 3 :] = 0
    images[:, random.integers(shape[1])][random.random((shape[0], *shape[2:])) < 0.02] = 0
    return torch.from_numpy(images)


def _shapes(window: int, bands: int, dynamic: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Inputs to compare on: what may vary does, to odd sizes and to a batch of one."""
    if "height" in dynamic:
        odd = (2, bands, window + 21, window + 7)
        return ((1, bands, window, window), odd, (3, bands, window, 2 * window), (1, bands, 2 * window, 2 * window))
    return tuple((n, bands, window, window) for n in ((1, 3) if "batch" in dynamic else (1,)))


def _program(model: WholeModel, axes: Mapping[int, str], window: int, bands: int) -> ExportedProgram:
    # An example of odd and unequal sizes: an exporter takes equal ones for the same, and even ones for a rule.
    odd = "height" in axes.values()
    shape = (2 if axes else 1, bands, window + 5 if odd else window, window + 37 if odd else window)
    open_axes = {"images": dict.fromkeys(axes, Dim.DYNAMIC)}
    with torch.no_grad():
        return torch.export.export(model, (random_images(shape, 0),), dynamic_shapes=open_axes)


def _onnx(program: ExportedProgram, axes: Mapping[int, str]) -> Any:
    """The program as an ``onnx.ModelProto``."""
    made = torch.onnx.export(
        program,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes={"images": dict(axes)},
        dynamo=True,
        verbose=False,
    )
    if made is None:
        raise ValueError("the exporter gave nothing")
    return made.model_proto


def _run_torch(program: ExportedProgram) -> Call:
    """The program as it is after a way through a file."""
    content = io.BytesIO()
    torch.export.save(program, content)
    content.seek(0)
    found: Call = torch.export.load(content).module()
    return found


def _run_onnx(content: bytes) -> Call:
    import onnxruntime

    # ONNX Runtime's errors have no common root but Exception.
    state = onnxruntime.capi.onnxruntime_pybind11_state
    refusals = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.NotImplemented, state.RuntimeException)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # a refusal is an attempt that failed, told in our words
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except refusals as error:
        raise ValueError(f"ONNX Runtime does not load it: {error}") from error

    def call(images: Tensor) -> Tensor:
        try:
            return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
        except refusals as error:
            raise ValueError(f"ONNX Runtime does not take {tuple(images.shape)}: {error}") from error

    return call


def _onnx_bytes(proto: Any, about: Mapping[str, Any]) -> bytes:
    for key, value in about.items():
        proto.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    content: bytes = proto.SerializeToString()
    return content


def _torch_bytes(program: ExportedProgram, about: Mapping[str, Any]) -> bytes:
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={"cropseg.json": json.dumps(about, indent=2)})
    return content.getvalue()


def _need(*packages: str) -> None:
    from importlib.util import find_spec

    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ConfigError("ONNX needs packages that are not installed", missing, 'pip install "cropseg[export]"')


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the exporters say about themselves; errors come through."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
