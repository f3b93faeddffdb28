"""What an evaluation set shares with a training part."""

import dataclasses
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
import shapely
from factory import make_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from cropseg.ground import label_sources, places, shared_area, shared_ground, sharing


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("ground"), n=8, size=8)


def laid(data, boxes, **provenance):
    """``data`` with these footprints (shapes, or left edges of squares of 0.02° on the equator)."""
    shapes = [one if isinstance(one, shapely.Geometry) else square(one) for one in boxes]
    manifest = data.manifest.slice(0, len(shapes))
    column = pa.array([shape.wkb for shape in shapes], pa.binary())
    manifest = manifest.set_column(manifest.schema.get_field_index("geometry"), "geometry", column)
    return dataclasses.replace(
        data, manifest=manifest, spec=dataclasses.replace(data.spec, provenance={**data.spec.provenance, **provenance})
    )


def square(left, bottom=0.0, side=0.02):
    """As a projection back to degrees gives it: longitudes from -180 to 180, whatever the shape does then."""
    corners = shapely.get_coordinates(shapely.box(left, bottom, left + side, bottom + side))
    corners[:, 0] = (corners[:, 0] + 180) % 360 - 180
    return shapely.Polygon(corners)


@settings(max_examples=60)
@given(
    st.lists(st.integers(-6, 6), min_size=1, max_size=5),
    st.lists(st.integers(-6, 6), min_size=1, max_size=5),
    st.sampled_from([0.0, 14.99, 179.99, -179.99, 180.0]),
)
def test_ground_in_common_does_not_depend_on_the_meridian(data, mine, theirs, middle):
    """Squares of two units of 0.01° and left edges at whole units: they overlap where edges are less than two apart."""
    a, b = laid(data, [middle + 0.01 * x for x in mine]), laid(data, [middle + 0.01 * x for x in theirs])
    expected = np.mean([any(abs(x - y) < 2 for y in theirs) for x in mine])
    assert shared_ground(a, range(len(mine)), [(b, range(len(theirs)))]) == pytest.approx(expected)

    both = laid(data, [middle + 0.01 * x for x in [*mine[:4], *theirs[:4]]])
    first, second = range(len(mine[:4])), range(len(mine[:4]), len(mine[:4]) + len(theirs[:4]))
    units = {unit for y in theirs[:4] for unit in (y, y + 1)}
    covered = [np.mean([unit in units for unit in (x, x + 1)]) for x in {*mine[:4]}]
    assert shared_area(both, list(first), list(second)) == pytest.approx(np.mean(covered), abs=1e-6)


@settings(max_examples=40)
@given(st.lists(st.integers(-8, 8), min_size=1, max_size=8), st.sampled_from([5.0, 180.0]))
def test_places_are_chains_of_overlapping_windows(data, lefts, middle):
    one = laid(data, [middle + 0.01 * x for x in lefts])
    found = places(one, range(len(lefts)))
    ordered = sorted(set(lefts))
    chain = dict(zip(ordered, np.cumsum([0, *(np.diff(ordered) >= 2)]), strict=True))
    for i, x in enumerate(lefts):
        for j, y in enumerate(lefts):
            assert (found[i] == found[j]) == (chain[x] == chain[y])


def test_a_place_is_named_by_its_first_patch_whatever_the_date(data):
    one = laid(data, [0.0, 0.0, 0.02, 5.0])
    ids = ["s/roi/later/0_0", "s/roi/earlier/0_0", "s/roi/earlier/0_2", "s/roi/earlier/9_9"]
    one = dataclasses.replace(one, manifest=one.manifest.set_column(0, "id", pa.array(ids)))
    assert places(one, [0, 1, 2, 3]) == ["s/roi/0_0", "s/roi/0_0", "s/roi/0_2", "s/roi/9_9"]
    assert places(one, [3, 0]) == ["s/roi/9_9", "s/roi/0_0"]
    assert places(one, []) == []


def test_two_windows_of_one_name_in_different_zones_are_two_places(data):
    one = laid(data, [0.0, 7.0])
    ids = pa.array(["s/roi/product_31/0_0", "s/roi/product_32/0_0"])
    one = dataclasses.replace(one, manifest=one.manifest.set_column(0, "id", ids))
    assert places(one, [0, 1]) == ["s/roi/0_0", "s/roi/0_0#2"]


def test_what_is_shared_is_said_in_one_line(data):
    train = laid(data, [0.0, 0.02], label_source={"xx_2021": ["EuroCrops", "parcel declarations of AT"]})
    own = sharing(train, [1], [(train, [0])])
    assert own.same_dataset
    assert own.words == (
        "no patch lies on ground of the training part; years in common: 2021; "
        "label sources in common: EuroCrops, parcel declarations of AT"
    )
    other = dataclasses.replace(laid(data, [0.0, 5.0], label_source=["EuroCrops"]), digest="1" * 64)
    late = pa.array([datetime(2019, 5, 1, tzinfo=UTC)] * 2, pa.timestamp("us", tz="UTC"))
    other = dataclasses.replace(
        other,
        manifest=other.manifest.set_column(other.manifest.schema.get_field_index("datetime"), "datetime", late),
    )
    found = sharing(other, [0, 1], [(train, [0, 1])])
    assert not found.same_dataset
    assert found.words == (
        "50.0% of the patches lie on ground of the training part; years in common: none; "
        "label sources in common: EuroCrops"
    )
    assert found.to_dict() == {"years": [], "label_sources": ["EuroCrops"], "same_dataset": False}
    unknown = sharing(other, [0], [(train, [0]), None])
    assert unknown.words.count("not told") == 3
    assert sharing(laid(data, [0.0]), [0], [(train, [0])]).label_sources is None


def test_label_sources_are_those_of_the_subsets_asked_for(data):
    assert label_sources(laid(data, [0.0]), [0]) is None
    assert label_sources(laid(data, [0.0], label_source="survey"), [0]) == {"survey"}
    assert label_sources(laid(data, [0.0], label_source={"xx_2021": ["a", "b"], "yy": ["c"]}), [0]) == {"a", "b"}
    assert label_sources(laid(data, [0.0], label_source={"yy": ["c"]}), [0]) is None


def test_no_ground_is_shared_with_nothing(data):
    one = laid(data, [0.0])
    assert shared_area(one, [0], []) == 0.0
    assert shared_ground(one, [0], [(one, [])]) == 0.0
