"""The mutation tester: the changes it makes, the tests it chooses, and the reasons on record."""

import ast
import json
import tomllib
from pathlib import Path

import coverage
import pytest

from tests.mutants import cover, run, trial
from tests.mutants.mutation import mutants
from tests.mutants.run import GUARDS, REASONS, Results

SOURCE = '''
"""A module."""

import os

LIMIT = 3


class Tank:
    def __init__(self) -> None:
        self.level = 0  # with a comment

    def fill(self, amount: int) -> bool:
        """Add water."""
        log.info("filling", amount=amount)
        if amount < LIMIT and not self.level:
            self.level += amount
            return True
        raise ValueError(f"too much: {amount + 1}")

    def __repr__(self) -> str:
        return "Tank"
'''


def test_every_decision_and_every_effect_is_changed_and_nothing_else() -> None:
    assert [
        "Tank.__init__: self.level = 0 -> pass",
        "Tank.__init__: 0 -> 1",
        "Tank.fill: if amount < LIMIT and (not self.level): -> if True",
        "Tank.fill: if amount < LIMIT and (not self.level): -> if False",
        "Tank.fill: amount < LIMIT and (not self.level) -> amount < LIMIT or not self.level",
        "Tank.fill: amount < LIMIT -> amount <= LIMIT",
        "Tank.fill: not self.level -> self.level",
        "Tank.fill: self.level += amount -> pass",
        "Tank.fill: return True -> return None",
        "Tank.fill: True -> False",
        "Tank.fill: raise ValueError(f'too much: {amount + 1}') -> pass",
    ] == [mutant.name for mutant in mutants(SOURCE)]


def test_a_change_touches_its_own_place_only() -> None:
    (mutant,) = (each for each in mutants(SOURCE) if each.name.endswith("amount <= LIMIT"))
    assert SOURCE.replace("amount < LIMIT", "(amount <= LIMIT)") == mutant.source
    assert "amount < LIMIT" in SOURCE.splitlines()[mutant.lines[0] - 1]


def test_columns_are_counted_in_bytes() -> None:
    (mutant,) = mutants('def f(ä, b):\n    x = "ä", ä == b, "ö"\n')
    assert 'x = "ä", (ä != b), "ö"' in mutant.source


def test_changes_that_read_alike_have_numbers() -> None:
    names = [mutant.name for mutant in mutants("def f(x):\n    g(x)\n    g(x)\n")]
    assert ["f: g(x) -> pass", "f: g(x) -> pass [2]"] == names


@pytest.mark.parametrize("name", GUARDS)
def test_mutants_of_the_product_are_programs_with_names_of_their_own(name: str) -> None:
    made = list(mutants((cover.ROOT / "invalidator" / f"{name}.py").read_text()))
    assert len(made) == len({mutant.name for mutant in made}) > 0
    for mutant in made[::20]:  # to parse them all takes seconds
        ast.parse(mutant.source)


def test_every_reason_is_that_of_a_mutant() -> None:
    for file, reasons in tomllib.loads(REASONS.read_text()).items():
        known = {mutant.name for mutant in mutants((cover.ROOT / file).read_text())}
        assert set() == set(reasons) - known, file


def test_tests_that_reach_a_line_are_chosen_and_the_quickest_comes_first(tmp_path: Path) -> None:
    data = coverage.CoverageData(str(tmp_path / cover.DATA))
    for test, lines in (("slow|run", [1, 2]), ("quick|run", [2]), ("gone|run", [2])):
        data.set_context(test)
        data.add_lines({"/a.py": lines})
    data.write()
    (tmp_path / cover.DURATIONS).write_text(json.dumps({"slow": 2.0, "quick": 0.1}))
    covered = cover.Cover(tmp_path)
    assert ["quick", "slow"] == covered.tests(Path("/a.py"), [2])
    assert ["slow"] == covered.tests(Path("/a.py"), range(2))


def test_verdicts_are_kept_while_the_file_stays_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "FOLDER", tmp_path / "not made yet")
    monkeypatch.setattr(cover, "ROOT", tmp_path)
    file = tmp_path / "tank.py"
    file.write_text(SOURCE)
    Results(file, {"Tank.fill: True -> False": "killed"}).write()
    assert {"Tank.fill: True -> False": "killed"} == Results.of(file).verdicts
    file.write_text(SOURCE + "\n")
    assert {} == Results.of(file).verdicts


def test_a_module_is_imported_from_the_mutants_source() -> None:
    finder = trial._Mutated("tests.pages", "VALUE = 'mutated'")
    spec = finder.find_spec("tests.pages", None)
    assert spec
    assert spec.loader is finder
    assert finder.find_spec("tests", None) is None
