"""Band order and BOA offset from pixels alone: on made ground, and on every date of a real place."""

import numpy as np
import pytest
from foreign import DACIA5_ORDER, PASTIS_ORDER, stack

from cropseg.core.bands import PAPER_BANDS
from cropseg.core.errors import ConfigError, InputError
from data_prep.importers.radiometry import CLAIMS, RadiometryRule, audit_columns, look, settle
from data_prep.importers.worldcereal_files import PlaceFiles

TWELVE = {
    "wavelength": DACIA5_ORDER,
    "alphabet": (*DACIA5_ORDER[:8], "B09", "B11", "B12", "B8A"),
    "resolution": (*PAPER_BANDS, "B01", "B09"),
}
TEN = {"wavelength": PASTIS_ORDER, "paper": PAPER_BANDS}


def seen(order, rule, **options):
    values = stack(order, 96, 96, **options)
    return look(values, np.ones((96, 96), bool), rule)


@pytest.mark.parametrize("candidates", [TWELVE, TEN], ids=["twelve", "ten"])
@pytest.mark.parametrize("offset", [0, 1000])
def test_every_candidate_order_is_told_from_the_others_with_and_without_offset(candidates, offset):
    rule = RadiometryRule(candidates)
    for name, order in candidates.items():
        evidence = seen(order, rule, offset=offset)
        (decision,) = settle([evidence], ["2020"], rule)
        assert (decision.order, decision.order_by) == (name, "radiometry")
        assert (decision.offset, decision.offset_by) == ("present" if offset else "absent", "radiometry")
        assert evidence.failed[name] == ()
        assert set(evidence.held[name]) == set(CLAIMS) - (set() if "B09" in order else {"vapour"})


def test_the_audit_holds_both_choices_with_their_evidence():
    rule = RadiometryRule(TEN)
    evidence = seen(PASTIS_ORDER, rule, offset=1000)
    row = audit_columns(evidence, settle([evidence], ["a"], rule)[0], rule)
    assert row["order_wavelength_held"] == "7/7"
    assert row["order_paper_failed"]
    assert row["darkest_reflectance_if_absent"] == pytest.approx(row["darkest_reflectance_if_present"] + 0.1)
    assert row["ndvi_p99_if_absent"] < 0.6 < 0.7 < row["ndvi_p99_if_present"]
    assert row["clamped_if_present"] == 0


def test_a_scene_that_does_not_tell_follows_those_delivered_with_it_and_says_so():
    rule = RadiometryRule(TEN)
    cloud = look(np.full((10, 32, 32), 6000) + stack(PASTIS_ORDER, 32, 32), np.ones((32, 32), bool), rule)
    empty = look(np.zeros((10, 32, 32)), np.zeros((32, 32), bool), rule)
    old, new = seen(PASTIS_ORDER, rule), seen(PASTIS_ORDER, rule, offset=1000)
    scenes = [old, cloud, new, cloud, empty, new, old]
    groups = ["2020", "2020", "2022", "2022", "2022", "2022", "2022"]
    found = settle(scenes, groups, rule)
    assert [one.offset for one in found] == ["absent", "absent", "present", "present", "present", "present", "absent"]
    assert found[1].offset_by == "majority of 2020"
    assert found[4].order_by == "majority of 2022"
    assert found[6].offset_by == "radiometry, unlike most of 2022"
    assert settle([old, empty], ["2020", "2021"], rule)[1].offset_by == "majority of all scenes"
    with pytest.raises(InputError, match="no scene tells"):
        settle([cloud, empty], ["2020", "2020"], rule)
    forced = RadiometryRule(TEN, order="paper", offset="present")
    assert settle([cloud], ["2020"], forced)[0].offset_by == "set"


def test_the_other_choice_is_the_refused_one():
    rule = RadiometryRule(TWELVE, order="other", offset="other")
    evidence = seen(DACIA5_ORDER, rule)
    (decision,) = settle([evidence], ["2020"], rule)
    held = {name: len(evidence.held[name]) for name in ("alphabet", "resolution")}
    assert held[decision.order] == max(held.values())
    assert decision.offset == "present"
    assert rule.suffix == "_other_order_other_offset"
    assert RadiometryRule(TWELVE).suffix == ""


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"orders": {"short": ("B02", "B03")}}, "lacks bands"),
        ({"orders": {**TEN, "full": DACIA5_ORDER}}, "one length"),
        ({"order": "wave"}, "rule.order"),
        ({"offset": "maybe"}, "rule.offset"),
        ({"orders": {"only": PASTIS_ORDER}, "order": "other"}, "second candidate"),
        ({"absent_below": 900}, "absent_below"),
    ],
)
def test_impossible_rules_are_refused(options, word):
    with pytest.raises(ConfigError, match=word):
        RadiometryRule(**{"orders": TEN, **options})


def test_on_a_real_place_no_date_of_the_season_is_told_wrongly(real_data):
    """With the offset added or not, and in either order; the thresholds were set with these dates in view."""
    rule = RadiometryRule(TEN)
    told = dates = 0
    (folder,) = {path.parent for path in (real_data / "worldcereal").glob("*/S2_L2A_10m_*.nc")}
    with PlaceFiles(folder) as files:
        for number, moment in enumerate(files.times):
            image = files.image(PASTIS_ORDER, number, "nearest").astype(np.int64)
            if not 4 <= moment.month <= 9 or not (image > 0).all():
                continue
            dates += 1
            for offset in (0, 1000):
                for name, order in TEN.items():
                    values = image[[PASTIS_ORDER.index(band) for band in order]] + offset
                    evidence = look(values, np.ones(values.shape[1:], bool), rule)
                    try:
                        (decision,) = settle([evidence], ["place"], rule)
                    except InputError:
                        continue  # too cloudy to tell
                    assert decision.offset == ("present" if offset else "absent"), moment
                    assert decision.order == name or decision.order_by.startswith("documented"), moment
                    told += 1
    assert dates == 37
    assert told >= 2 * dates  # more than half of the four cases a date
