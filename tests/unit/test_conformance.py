"""The conformance kit: its files, its expected scores, and who agrees with them."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cropseg.conformance import exact, kit, libraries, make
from cropseg.conformance.__main__ import main
from cropseg.core.errors import ConfigError, InputError
from cropseg.metrics import scores

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
CASES = kit.read_cases()
OF = {case.name: case for case in CASES}


def test_the_committed_files_are_those_that_make_writes(tmp_path):
    make.write(tmp_path)
    made, kept = ({file.name: file.read_bytes() for file in folder.glob("*")} for folder in (tmp_path, kit.FOLDER))
    assert made == kept
    assert all(len(content) < 2**20 for content in kept.values())


def test_expected_values_are_the_exact_ones_rounded_once():
    for file in kit.FOLDER.glob("*.json"):
        data = json.loads(file.read_text(encoding="utf-8"))
        for name, value in data["exact"].items():
            whole = value if isinstance(value, list) else [value]
            shown = data["expected"][name] if isinstance(value, list) else [data["expected"][name]]
            as_number = int if name.endswith("support") else lambda share: float(Fraction(share))
            assert [None if one is None else as_number(one) for one in whole] == shown


@pytest.mark.parametrize("function", [libraries.cropseg, libraries.cropseg_confusion])
def test_cropseg_agrees_with_every_case(function):
    found = kit.run(function, CASES, kit.takes_of(function))
    assert [one for one in found if one.differs] == []
    asked = [case for case in CASES if kit.takes_of(function) == "confusion" or case.masks is not None]
    assert sum(one.agrees for one in found) == sum(len(case.expected) for case in asked)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 6).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 9), min_size=n, max_size=n), min_size=n, max_size=n)
    )
)
def test_cropseg_equals_the_fractions_on_any_matrix(matrix):
    expected = exact.scores(matrix)
    found = libraries.cropseg_confusion(np.array(matrix, dtype=np.int64))
    assert set(found) == set(expected)
    for name, value in expected.items():
        as_json = [one if one is None or isinstance(one, int) else float(one) for one in np.atleast_1d(value).tolist()]
        assert kit.same(found[name], as_json if isinstance(value, list) else as_json[0]), name


def test_the_papers_matrices_print_as_its_tables():
    found = OF["paper_internal"].expected
    assert [f"{one:.4f}" for one in found["iou"]] == [row[0] for row in make.TABLE_10]
    assert [f"{one:.4f}" for one in found["accuracy"]] == [row[1] for row in make.TABLE_10]
    assert found["support"] == [row[2] for row in make.TABLE_10]
    assert sum(found["support"]) == 6652 * 65536
    assert f"{found['miou']:.4f}" == "0.7665"
    assert f"{found['pixel_accuracy']:.4f}" == "0.8693"
    assert f"{found['mean_class_accuracy']:.4f}" == "0.9071"  # the paper prints 0.9072
    for name, table, printed in (
        ("paper_dacia5", make.TABLE_14["DACIA5"], ("0.2383", "0.3277", "0.5509")),
        ("paper_pastis", make.TABLE_14["PASTIS"], ("0.1189", "0.1453", "0.3656")),
    ):
        found = OF[name].expected
        for c, (iou, accuracy, support) in table.items():
            assert (f"{found['crop_iou'][c]:.4f}", f"{found['crop_accuracy'][c]:.4f}") == (iou, accuracy)
            assert found["crop_support"][c] == support
        means = [found[f"crop_{score}"] for score in ("miou", "miou_present", "pixel_accuracy")]
        assert means == pytest.approx([float(one) for one in printed], abs=1e-4)


def test_every_two_definitions_part_on_some_case():
    names = [name for name in CASES[0].expected if not name.endswith(("iou", "accuracy", "support")) or "m" in name]
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert any(not kit.same(case.expected[one], case.expected[other]) for case in CASES), (one, other)


def test_a_wrong_library_is_found_out():
    def transposed(confusion):
        return {"accuracy": scores(confusion.T)["accuracy"]}

    def zero_for_absent(truth, prediction, classes, ignore):
        found = libraries.cropseg(truth, prediction, classes, ignore)
        return {"iou": np.nan_to_num(found["iou"]), "miou": found["miou"]}

    def per_image(truth, prediction, classes, ignore):
        if truth.ndim == 2:
            truth, prediction = truth[None], prediction[None]
        each = [libraries.cropseg(*pair, classes, ignore)["miou_union"] for pair in zip(truth, prediction, strict=True)]
        return {"miou_union": np.mean(each)}

    def rounded(confusion):
        return {"support": [float(one) for one in confusion.sum(axis=1)]}

    def wrong(function):
        return {one.case for one in kit.run(function, CASES, kit.takes_of(function)) if one.differs}

    assert "transposed" in wrong(transposed)
    assert {"absent_class", "predicted_under_ignored"} <= wrong(zero_for_absent)
    assert wrong(per_image) == {"two_images", "uneven_images"}
    assert wrong(rounded) == {"beyond_float64"}


def test_a_function_that_fails_or_answers_oddly_is_told_so():
    def fails(confusion):
        raise ValueError("empty")

    def fails_once(confusion):
        if not confusion.sum():
            raise ValueError("empty")
        return {"pixel_accuracy": np.trace(confusion) / confusion.sum()}

    def ends(confusion):
        raise SystemExit(0)

    def no_file(confusion):
        raise OSError("no\nfile")

    for function in (fails, ends, no_file):
        found = kit.run(function, CASES, "confusion")
        assert all(one.differs for one in found)
        assert not any("\n" in one.error for one in found)
    differing = [(one.case, one.score) for one in kit.run(fails_once, CASES, "confusion") if one.differs]
    assert differing == [("all_ignored", "pixel_accuracy"), ("empty_matrix", "pixel_accuracy")]
    with pytest.raises(InputError, match="mapping"):
        kit.run(lambda confusion: 0.5, CASES, "confusion")
    with pytest.raises(InputError, match="no score of that name"):
        kit.run(lambda confusion: {"mIoU": 0.5}, CASES, "confusion")
    assert not kit.same("high", 0.5)
    assert not kit.same([0.5], 0.5)
    assert kit.same(np.float32(0.1), 0.1)
    assert kit.same(np.array([np.nan, 1.0]), [None, 1.0])


def test_the_command_tells_by_its_exit_code(tmp_path, monkeypatch, capsys):
    assert main(["cropseg.conformance.libraries:cropseg_confusion"]) == 0
    assert (
        f"{sum(len(case.expected) for case in CASES)} scores agree, 0 differ, 0 were not given"
        in capsys.readouterr().out
    )
    (tmp_path / "strangers_scores.py").write_text("def f(confusion):\n    return {'pixel_accuracy': 0.5}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["strangers_scores:f"]) == 1
    assert "differs: 0.5, not 1" in capsys.readouterr().out
    assert main(["strangers_scores:g"]) == 2
    assert main(["cases"]) == 0
    # One line for each, and the name as it was given: ":x:" is no picture.
    capsys.readouterr()
    for words in (["no_such_module:x"], ["breaks:f"], ["ends:f"], ["libraries", "--write", str(tmp_path / "no.md")]):
        (tmp_path / "breaks.py").write_text("1 / 0\n")
        (tmp_path / "ends.py").write_text("raise SystemExit(0)\n")
        assert main(words) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: ")
        assert told.count("\n") == 1
        assert words[-1] in told


def test_scores_of_another_program_come_as_json(tmp_path, capsys):
    answers = {case.name: {"miou": case.expected["miou"]} for case in CASES}
    (tmp_path / "right.json").write_text(json.dumps(answers))
    assert main([str(tmp_path / "right.json")]) == 0
    answers["ordinary"]["miou"] += 0.01
    (tmp_path / "wrong.json").write_text(json.dumps(answers))
    assert main([str(tmp_path / "wrong.json")]) == 1
    (tmp_path / "odd.json").write_text(json.dumps({"no such case": {}}))
    assert main([str(tmp_path / "odd.json")]) == 2
    (tmp_path / "empty.json").write_text("{}")
    assert main([str(tmp_path / "empty.json")]) == 2
    assert "not one score" in capsys.readouterr().err


def test_odd_names_are_refused():
    with pytest.raises(ConfigError, match="my_module:function"):
        kit.load("numpy.sum")
    with pytest.raises(ConfigError, match="cannot be called"):
        kit.load("numpy:pi")


@pytest.mark.slow
def test_torchmetrics_and_sklearn_mean_what_the_page_says():
    found = {name: libraries.meaning(name, call, CASES) for name, call in libraries.CALLS.items() if "smp" not in name}
    closest = {name: one.closest for name, one in found.items()}
    macro = next(name for name in found if 'JaccardIndex(n, average="macro"' in name)
    assert closest[macro] == "miou_union"
    assert set(found[macro].parts) <= {"ignore_is_a_class", "all_ignored"}


@pytest.mark.slow
def test_the_table_of_the_page_is_current():
    page = PAGE.read_text(encoding="utf-8")
    assert libraries.replaced(page, libraries.markdown(CASES)) == page
