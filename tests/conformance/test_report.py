"""What counts as a proof: every one of the kit's tests, passed, by its name; 64 are none."""

from __future__ import annotations

from collections.abc import Iterable

from tests.conformance import kit, runs

NAMES = kit.NAMES


def said(
    passed: Iterable[str] = NAMES, failed: Iterable[str] = (), counts: tuple[int, int] | None = None
) -> str:
    """What the kit prints of such a run. `counts`: what it says in the end, where that is something else."""
    passed, failed = tuple(passed), tuple(failed)
    lines = ["Running"]
    for status, names in (("SUCCESSFUL", passed), ("FAILED", failed)):
        for name in names:
            lines += ["", f"Started: {name}: Verify something", f"{status}: {name}", ""]
    good, bad = counts or (len(passed), len(failed))
    lines += [f"Passed tests: {good}", f"Failed tests: {bad}"]
    for name in failed:
        lines += ["Failures:", f"\n   ■ some.verification.Test.method_of_{name}\n"]
        lines += [f"     [{name}: Verify something]", f"     Expected AGREED but was TERMINATED in {name}\n"]
    return "".join(f"[2026-11-22T23:44:38.711464169] {line}\n" if line else "\n" for line in lines)


def problems(output: str) -> list[str]:
    return kit.read(output).problems()


def test_sixty_five_by_name_are_a_proof() -> None:
    report = kit.read(said())
    assert report.problems() == []
    assert set(report.outcomes) == set(NAMES)
    assert report.titles["CN:01-01"] == "Verify something"


def test_a_failure_is_told_with_its_reason() -> None:
    found = problems(said(NAMES[:-1], NAMES[-1:]))
    name = NAMES[-1]
    assert f"{name} failed: Expected AGREED but was TERMINATED in {name}" in found
    assert "the kit counted 64 passed and 1 failed, not 65 and 0" in found


def test_a_missing_test_is_a_failure() -> None:
    """Sixty-four that pass, and nothing that fails."""
    found = problems(said(NAMES[1:]))
    assert found == [f"{NAMES[0]} did not run", "the kit counted 64 passed and 0 failed, not 65 and 0"]


def test_the_count_alone_is_no_proof() -> None:
    """Another test in the place of a missing one."""
    found = problems(said([*NAMES[1:], "CN:99-99"]))
    assert found == [f"{NAMES[0]} did not run", "CN:99-99 is not a test we know"]


def test_a_repeated_test_stands_for_no_other() -> None:
    found = problems(said([*NAMES[1:], NAMES[1]]))
    assert found == [f"{NAMES[0]} did not run", "a test ran more than once"]


def test_the_names_alone_are_no_proof() -> None:
    assert problems(said(counts=(65, 1))) == ["the kit counted 65 passed and 1 failed, not 65 and 0"]


def test_a_run_that_broke_off_proves_nothing() -> None:
    for output in ("", "Error: could not find or load main class", said().split("Passed tests")[0]):
        assert "the kit counted None passed and None failed, not 65 and 0" in problems(output)


def test_the_table_names_every_test_and_every_problem() -> None:
    reports = {"SQLite": kit.read(said()), "PostgreSQL": kit.read(said(NAMES[1:-1], NAMES[-1:]))}
    lines = runs.table(reports)
    assert [line.split()[0] for line in lines[1:66]] == list(NAMES)
    assert [line.split()[1:3] for line in (lines[1], lines[65])] == [
        ["passed", "missing"],
        ["passed", "FAILED"],
    ]
    assert lines[66].split()[:7] == ["passed", "65", "of", "65", "63", "of", "65"]
    assert lines[67:] == runs.problems(reports)
    assert all(problem.startswith("PostgreSQL: ") for problem in runs.problems(reports))
