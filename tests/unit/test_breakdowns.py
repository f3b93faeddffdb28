"""Parts of an evaluation set add up to the whole, in the order of their values."""

import numpy as np
import pytest
from details import make_details

from cropseg.breakdowns import boundary_bands, cloud_band, groups, parcel_sizes
from cropseg.core.errors import ConfigError


@pytest.mark.parametrize("by", ["country", "subset", "product", "month", "year", "cloud", "place"])
def test_groups_hold_each_patch_once(by):
    details = make_details()
    found = groups(details, by)
    assert sum(group.patches for group in found) == len(details.patches)
    assert np.array_equal(sum(group.confusion for group in found), details.confusion)
    for group in found:
        assert np.array_equal(sum(group.places.values()), group.confusion)


def test_names_and_order():
    details = make_details()
    assert [group.name for group in groups(details, "month")] == ["April", "June"]
    assert [(group.name, group.patches, len(group.places)) for group in groups(details, "country")] == [
        ("at", 14, 7),
        ("be", 14, 7),
    ]
    assert [group.name for group in groups(details, "cloud")] == ["0 %", "1 … 5 %", "5 … 10 %", "not known"]
    by_place = groups(details, "place")
    assert [group.name for group in by_place] == [f"p{i:02}" for i in range(14)]
    assert all(np.array_equal(group.confusion, details.clusters[group.name]) for group in by_place)
    with pytest.raises(ConfigError, match="colour"):
        groups(details, "colour")


def test_bands_of_cloud_share_hold_their_upper_end():
    shares = [0, 0.01, 0.011, 0.05, 0.1, 0.2, 0.21, 1, np.float32(0.05), float("nan")]
    told = ["0 %", "0 … 1 %", "1 … 5 %", "1 … 5 %", "5 … 10 %", "10 … 20 %", "over 20 %", "over 20 %", "1 … 5 %"]
    assert [cloud_band(share) for share in shares] == [*told, "not known"]


def test_bands_of_distance_and_size_add_up_and_are_named():
    details = make_details()
    for read, names in ((boundary_bands, ["0 … 2 px", "2 px and more"]), (parcel_sizes, ["0 … 1 ha", "1 ha and more"])):
        found = read(details)
        assert [group.name for group in found] == names
        assert np.array_equal(sum(group.confusion for group in found), details.confusion)
    assert [group.parcels for group in parcel_sizes(details)] == [50, 26]
