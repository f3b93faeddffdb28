"""A landscape: villages, woods, streams, roads and lanes, and between them blocks of fields cut into parcels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import cos, pi, sin

import numpy as np
import numpy.typing as npt
import shapely

from data_prep.simulate import convex
from data_prep.simulate.convex import Polygon
from data_prep.simulate.noise import Field, generator
from data_prep.simulate.noise import field as noise_field

Bounds = tuple[float, float, float, float]
USES = ("arable", "grass", "vineyard", "orchard")
"""Uses of a parcel; every other use is the name of a ground in ``data/crops.yaml``."""

_WOOD = (900.0, 300.0)
_ROAD_M = 9.0
_TRACK_M = 5.0
_STREET_M = 7.0


@dataclass(frozen=True)
class Layout:
    """How a region is parcelled.

    Attributes:
        cell_m: Distance of through roads.
        block_ha: Typical area between lanes.
        parcel_ha: Median parcel.
        parcel_sigma: Standard deviation of the logarithm of parcel area.
        strips: Share of blocks cut into parallel strips.
        hedges: Share of parcel borders with a hedge.
        margins: Share of parcel borders with a grass margin.
        wood: Share of blocks under wood.
        conifers: Share of woods that are conifers.
        villages: Share of cells with a village.
        ponds: Share of blocks with a pond.
        uses: Share of blocks of each of :data:`USES`.
    """

    cell_m: float
    block_ha: float
    parcel_ha: float
    parcel_sigma: float
    strips: float
    hedges: float
    margins: float
    wood: float
    conifers: float
    villages: float
    ponds: float
    uses: Mapping[str, float]


@dataclass(frozen=True)
class Landscape:
    """Pieces of ground, later ones painted over earlier ones; ground under none is road.

    Attributes:
        shapes: shapely polygons in the region's UTM zone, n.
        use: One of :data:`USES` or a ground of ``data/crops.yaml``, n.
        angle: Direction of work in radians, n.
    """

    shapes: npt.NDArray[np.object_]
    use: npt.NDArray[np.str_]
    angle: npt.NDArray[np.float32]

    @property
    def is_parcel(self) -> npt.NDArray[np.bool_]:
        """Whether each piece is a farmer's parcel."""
        return np.isin(self.use, USES)


@dataclass
class _Pieces:
    """What has been laid out so far, in the order of painting."""

    polygons: list[Polygon] = field(default_factory=list)
    uses: list[str] = field(default_factory=list)
    angles: list[float] = field(default_factory=list)

    def add(self, polygon: Polygon, use: str, angle: float = 0.0) -> None:
        if len(polygon) > 2:
            self.polygons.append(polygon)
            self.uses.append(use)
            self.angles.append(angle)


def landscape(bounds: Bounds, layout: Layout, *keys: str | int) -> Landscape:
    """Lay out a region.

    Args:
        bounds: Left, bottom, right, top in metres; pieces that cross them stay whole.
        layout: Sizes and shares.
        keys: For :func:`data_prep.simulate.noise.generator`.
    """
    left, bottom, right, top = bounds
    step = layout.cell_m
    columns, rows = int(np.ceil((right - left) / step)) + 1, int(np.ceil((top - bottom) / step)) + 1
    random = generator(*keys, "roads")
    x = left - 0.4 * step + step * np.arange(columns + 1) + random.uniform(-0.18, 0.18, (rows + 1, columns + 1)) * step
    y = (bottom - 0.4 * step + step * np.arange(rows + 1))[:, None]
    y = y + random.uniform(-0.18, 0.18, (rows + 1, columns + 1)) * step
    around = (left - step, bottom - step, right + step, top + step)
    woods = noise_field(around, _WOOD, (1.0, 0.6), *keys, "woods")
    slope = noise_field(around, (2.5 * step,), (1.0,), *keys, "orientation")
    pieces, roofs = _Pieces(), _Pieces()
    for i in range(rows):
        for j in range(columns):
            corners = [(i, j), (i, j + 1), (i + 1, j + 1), (i + 1, j)]
            quad = [(float(x[c]), float(y[c])) for c in corners]
            _cell(quad, layout, woods, slope, generator(*keys, "cell", i, j), pieces, roofs)
    streams = _streams(bounds, generator(*keys, "streams"))
    return _finish(pieces, roofs, streams, bounds)


