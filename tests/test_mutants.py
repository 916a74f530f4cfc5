"""The list of faults that `make mutants` puts into kit fits the code."""

from __future__ import annotations

import mutants


def test_every_fault_has_its_line_once_and_names_tests_that_are_there():
    assert len(mutants.FAULTS) >= 60
    for fault in mutants.FAULTS:
        assert mutants.problem(fault, (mutants.ROOT / "kit" / fault.file).read_text()) is None
        for target in (word for word in fault.tests.split() if word.startswith("test_")):
            file, _, name = target.partition("::")
            assert f"def {name.partition('[')[0]}" in (mutants.ROOT / "tests" / file).read_text()
