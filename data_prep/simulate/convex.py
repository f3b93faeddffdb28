"""Cutting convex polygons: plain lists of points, since a landscape is some hundred thousand small cuts."""

from __future__ import annotations

from math import cos, sin

Point = tuple[float, float]
Polygon = list[Point]


def clip(polygon: Polygon, nx: float, ny: float, offset: float) -> Polygon:
    """The part of a convex polygon where nx·x + ny·y >= offset; empty if there is none."""
    kept: Polygon = []
    if not polygon:
        return kept
    x0, y0 = polygon[-1]
    d0 = nx * x0 + ny * y0 - offset
    for x1, y1 in polygon:
        d1 = nx * x1 + ny * y1 - offset
        if (d0 < 0) != (d1 < 0):
            t = d0 / (d0 - d1)
            kept.append((x0 + t * (x1 - x0), y0 + t * (y1 - y0)))
        if d1 >= 0:
            kept.append((x1, y1))
        x0, y0, d0 = x1, y1, d1
    return kept if len(kept) > 2 else []


def area(polygon: Polygon) -> float:
    """Area, positive whichever way the polygon turns."""
    total = 0.0
    x0, y0 = polygon[-1]
    for x1, y1 in polygon:
        total += x0 * y1 - x1 * y0
        x0, y0 = x1, y1
    return abs(total) / 2


def centre(polygon: Polygon) -> Point:
    """Mean of the corners."""
    return sum(x for x, _ in polygon) / len(polygon), sum(y for _, y in polygon) / len(polygon)


def extents(polygon: Polygon, angle: float) -> tuple[float, float, float, float]:
    """Least and greatest coordinate along ``angle`` (radians) and across it."""
    c, s = cos(angle), sin(angle)
    along = [c * x + s * y for x, y in polygon]
    across = [c * y - s * x for x, y in polygon]
    return min(along), max(along), min(across), max(across)


def cut(polygon: Polygon, angle: float, place: float, gap: float) -> tuple[Polygon, Polygon, Polygon]:
    """Cut across the direction ``angle``.

    Args:
        polygon: Convex.
        angle: Direction in radians; the cut runs at right angles to it.
        place: Where along it, as a share of the polygon's extent.
        gap: Width in metres of the strip between both parts.

    Returns:
        Both parts and the strip between them; each may be empty.
    """
    low, high, _, _ = extents(polygon, angle)
    c, s = cos(angle), sin(angle)
    middle = low + place * (high - low)
    first = clip(polygon, -c, -s, -(middle - gap / 2))
    second = clip(polygon, c, s, middle + gap / 2)
    strip = clip(clip(polygon, c, s, middle - gap / 2), -c, -s, -(middle + gap / 2)) if gap > 0 else []
    return first, second, strip


def inset(polygon: Polygon, distance: float) -> Polygon:
    """The polygon without a border of ``distance`` metres; ``polygon`` turns counter-clockwise."""
    result = polygon
    x0, y0 = polygon[-1]
    for x1, y1 in polygon:
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        if length > 0:
            nx, ny = -(y1 - y0) / length, (x1 - x0) / length
            result = clip(result, nx, ny, nx * x0 + ny * y0 + distance)
        x0, y0 = x1, y1
    return result
