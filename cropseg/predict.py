"""A crop map of a whole scene, window by window, as a Cloud-Optimised GeoTIFF in the taxonomy's colours.

Windows overlap and only the middle of each is kept: along each axis neighbours meet half-way through their overlap, and
the outermost reach to the scene's edge. Every pixel therefore comes from exactly one window, whatever the order, and at
least ``overlap / 2`` pixels away from its border unless the scene ends there. (Blending probabilities was the other
choice: it needs a float for every class and pixel of a row of windows, and labels near a border then depend on four.)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.enums import Resampling
from rasterio.errors import RasterioIOError

from cropseg.core import storage
from cropseg.core.bands import NODATA
from cropseg.core.errors import ConfigError, InputError, MismatchError, StorageError
from cropseg.core.labels import IGNORE
from cropseg.core.manifest import open_dataset
from cropseg.core.progress import say, table, track, warn
from cropseg.core.scene import SceneReader, UInt8Array, UInt16Array
from cropseg.core.taxonomy import Taxonomy
from cropseg.core.tiling import Window, starts
from cropseg.predictor import Predictor
from cropseg.runs import Run
from cropseg.scores import SIMULATED_NOTE

COG: Final = {"driver": "COG", "compress": "DEFLATE", "blocksize": 256, "overviews": "AUTO", "num_threads": 1}
"""Creation options; one thread, so that a map's bytes do not depend on the machine."""


@dataclass(frozen=True)
class CropMap:
    """What :func:`predict_scene` left behind.

    Attributes:
        path: The map: uint8, class ids, 255 where the scene has no data.
        quicklook: PNG of it with a legend.
        confidence: Percent of the winning class, uint8, 255 where the scene has no data; None if not asked for.
        pixels: Pixels per class id.
        without_data: Pixels without data.
    """

    path: Path
    quicklook: Path
    confidence: Path | None
    pixels: tuple[int, ...]
    without_data: int


def predict_scene(
    predictor: Predictor,
    scene: SceneReader,
    out: Path,
    *,
    window: int | None = None,
    overlap: int | None = None,
    batch_size: int = 4,
    confidence: bool = False,
    tags: Mapping[str, str] | None = None,
    simulated: bool | None = None,
) -> CropMap:
    """Map a scene.

    Memory holds one row of windows at a time. Nothing stands at ``out`` until the map is complete.

    Args:
        predictor: The model.
        scene: The image.
        out: Path of the map, ``.tif``; the quicklook and the confidence lie beside it.
        window: Window in pixels; None stands for the size that the model was trained on. A scene smaller than that is
            taken whole.
        overlap: Pixels that neighbouring windows share; None stands for a quarter of the window.
        batch_size: Windows at a time.
        confidence: Whether the winning class's probability is written too.
        tags: More tags for the file, such as the run's name.
        simulated: Whether the scene is simulated; None stands for what the model was trained on.

    Raises:
        ConfigError: Window, overlap or path are impossible.
        MismatchError: The scene's bands or resolution are not the model's.
    """
    spec = predictor.spec
    size = spec.patch_size if window is None else window
    shared = size // 4 if overlap is None else overlap
    if size < 1 or not 0 <= shared < size or batch_size < 1:
        raise ConfigError(
            "window, overlap and batch_size do not fit", (size, shared, batch_size), "0 ≤ overlap < window"
        )
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise ConfigError("a crop map is a GeoTIFF", str(out), "let out= end in .tif")
    _check_fits(predictor, scene)
    title = f"{scene.name}, {scene.acquired:%Y-%m-%d}"
    note = SIMULATED_NOTE if (spec.simulated if simulated is None else simulated) else ""
    described = {
        **_class_tags(spec.taxonomy),
        "PRODUCT": scene.name,
        "ACQUIRED": scene.acquired.isoformat(),
        "TRAINED_ON": spec.dataset,
        "MANIFEST_SHA256": spec.manifest_digest,
        "WINDOW": f"{size} px, overlap {shared} px, middle kept",
        **({"NOTE": note} if note else {}),
        **(tags or {}),
    }
    beside = out.with_name(f"{out.stem}_confidence{out.suffix}") if confidence else None
    counts = np.zeros(IGNORE + 1, dtype=np.int64)
    with ExitStack() as stack:
        labels_file = stack.enter_context(_raster(out, scene, described, spec.taxonomy))
        percent_file = None
        if beside is not None:
            percent = {"UNIT": "percent, probability of the mapped class"}
            percent_file = stack.enter_context(_raster(beside, scene, {**described, **percent}, None))
        for keep, labels, sure in _strips(predictor, scene, size, shared, batch_size, confidence=confidence):
            place = ((keep.row, keep.row + keep.height), (0, scene.grid.width))
            with _written(out):
                labels_file.write(labels, 1, window=place)
                if percent_file is not None:
                    percent_file.write(sure, 1, window=place)
            counts += np.bincount(labels.ravel(), minlength=IGNORE + 1)
        # QGIS and GDAL read class names from here: the GeoTIFF format itself has no place for them.
        storage.write_bytes(out.with_name(f"{out.name}.aux.xml"), _category_names(spec.taxonomy))
    picture = out.with_suffix(".png")
    quicklook(out, picture, spec.taxonomy, title=title, note=note)
    return CropMap(out, picture, beside, tuple(int(n) for n in counts[: len(spec.taxonomy)]), int(counts[IGNORE]))


