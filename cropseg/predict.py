"""A crop map of a whole scene as a Cloud-Optimised GeoTIFF in the taxonomy's colours.

How windows become a map is told in :mod:`cropseg.windows`.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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
from cropseg.core.checks import whole
from cropseg.core.errors import ConfigError, InputError, MismatchError, StorageError
from cropseg.core.labels import IGNORE
from cropseg.core.manifest import open_dataset
from cropseg.core.progress import say, table, warn
from cropseg.core.scene import ClassifiedScene, SceneReader
from cropseg.core.taxonomy import Taxonomy
from cropseg.devices import shared
from cropseg.predictor import Predictor
from cropseg.runs import Run
from cropseg.scores import SIMULATED_NOTE
from cropseg.tta import augmented
from cropseg.windows import Layout, strips

COG: Final = {"driver": "COG", "compress": "DEFLATE", "blocksize": 256, "overviews": "AUTO", "num_threads": 1}
"""Creation options; one thread, so that a map's bytes do not depend on the machine."""


@dataclass(frozen=True)
class CropMap:
    """What :func:`predict_scene` left behind.

    Attributes:
        path: The map: uint8, class ids, 255 where the scene has no data or its scene class was left out.
        quicklook: PNG of it with a legend.
        confidence: Percent of the winning class, uint8, 255 as in the map; None if not asked for.
        pixels: Pixels per class id.
        without_data: Pixels without data.
        masked: Pixels with data that were left out for their scene class (cloud, shadow, snow).
    """

    path: Path
    quicklook: Path
    confidence: Path | None
    pixels: tuple[int, ...]
    without_data: int
    masked: int = 0