def _cell(
    quad: Polygon,
    layout: Layout,
    woods: Field,
    slope: Field,
    random: np.random.Generator,
    pieces: _Pieces,
    roofs: _Pieces,
) -> None:
    """One mesh of the road net: lanes, blocks, and what each block is used for."""
    inner = convex.inset(quad, _ROAD_M / 2)
    cx, cy = convex.centre(inner)
    angle = float(slope.at_points(np.array([cx]), np.array([cy]))[0]) * 0.9 + random.choice((0.0, 0.0, 0.35, 1.1))
    village = None
    if random.random() < layout.villages:
        village = (cx + random.normal(0, 150), cy + random.normal(0, 150), random.uniform(150, 340))
    shares = np.array([layout.uses[use] for use in USES])
    blocks: list[Polygon] = []
    _divide(inner, layout.block_ha * 1e4, angle, random, blocks, pieces)
    points = np.array([convex.centre(block) for block in blocks])
    woodland = woods.at_points(points[:, 0], points[:, 1])
    # The normal quantile of the share of woods, by its logistic approximation.
    limit = -np.log(max(layout.wood, 1e-6) / (1 - layout.wood)) / 1.702
    for block, (bx, by), wooded in zip(blocks, points, woodland, strict=True):
        away = np.inf if village is None else float(np.hypot(bx - village[0], by - village[1])) / village[2]
        if away < 1:
            _village(block, angle, random, pieces, roofs)
        elif wooded > limit:
            pieces.add(block, "conifer_wood" if random.random() < layout.conifers else "broadleaf_wood")
        elif random.random() < layout.ponds:
            pieces.add(block, "margin")
            roofs.add(_pond((bx, by), random.uniform(0.1, 0.3) * convex.area(block) ** 0.5, random), "water")
        else:
            use = (
                "orchard"
                if away < 1.6 and random.random() < 0.25
                else str(random.choice(USES, p=shares / shares.sum()))
            )
            small = 0.35 if use in ("orchard", "vineyard") or away < 1.8 else 1.0
            target = layout.parcel_ha * 1e4 * small
            _parcels(block, target, angle, use, layout, random, pieces)
            if random.random() < 0.03:
                barn = _box(convex.centre(block), random.uniform(15, 30), random.uniform(30, 70), angle)
                roofs.add(barn, "metal_roof")


def _divide(
    polygon: Polygon, target: float, angle: float, random: np.random.Generator, out: list[Polygon], pieces: _Pieces
) -> None:
    """Cut a mesh into blocks by lanes."""
    if convex.area(polygon) < target * random.uniform(0.8, 2.0):
        out.append(polygon)
        return
    low, high, near, far = convex.extents(polygon, angle)
    across = angle if high - low >= far - near else angle + pi / 2
    parts = convex.cut(polygon, across + random.normal(0, 0.07), random.uniform(0.35, 0.65), _TRACK_M)
    pieces.add(parts[2], "track", across)
    for part in parts[:2]:
        if part:
            _divide(part, target, angle, random, out, pieces)


def _parcels(
    block: Polygon,
    typical: float,
    angle: float,
    use: str,
    layout: Layout,
    random: np.random.Generator,
    pieces: _Pieces,
) -> None:
    """Cut a block into parcels, as strips or crosswise, with hedges and margins on some borders."""
    target = typical * float(np.exp(0.6 * layout.parcel_sigma * random.standard_normal()))
    low, high, near, far = convex.extents(block, angle)
    strip = angle if high - low >= far - near else angle + pi / 2
    in_strips = random.random() < layout.strips
    waiting = [block]
    while waiting:
        polygon = waiting.pop()
        size = target * float(np.exp(0.8 * layout.parcel_sigma * random.standard_normal()))
        low, high, near, far = convex.extents(polygon, strip)
        length, width = high - low, far - near
        if convex.area(polygon) < 1.4 * size or min(length, width) < 14:
            pieces.add(polygon, use, strip + (pi / 2 if in_strips or length < width else 0.0))
            continue
        # Strips are cut lengthwise until they would be ten times as long as wide.
        across = strip if (in_strips and width < 10 * length) or (not in_strips and length >= width) else strip + pi / 2
        kind = random.random()
        gap, between = 0.0, ""
        if kind < layout.hedges:
            gap, between = random.uniform(5, 10), "hedge"
        elif kind < layout.hedges + layout.margins:
            gap, between = random.uniform(2, 4.5), "margin"
        first, second, middle = convex.cut(
            polygon, across + random.normal(0, 0.02), float(np.clip(random.normal(0.5, 0.1), 0.25, 0.75)), gap
        )
        pieces.add(middle, between, across)
        waiting += [part for part in (first, second) if part]


def _village(block: Polygon, angle: float, random: np.random.Generator, pieces: _Pieces, roofs: _Pieces) -> None:
    """Streets, gardens and houses."""
    waiting = [block]
    while waiting:
        polygon = waiting.pop()
        low, high, near, far = convex.extents(polygon, angle)
        if convex.area(polygon) < random.uniform(0.4, 1.1) * 1e4:
            pieces.add(polygon, "garden", angle)
            for _ in range(int(convex.area(polygon) / 900)):
                u, v = random.uniform(low + 8, max(high - 8, low + 9)), random.uniform(near + 8, max(far - 8, near + 9))
                at = (cos(angle) * u - sin(angle) * v, sin(angle) * u + cos(angle) * v)
                roofs.add(_box(at, random.uniform(9, 14), random.uniform(10, 20), angle), "roof")
            continue
        across = angle if high - low >= far - near else angle + pi / 2
        first, second, street = convex.cut(polygon, across, random.uniform(0.35, 0.65), _STREET_M)
        pieces.add(street, "asphalt", across)
        waiting += [part for part in (first, second) if part]


