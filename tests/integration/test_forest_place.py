"""The forest on the Flemish place: trained on some parcels and tested on others, beside the pixel-wise leak."""

import sys

import pytest

from cropseg.core.manifest import open_dataset


@pytest.fixture(scope="module")
def measured(real_data, repo, tmp_path_factory):
    sys.path.insert(0, str(repo / "benchmarks"))
    import flanders

    work = tmp_path_factory.mktemp("flanders")
    found, sides = flanders.measure(real_data / "worldcereal", work, draws=1, trees=10)
    return found, sides, work, flanders.show


def test_parts_are_shown_with_parcels_and_pixels_of_each_class(measured):
    found, sides, _, show = measured
    assert set(sides[0]) == {"maize", "wheat", "barley", "sugar beet", "potato", "pasture"}
    for name in ("maize", "wheat", "pasture"):
        assert all(sides[0][name][part]["parcels"] > 0 for part in ("train", "val", "test"))
    assert sides[0]["sugar beet"]["test"] == {"pixels": 0, "parcels": 0}
    rows = show(found, sides)
    assert [row[:2] for row in rows] == [
        ("rf_spectral", "disjoint by parcel"),
        ("rf_spectral", "random pixels: a leak"),
        ("rf_spatial", "disjoint by parcel"),
        ("rf_spatial", "random pixels: a leak"),
    ]


def test_the_tested_pixels_are_those_that_the_parts_count(measured):
    found, sides, work, _ = measured
    test = open_dataset(work / "draw0" / "flanders_test")
    for draws in found.values():
        for name, side in sides[0].items():
            label = test.spec.taxonomy.id_of(name)
            assert draws[0]["support"][label] == side["test"]["pixels"] * len(test)


@pytest.mark.parametrize("model", ["rf_spectral", "rf_spatial"])
def test_the_leak_flatters(measured, model):
    # A mechanism, not a wish: in the leak each tested pixel has its own parcel and its other dates in training.
    parcels, pixels = (measured[0][model, split][0]["miou_present"] for split in ("parcels", "pixels"))
    assert 0 < parcels < pixels