def map_product(run: Run, scene: SceneReader, out: str | None, root: Path, **options: Any) -> CropMap:
    """Map a scene with a run's model and tell what came out.

    Args:
        run: The run.
        scene: The image.
        out: Path of the map; None stands for a name in ``<root>/outputs/maps``.
        root: The project's folder.
        options: Those of :func:`predict_scene`.
    """
    path = root / "outputs" / "maps" / f"{scene.name}_{run.name.replace('/', '_')}.tif" if out is None else Path(out)
    tags = {"RUN": run.name, "MODEL": run.model, **{f"VERSION_{k}": str(v) for k, v in run.spec.versions.items()}}
    result = predict_scene(run.predictor, scene, path, tags=tags, **options)
    hectares = (scene.grid.resolution / 100) ** 2
    total = max(sum(result.pixels), 1)
    rows = [
        (name, f"{n:,}", f"{n * hectares:,.1f}", f"{n / total:.1%}")
        for name, n in zip(run.spec.taxonomy.names, result.pixels, strict=True)
    ]
    title = f"Mapped pixels of {scene.name} (counted, no estimate of crop areas)"
    table(title, ("class", "pixels", "hectares", "share"), rows)
    say(f"without data: {result.without_data:,} pixels")
    if run.spec.simulated:
        warn(f"the model learned from simulated data: {SIMULATED_NOTE}")
    for what, where in (("crop map", path), ("picture", result.quicklook), ("confidence", result.confidence)):
        if where is not None:
            say(f"{what}: {where}")
    return result


def reading_of(run: Run, chosen: Mapping[str, str | None]) -> dict[str, str]:
    """How to read a product for a run's model: as its training data was, unless something else is chosen.

    An offset of 1000 too many or too few changes every label, and nothing else would tell.

    Args:
        run: The run.
        chosen: Values by option; None stands for that of the training data, and for this project's usual one where
            the dataset does not tell it.
    """
    usual = {"resampling": "bilinear", "boa_offset": "apply", **run.spec.reading}
    for key, value in chosen.items():
        if value is not None and key in run.spec.reading and value != run.spec.reading[key]:
            warn(f"align.{key}={value}, but the model was trained with {run.spec.reading[key]}: labels may be wrong")
    return {**usual, **{key: str(value) for key, value in chosen.items() if value is not None}}


