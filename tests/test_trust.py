"""`make trust` in small: a few inputs at every door, and one fault."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from trust.__main__ import arguments
from trust.faults import Fault
from trust.fuzz import SilentChange, Target
from trust.pool import Tally, inline, made_of

from palate.registry import plugins

TARGETS = plugins("trust.fuzz", Target)  # type: ignore[type-abstract]


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_few_inputs_at_every_door(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from palate.apps.candidates import chunks
    from palate.sources import unpack

    for module, names in ((chunks, ("WEIGHT", "REQUESTS")), (unpack, ("MAX_BYTES", "MAX_FILES"))):
        for limit in names:
            monkeypatch.setattr(module, limit, getattr(module, limit))  # what a target changes is put back
    tally = inline(TARGETS[name](), 2, range(25))
    assert tally.broken == 0, tally.findings
    assert sum(tally.counts.values()) == 25


class Door(Target):
    name = "door"
    about = "numbers"

    def make(self, rng: Random) -> int:
        return rng.randrange(3)

    def judge(self, case: int) -> None:
        if case == 1:
            raise ZeroDivisionError("broken")
        if case == 2:
            raise SilentChange("another number")


def test_what_breaks_is_counted_and_can_be_made_again() -> None:
    door = Door()
    made = [made_of(door, 5, n) for n in range(60)]
    tally: Tally = inline(door, 5, range(60))
    assert [tally.counts[k] for k in ("accepted", "crash", "silent")] == [made.count(n) for n in range(3)]
    assert {f.case for f in tally.findings if f.kind == "crash"} == {n for n, m in enumerate(made) if m == 1}


def test_a_fault_holds(tmp_path: Path) -> None:
    outcome = plugins("trust.faults", Fault)["cache-damaged"]().run(1, 0.25)  # type: ignore[type-abstract]
    assert (outcome.tried, outcome.held, outcome.skipped) == (2, 2, ""), outcome.broken


def test_an_unknown_name_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--only", "imagse"])
    assert "nothing is called 'imagse'" in capsys.readouterr().err
