"""The example film: its stretches show the pictures it was made of."""

from __future__ import annotations

from pathlib import Path

import pytest
from examples import film


@pytest.mark.weights
def test_each_stretch_of_the_example_film_is_nearest_to_its_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    film.main("", str(tmp_path / "film.mp4"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "film.mp4: 8 s, 4 pictures to choose from"
    assert [line.rpartition(" (")[0] for line in lines[1:]] == [
        f"stretch {n + 1}: shows drawn{n}, nearest is drawn{n}" for n in range(4)
    ]
    assert 20_000 < (tmp_path / "film.mp4").stat().st_size < 2_000_000