def tiles(length: int, size: int, overlap: int) -> list[tuple[int, int, int]]:
    """Windows along one axis and what is kept of each: (first pixel, first kept, end of kept), ascending.

    The kept parts join without gap or overlap from 0 to ``length``.
    """
    size = min(size, length)
    first = starts(length, size, max(1, size - overlap), border_aligned=True)
    cuts = [0, *((left + size + right) // 2 for left, right in pairwise(first)), length]
    return [(start, cuts[i], cuts[i + 1]) for i, start in enumerate(first)]


def find_product(product: str | None, cache: Path, data: Path) -> Path:
    """The SAFE folder that the option ``product`` names.

    Args:
        product: Path of a SAFE folder; or the name of a cached product, with or without ``.SAFE``; or the name of a
            dataset, which stands for the cached product that gave it most patches.
        cache: Folder of downloaded products.
        data: Folder of datasets.

    Raises:
        InputError: There is none; the message lists some that there are.
    """
    # A download writes this record last: without it the product is not whole. Simulated products have a cache inside.
    records = sorted((*cache.glob("*/complete.json"), *cache.glob("simulated-*/*/complete.json")))
    cached = {record.parent.name: record.parent / f"{record.parent.name}.SAFE" for record in records}
    shown = ", ".join(list(cached)[-5:]) or "none"
    remedy = f"give the path of a .SAFE folder, or one of the {len(cached)} products in {cache}: {shown}"
    if not product:
        raise InputError("product is not set", None, remedy)
    if Path(product).is_dir():
        return Path(product)
    name = product.removesuffix(".SAFE")
    if name in cached:
        return cached[name]
    for folder in (data / product, data / f"embedded_{product}"):
        if (folder / "manifest.parquet").is_file():
            used = open_dataset(folder).manifest["product"].to_pylist()
            found = [(used.count(one), one) for one in set(used) if one.removesuffix(".SAFE") in cached]
            if found:
                return cached[max(found)[1].removesuffix(".SAFE")]
    raise InputError("no such product", product, remedy)


def quicklook(path: Path, out: Path, taxonomy: Taxonomy, *, title: str, note: str = "", side: int = 1200) -> None:
    """Write a picture of a map with a legend of the classes on it.

    Args:
        path: The map.
        out: Path of the PNG.
        taxonomy: Its classes.
        title: Stands above the picture.
        note: Stands below it.
        side: The map's longest side in the picture, in pixels; a larger map is thinned out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    with rasterio.open(path) as dataset:
        step = max(1, -(-max(dataset.height, dataset.width) // side))
        shape = (-(-dataset.height // step), -(-dataset.width // step))
        labels = dataset.read(1, out_shape=shape, resampling=Resampling.nearest)
    palette = np.full((IGNORE + 1, 3), 255, dtype=np.uint8)
    palette[: len(taxonomy)] = taxonomy.colors
    figure = Figure(figsize=(10, 8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(palette[labels], interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=10)
    seen = [i for i in range(len(taxonomy)) if (labels == i).any()]
    colours = [np.array(taxonomy.colors[i]) / 255 for i in seen]
    handles = [Patch(fc=c, ec="0.4", label=taxonomy.names[i]) for i, c in zip(seen, colours, strict=True)]
    if (labels == IGNORE).any():
        handles.append(Patch(fc="white", ec="0.4", label="no data"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=10)
    if note:
        figure.supxlabel(note, fontsize=9, color="0.35")
    with storage.atomic_path(out) as temporary:
        figure.savefig(temporary, dpi=150, metadata={"Software": None})


def _check_fits(predictor: Predictor, scene: SceneReader) -> None:
    spec = predictor.spec
    if tuple(scene.bands) != tuple(spec.bands):
        remedy = f"open the product with the model's bands {list(spec.bands)}"
        raise MismatchError(f"scene {scene.name} has other bands than the model", list(scene.bands), remedy)
    if scene.grid.resolution != spec.resolution:
        remedy = f"open the product at the model's {spec.resolution:g} m"
        raise MismatchError(f"scene {scene.name} has another pixel size", scene.grid.resolution, remedy)


def _strips(
    predictor: Predictor, scene: SceneReader, size: int, overlap: int, batch_size: int, *, confidence: bool
) -> Iterator[tuple[Window, UInt8Array, UInt8Array]]:
    """Kept rows, top to bottom: their window, labels and percent of the winning class (empty if not asked for)."""
    grid = scene.grid
    rows, cols = tiles(grid.height, size, overlap), tiles(grid.width, size, overlap)
    height, width = min(size, grid.height), min(size, grid.width)
    strip = np.empty((len(scene.bands), 0, grid.width), dtype=np.uint16)
    end = 0  # of the rows in the strip
    for top, keep_top, keep_end in track(rows, f"mapping {scene.name}"):
        # Windows of neighbouring rows overlap: only what is new is read, since decoding JPEG 2000 is the dear part.
        new = scene.read(Window(end, 0, top + height - end, grid.width))
        strip = np.concatenate((strip[:, strip.shape[1] - (end - top) :], new), axis=1)
        end = top + height
        labels = np.full((keep_end - keep_top, grid.width), IGNORE, dtype=np.uint8)
        sure = np.full(labels.shape if confidence else (0, 0), IGNORE, dtype=np.uint8)
        inside = slice(keep_top - top, keep_end - top)
        empty = (strip == NODATA).any(axis=0)
        todo = [col for col in cols if not empty[inside, col[1] : col[2]].all()]
        for start in range(0, len(todo), batch_size):
            batch = todo[start : start + batch_size]
            images = np.stack([strip[:, :, left : left + width] for left, _, _ in batch])
            predicted, percent = _classify(predictor, images, confidence=confidence)
            for i, (left, keep_left, keep_right) in enumerate(batch):
                kept = (inside, slice(keep_left - left, keep_right - left))
                labels[:, keep_left:keep_right] = predicted[i][kept]
                if confidence:
                    sure[:, keep_left:keep_right] = percent[i][kept]
        labels[empty[inside]] = IGNORE
        if confidence:
            sure[empty[inside]] = IGNORE
        yield Window(keep_top, 0, keep_end - keep_top, grid.width), labels, sure


def _classify(predictor: Predictor, images: UInt16Array, *, confidence: bool) -> tuple[UInt8Array, UInt8Array]:
    """Labels (n, height, width) and, if asked for, the percent of the winning class."""
    if not confidence:
        return predictor.labels(images), np.empty(0, dtype=np.uint8)
    probabilities = predictor.probabilities(images)
    percent = np.rint(probabilities.max(axis=1) * 100).clip(0, 100).astype(np.uint8)
    return probabilities.argmax(axis=1).astype(np.uint8), percent


@contextmanager
def _raster(path: Path, scene: SceneReader, tags: Mapping[str, str], taxonomy: Taxonomy | None) -> Iterator[Any]:
    """Give a writer for one band of uint8 on the scene's grid; on success it becomes a Cloud-Optimised GeoTIFF.

    Args:
        path: Where it is to stand.
        scene: Gives the grid.
        tags: Metadata of the file.
        taxonomy: Gives the colours and makes overviews take the most frequent class; None for a quantity.
    """
    grid = scene.grid
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 1,
        "height": grid.height,
        "width": grid.width,
        "crs": grid.crs,
        "transform": Affine(*grid.transform),
        "nodata": IGNORE,
        "compress": "DEFLATE",
        "bigtiff": "IF_SAFER",
    }
    with storage.storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.with_name(f".{path.stem}.{os.getpid()}.plain.tif")
    try:
        with _written(path):
            dataset = rasterio.open(plain, "w", **profile)
        try:
            dataset.update_tags(**tags)
            dataset.set_band_description(1, "crop class" if taxonomy else "confidence")
            if taxonomy is not None:
                dataset.write_colormap(1, {i: (*color, 255) for i, color in enumerate(taxonomy.colors)})
            yield dataset
        finally:
            with _written(path):
                dataset.close()
        resampling = "MODE" if taxonomy else "AVERAGE"
        with storage.atomic_path(path) as temporary, _written(path):
            rasterio.shutil.copy(plain, temporary, **COG, overview_resampling=resampling)
    finally:
        for left in (plain, plain.with_name(f"{plain.name}.aux.xml")):
            left.unlink(missing_ok=True)


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Turn GDAL's refusal to write into a :class:`StorageError`."""
    try:
        yield
    except (RasterioIOError, CPLE_BaseError) as error:
        remedy = "free some space or choose another folder, and run the same command again"
        raise StorageError(f"cannot write {path}", str(error), remedy) from error


def _class_tags(taxonomy: Taxonomy) -> dict[str, str]:
    return {"TAXONOMY": taxonomy.name, **{f"CLASS_{i}": name for i, name in enumerate(taxonomy.names)}}


def _category_names(taxonomy: Taxonomy) -> bytes:
    """GDAL's sidecar (PAM) with the class names of band 1."""
    root = ElementTree.Element("PAMDataset")
    names = ElementTree.SubElement(ElementTree.SubElement(root, "PAMRasterBand", band="1"), "CategoryNames")
    for name in taxonomy.names:
        ElementTree.SubElement(names, "Category").text = name
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8")
    return text + b"\n"