def _box(at: tuple[float, float], width: float, length: float, angle: float) -> Polygon:
    c, s = cos(angle), sin(angle)
    corners = [(-length / 2, -width / 2), (length / 2, -width / 2), (length / 2, width / 2), (-length / 2, width / 2)]
    return [(at[0] + c * u - s * v, at[1] + s * u + c * v) for u, v in corners]


def _pond(at: tuple[float, float], radius: float, random: np.random.Generator) -> Polygon:
    turns = np.linspace(0, 2 * pi, 28, endpoint=False)
    waves = 1 + 0.2 * np.sin(2 * turns + random.uniform(0, 6)) + 0.1 * np.sin(3 * turns + random.uniform(0, 6))
    return [(at[0] + radius * w * cos(t), at[1] + radius * w * sin(t)) for t, w in zip(turns, waves, strict=True)]


def _streams(bounds: Bounds, random: np.random.Generator) -> list[tuple[shapely.Polygon, str]]:
    """Meandering streams with trees along them, in pieces of about a kilometre."""
    left, bottom, right, top = bounds
    width, height = right - left, top - bottom
    found: list[tuple[shapely.Polygon, str]] = []
    # Each runs through the whole region, so their number goes with its side to keep their density.
    for _ in range(max(1, round(max(width, height) / 7000))):
        t = np.linspace(-0.05, 1.05, max(20, int(max(width, height) / 40)))
        base, tilt = random.uniform(0.15, 0.85), random.normal(0, 0.25)
        metres = t * height
        bend = sum(
            random.uniform(40, 160) * np.sin(2 * pi * metres / w + random.uniform(0, 6)) for w in (700, 1900, 4200)
        )
        line = np.stack([left + width * base + tilt * (metres - height / 2) + bend, bottom + metres], axis=1)
        if random.random() < 0.5:
            line = np.stack(
                [left + (line[:, 1] - bottom) * width / height, bottom + (line[:, 0] - left) * height / width], 1
            )
        breadth, trees = random.uniform(7, 16), random.uniform(8, 16)
        for start in range(0, len(line) - 1, 25):
            part = shapely.LineString(line[start : start + 26])
            found.append((part.buffer(breadth / 2 + trees, quad_segs=3), "hedge"))
            found.append((part.buffer(breadth / 2, quad_segs=3), "water"))
    return sorted(found, key=lambda piece: piece[1] == "water")


def _finish(pieces: _Pieces, roofs: _Pieces, streams: list[tuple[shapely.Polygon, str]], bounds: Bounds) -> Landscape:
    """Turn everything into shapely polygons, take the streams out of the parcels, keep what touches the bounds."""
    polygons = [*pieces.polygons, *roofs.polygons]
    counts = np.array([len(polygon) for polygon in polygons])
    flat = np.round(np.array([point for polygon in polygons for point in polygon]), 2)
    rings = shapely.linearrings(flat, indices=np.repeat(np.arange(len(counts)), counts))
    shapes = np.asarray(shapely.polygons(rings), dtype=object)
    use = np.array([*pieces.uses, *roofs.uses])
    angle = np.array([*pieces.angles, *roofs.angles], dtype=np.float32)
    stream_shapes = np.array([shape for shape, _ in streams], dtype=object)
    banks = stream_shapes[[name == "hedge" for _, name in streams]]
    tree = shapely.STRtree(banks)
    parcel = np.flatnonzero(np.isin(use, USES))
    hit, bank = tree.query(shapes[parcel], predicate="intersects")
    crossed = parcel[np.unique(hit)]
    under = shapes[crossed].copy()
    for number in np.unique(hit):
        left_over = shapely.difference(shapes[parcel[number]], shapely.union_all(banks[bank[hit == number]]))
        shapes[parcel[number]] = _largest(shapely.set_precision(left_over, 0.01))
    # What a stream cuts off a parcel is left to grass: the whole parcel as a margin under what remains of it.
    shapes = np.concatenate([under, shapes, stream_shapes])
    use = np.concatenate([["margin"] * len(under), use, [name for _, name in streams]])
    angle = np.concatenate([angle[crossed], angle, np.zeros(len(streams), dtype=np.float32)])
    kept = shapely.intersects(shapes, shapely.box(*bounds)) & (shapely.area(shapes) > 1.0)
    return Landscape(shapes[kept], use[kept], angle[kept])


def _largest(shape: shapely.Geometry) -> shapely.Polygon:
    """The largest polygon of what a stream leaves of a parcel."""
    parts = [part for part in shapely.get_parts(shape) if isinstance(part, shapely.Polygon)]
    return max(parts, key=lambda part: part.area, default=shapely.Polygon())