def predict_scene(
    predictor: Predictor,
    scene: SceneReader,
    out: Path,
    *,
    window: int | None = None,
    overlap: int | None = None,
    blend: bool = False,
    batch_size: int = 4,
    confidence: bool = False,
    masked: Sequence[int] = (),
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
        overlap: Pixels that neighbouring windows share; None stands for half of the window if they are blended, else a
            quarter.
        blend: Whether probabilities of overlapping windows are averaged, instead of keeping the middle of each.
        batch_size: Windows at a time.
        confidence: Whether the winning class's probability is written too.
        masked: Scene classes (SCL) whose pixels become 255; a scene without scene classes is mapped whole.
        tags: More tags for the file, such as the run's name.
        simulated: Whether the scene is simulated; None stands for what the model was trained on.

    Raises:
        ConfigError: Window, overlap or path are impossible.
        MismatchError: The scene's bands or resolution are not the model's.
    """
    spec = predictor.spec
    for name, value in (("window", window), ("overlap", overlap), ("batch_size", batch_size)):
        if value is not None and not isinstance(value, int):
            raise ConfigError(f"map.{name} must be a whole number", value, "see conf/predict.yaml")
    size = spec.patch_size if window is None else window
    layout = Layout(size, size // (2 if blend else 4) if overlap is None else overlap, blend, batch_size)
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise ConfigError("a crop map is a GeoTIFF", str(out), "let out= end in .tif")
    _check_fits(predictor, scene)
    title = f"{scene.name}, {scene.acquired:%Y-%m-%d}"
    masked = tuple(masked) if isinstance(scene, ClassifiedScene) else ()
    classes = " ".join(str(one) for one in masked)
    note = SIMULATED_NOTE if (spec.simulated if simulated is None else simulated) else ""
    described = {
        **_class_tags(spec.taxonomy),
        "PRODUCT": scene.name,
        "ACQUIRED": scene.acquired.isoformat(),
        "TRAINED_ON": spec.dataset,
        "MANIFEST_SHA256": spec.manifest_digest,
        "WINDOW": str(layout),
        "VALUE_255": "no data" + (f", or scene class (SCL) {classes}" if masked else ""),
        **({"NOTE": note} if note else {}),
        **(tags or {}),
    }
    beside = out.with_name(f"{out.stem}_confidence{out.suffix}") if confidence else None
    counts = np.zeros(IGNORE + 1, dtype=np.int64)
    left_out = 0
    with ExitStack() as stack:
        labels_file = stack.enter_context(_raster(out, scene, described, spec.taxonomy))
        percent_file = None
        if beside is not None:
            percent = {"UNIT": "percent, probability of the mapped class"}
            percent_file = stack.enter_context(_raster(beside, scene, {**described, **percent}, None))
        for strip in strips(predictor, scene, layout, confidence=confidence, masked=masked):
            place = ((strip.window.row, strip.window.row + strip.window.height), (0, scene.grid.width))
            with _written(out):
                labels_file.write(strip.labels, 1, window=place)
                if percent_file is not None:
                    percent_file.write(strip.percent, 1, window=place)
            counts += np.bincount(strip.labels.ravel(), minlength=IGNORE + 1)
            left_out += int(strip.masked.sum())
        # QGIS and GDAL read class names from here: the GeoTIFF format itself has no place for them.
        storage.write_bytes(out.with_name(f"{out.name}.aux.xml"), _category_names(spec.taxonomy))
    picture = out.with_suffix(".png")
    unknown = "no data or masked (cloud, shadow, snow)" if masked else "no data"
    quicklook(out, picture, spec.taxonomy, title=title, note=note, unknown=unknown)
    pixels = tuple(int(n) for n in counts[: len(spec.taxonomy)])
    return CropMap(out, picture, beside, pixels, int(counts[IGNORE]) - left_out, left_out)


def map_product(
    run: Run,
    scene: SceneReader,
    out: str | None,
    root: Path,
    *,
    tta: str | None = None,
    devices: int | str = 1,
    mask_clouds: bool = True,
    scl_invalid: Sequence[int] = (),
    **options: Any,
) -> CropMap:
    """Map a scene with a run's model and tell what came out.

    Args:
        run: The run.
        scene: The image.
        out: Path of the map; None stands for a name in ``<root>/outputs/maps``.
        root: The project's folder.
        tta: Test-time augmentation: ``d4`` averages probabilities over the eight symmetries of a window; None for none.
        devices: How many GPUs share each batch of windows (:func:`cropseg.devices.shared`).
        mask_clouds: Whether pixels of the scene classes ``scl_invalid`` become 255.
        scl_invalid: Scene classes that spoil a pixel.
        options: Those of :func:`predict_scene`.

    Raises:
        ConfigError: ``scl_invalid`` holds what is no scene class.
    """
    scl_invalid = tuple(scl_invalid or ())
    unknown = [one for one in scl_invalid if not whole(one) or one not in range(12)] if mask_clouds else []
    if unknown:
        raise ConfigError("map.scl_invalid lists scene classes", unknown, "use 0 to 11")
    name = "_".join([scene.name, run.name.replace("/", "_"), *([tta] if tta else [])])
    path = root / "outputs" / "maps" / f"{name}.tif" if out is None else Path(out)
    tags = {
        "RUN": run.name,
        "MODEL": run.model,
        "TTA": tta or "none",
        **{f"VERSION_{k}": str(v) for k, v in run.spec.versions.items()},
    }
    predictor = augmented(shared(run.predictor, devices), tta)
    classified = isinstance(scene, ClassifiedScene)
    if mask_clouds and not classified:
        say(f"{scene.name} has no scene classes (SCL): clouds and their shadows are mapped as if they were ground")
    masked = tuple(scl_invalid) if mask_clouds and classified else ()
    result = predict_scene(predictor, scene, path, tags=tags, masked=masked, **options)
    hectares = (scene.grid.resolution / 100) ** 2
    total = max(sum(result.pixels), 1)
    rows = [
        (name, f"{n:,}", f"{n * hectares:,.1f}", f"{n / total:.1%}")
        for name, n in zip(run.spec.taxonomy.names, result.pixels, strict=True)
    ]
    title = f"Mapped pixels of {scene.name} (counted, no estimate of crop areas)"
    table(title, ("class", "pixels", "hectares", "share"), rows)
    say(f"without data: {result.without_data:,} pixels")
    if masked:
        share = result.masked / max(sum(result.pixels) + result.masked, 1)
        say(
            f"masked (cloud, shadow, snow or defect in the product's SCL): {result.masked:,} pixels, "
            f"{share:.1%} of those with data"
        )
    if run.spec.simulated:
        warn(f"the model learned from simulated data; {SIMULATED_NOTE}")
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
    remedy = (
        "give the path of a .SAFE folder, the name of a dataset, such as unseen, or one of the "
        f"{len(cached)} products in {cache}: {shown}"
    )
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


def quicklook(
    path: Path, out: Path, taxonomy: Taxonomy, *, title: str, note: str = "", unknown: str = "no data", side: int = 1200
) -> None:
    """Write a picture of a map with a legend of the classes on it.

    Args:
        path: The map.
        out: Path of the PNG.
        taxonomy: Its classes.
        title: Stands above the picture.
        note: Stands below it.
        unknown: What the legend calls 255.
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
        handles.append(Patch(fc="white", ec="0.4", label=textwrap.fill(unknown, 22)))
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
