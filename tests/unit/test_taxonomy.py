"""Table 1 verbatim, its corrected sister, and the rules that every taxonomy keeps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cropseg.core import taxonomy
from cropseg.core.errors import ConfigError

TABLE_1 = taxonomy.load("eurocrops10")
CORRECTED = taxonomy.load("eurocrops10_corrected")


def classes(rules, name):
    return [rules.names[match.class_id] for match in rules.matches(name)]


def test_table_1_is_verbatim():
    assert TABLE_1.matching == "substring"
    assert [(c.name, c.include, c.exclude) for c in TABLE_1.classes] == [
        ("background", (), ()),
        ("maize", ("maize", "corn"), ()),
        ("rapeseed", ("rapeseed", "rape seed", "winter rape", "oilseed rape"), ("grape",)),
        ("wheat", ("wheat", "triticale", "rye"), ("buckwheat",)),
        ("barley", ("barley",), ()),
        ("oats", ("oats",), ()),
        ("sunflower", ("sunflower",), ()),
        ("sugar beet", ("sugar beet", "beet"), ("fodder beet", "beetroot")),
        ("soybean", ("soybean", "soy beans", "soy"), ()),
        ("potato", ("potato",), ()),
        ("pasture", ("pasture", "grassland", "meadow", "arable grass", "clover", "lucerne", "alfalfa"), ()),
    ]
    assert [TABLE_1.names[i] for i in TABLE_1.rare] == ["oats", "sunflower", "sugar beet", "soybean"]


def test_corrections_keep_classes_and_colours():
    assert CORRECTED.digest == TABLE_1.digest
    assert CORRECTED.colors == TABLE_1.colors
    assert CORRECTED.rare == TABLE_1.rare
    assert CORRECTED.matching == "word"


# English names as the national tables have them: what Table 1 makes of each, and what the corrections do.
TRAPS = [
    ("CORN / BEETLE BEANS IN SEPARATED ROWS", ["maize", "sugar beet"], ["maize"]),
    ("Orchards (without meadow use)", ["pasture"], []),
    ("Giant wheat grass / Szarvasi grass", ["wheat"], []),
    ("Summer cereals without wheat", ["wheat"], []),
    ("Dogwood_cornus", ["maize"], []),
    ("Cornflowers", ["maize"], []),
    ("Summer rape", [], ["rapeseed"]),
    ("SUMMER RAPES", [], ["rapeseed"]),
    ("Other spring cereal of the genus Hordeum", [], ["barley"]),
    ("Other Secale winter cereal", [], ["wheat"]),
    ("Other oilseeds of the species Helianthus", [], ["sunflower"]),
    ("TOPINAMBUR (Helianthus tuberosus)", [], []),
    ("perennial ryegrass", ["wheat"], []),
    ("Yellow Oatgrass", [], []),
    ("bulbous oat grass", [], []),
    ("FORAGE BEET (RUNKEL BEETS", ["sugar beet"], []),
    ("WINTER BEETS", ["sugar beet"], []),
    ("Beetroot - fresh", [], []),
    ("fodder beets", [], []),
    ("sugar beets", ["sugar beet"], ["sugar beet"]),
    ("Non-forage beet / Swiss chard", ["sugar beet"], ["sugar beet"]),
    ("WINTER WHEAT / BUCKWHEAT", [], ["wheat"]),
    ("Buckwheat", [], []),
    ("Vine: wine grapes", [], []),
    ("Sweet potatoes", ["potato"], []),
    ("Alfafa", [], ["pasture"]),
    ("Grass Year 3", [], ["pasture"]),
    ("Arable Silage (Grass)", [], ["pasture"]),
    ("Forage Rape", [], []),
    ("Dock (meadow sorrel)", ["pasture"], []),
    ("Permanent Pasture, Barley - Spring", ["barley", "pasture"], ["barley", "pasture"]),
]


@pytest.mark.parametrize(("name", "raw", "corrected"), TRAPS, ids=[trap[0] for trap in TRAPS])
def test_known_traps(name, raw, corrected):
    assert classes(TABLE_1, name) == raw
    assert classes(CORRECTED, name) == corrected


@given(st.text("aeigrt -/", max_size=12), st.sampled_from([k for c in CORRECTED.classes for k in c.include]))
def test_case_never_matters_and_words_need_boundaries(text, keyword):
    for rules in (TABLE_1, CORRECTED):
        name = f"{text} {keyword}"
        assert rules.matches(name.upper()) == rules.matches(name) == rules.matches(name.title())
    assert not any(match.keyword == keyword for match in CORRECTED.matches(f"x{keyword}x"))


@given(st.text(max_size=40))
def test_substring_rule_equals_plain_python(text):
    lower = text.casefold()
    expected = [
        c.id
        for c in TABLE_1.classes
        if any(word in lower for word in c.include) and not any(word in lower for word in c.exclude)
    ]
    assert [match.class_id for match in TABLE_1.matches(text)] == expected


def test_round_trip_and_custom_file(tmp_path):
    import yaml

    assert taxonomy.from_dict(CORRECTED.to_dict()) == CORRECTED
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump({**TABLE_1.to_dict(), "name": "mine"}), encoding="utf-8")
    assert taxonomy.load(str(path)).name == "mine"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a: [", "YAML"),
        ("- 1", "not a mapping"),
        ("name: x", "name, matching and classes"),
        ("{name: x, classes: [{id: 0, name: a, color: '000000'}, {id: 2, name: b, color: '000000'}]}", "must run"),
        ("{name: x, classes: [{id: 0, name: a, color: red}, {id: 1, name: b, color: '000000'}]}", "red"),
        ("{name: x, classes: [{id: 0, name: a, color: '000000'}, {id: 1, name: a, color: '000000'}]}", "share"),
        ("{name: x, classes: [{id: 0, name: a, colour: '000000'}]}", "a class holds"),
        ("{name: x, classes: [{id: 0, name: a, color: '000000', include: [b]}, {id: 1, name: b, color: '000000'}]}",
         "background"),
        ("{name: x, matching: fuzzy, classes: [{id: 0, name: a, color: '000000'}, {id: 1, name: b, color: '000000'}]}",
         "fuzzy"),
    ],
)  # fmt: skip
def test_bad_taxonomies_are_refused(tmp_path, content, says):
    path = tmp_path / "bad.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=says):
        taxonomy.load(str(path))


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="no such taxonomy"):
        taxonomy.load("eurocrops99")
    with pytest.raises(ConfigError, match="choose from"):
        TABLE_1.id_of("quinoa")
