"""Films from strangers: the right frame at each moment whatever the codec, and a defined outcome for odd files."""

from __future__ import annotations

import resource
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.films import BLUE, COLOURS, RED, Shot, film
from tests.sounds import tone

from palate.features import film as reading
from palate.features.film import Limits, Reel, stills, survey
from palate.features.problem import Unusable

FORMATS = {
    "a.mp4": Shot(),
    "a.webm": Shot("libvpx-vp9"),
    "a.ogv": Shot("vp8"),
    "a.gif": Shot("gif", "rgb8", fps=5),
    "a.avi": Shot("mpeg4"),
    "a.mov": Shot("mjpeg", "yuvj420p"),
    "a.ts": Shot(),
    "a.mpg": Shot("mpeg2video", fps=25),
    "a.flv": Shot("flv"),
    "a.wmv": Shot("wmv2"),
    "ten_bits.mkv": Shot("ffv1", "yuv444p10le"),
    "grey.mkv": Shot("ffv1", "gray16le"),
    "odd.mp4": Shot("libx264", "yuv444p", size=(33, 17)),
}


def shown(path: Path, moments: list[float], limits: Limits | None = None) -> list[Image.Image]:
    """The picture at each moment."""
    reel = survey(path, limits)
    assert reel is not None
    found: dict[int, Image.Image] = {}
    for chosen, picture in stills(path, reel, np.array(moments), 32, limits):
        found.update(dict.fromkeys(chosen, picture))
    return [found[n] for n in range(len(moments))]


def colour(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=float).mean(axis=(0, 1))


@pytest.mark.parametrize("name", FORMATS)
def test_any_container_codec_and_pixel_format_shows_the_same(name: str, tmp_path: Path) -> None:
    path = film(tmp_path / name, COLOURS, shot=FORMATS[name])
    reel = survey(path)
    assert reel is not None
    assert reel.end == pytest.approx(4.0, abs=0.3)
    found = [colour(p) for p in shown(path, [0.3, 0.7, 1.5, 2.5, 3.5])]
    wanted = [np.array(c, dtype=float) for c in (COLOURS[0], *COLOURS)]
    if name == "grey.mkv":
        found, wanted = [c.mean() for c in found], [c @ (0.299, 0.587, 0.114) for c in wanted]
    np.testing.assert_allclose(found, wanted, atol=24 if name == "a.gif" else 12)


def ramp(count: int) -> list[np.ndarray]:
    """Pictures that tell their number in six bars, black or white."""
    bits = (np.arange(count)[:, None] >> np.arange(6)) & 1
    return [np.tile(np.repeat(20 + 200 * b, 16)[None, :, None], (64, 1, 3)).astype(np.uint8) for b in bits]


def numbers(path: Path, moments: list[float], limits: Limits | None = None) -> list[int]:
    bars = [
        np.asarray(p, dtype=float)[..., 1].mean(axis=0).reshape(6, 8).mean(axis=1) for p in shown(path, moments, limits)
    ]
    return [int((b > 128) @ (1 << np.arange(6))) for b in bars]


@pytest.mark.parametrize(("codec", "gop"), [("libx264", 4), ("libx264", 60), ("mpeg4", 10)])
def test_each_moment_shows_the_frame_on_screen(codec: str, gop: int, tmp_path: Path) -> None:
    """H.264 with frames out of order; moments in any run, several in one, two in one frame, past the end."""
    path = film(tmp_path / "a.mkv", ramp(50), shot=Shot(codec, fps=10, still=0.1, gop=gop))
    assert numbers(path, [0.02, 0.55, 1.07, 1.08, 2.36, 4.97, 99.0]) == [0, 5, 10, 10, 23, 49, 49]
    assert numbers(path, [3.31]) == [33]


def test_where_exact_frames_cost_too_much_key_frames_stand_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film(tmp_path / "a.avi", ramp(40), shot=Shot("mpeg4", fps=10, still=0.1, gop=10))
    reel = survey(path)
    assert reel is not None
    keys = np.unique(reel.runs, return_index=True)[1]
    assert len(keys) >= 4
    monkeypatch.setattr(reading, "BUDGET", 20 * reading.SMALL)
    assert numbers(path, [0.55]) == [5]
    moments = [0.55, 1.05, 1.95, 2.05, 3.15, 3.95]
    assert numbers(path, moments) == [max(keys[keys <= round(t * 10 - 0.5)]) for t in moments]


def test_frames_of_uneven_length_stay_on_screen(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", ramp(4), shot=Shot(times=[0.0, 0.5, 0.6, 7.0]))
    assert numbers(path, [0.4, 0.55, 0.65, 6.9, 7.0]) == [0, 1, 2, 2, 3]


def test_one_frame_is_a_film(tmp_path: Path) -> None:
    for name, shot in {"a.mp4": Shot(fps=5, still=0.2), "a.gif": Shot("gif", "rgb8", fps=5, still=0.2)}.items():
        path = film(tmp_path / name, [RED], shot=shot)
        assert len(shown(path, [0.0, 0.1, 50.0])) == 3


def test_an_hour_is_read_as_far_as_the_limit(tmp_path: Path) -> None:
    times = [float(n) for n in range(0, 3600, 60)]
    path = film(tmp_path / "hour.mp4", ramp(60), shot=Shot("mpeg4", times=times, gop=1))
    reel = survey(path)
    assert reel is not None
    assert (reel.end, len(reel.times)) == (600.0, 11)
    assert numbers(path, [5.0, 599.0]) == [0, 9]
    assert numbers(path, [5.0, 1810.0, 3599.0], Limits(seconds=3600)) == [0, 30, 59]


def test_packets_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = film(tmp_path / "a.avi", COLOURS, shot=Shot("mpeg4", fps=20))
    monkeypatch.setattr(reading, "PACKETS", 2)
    reel = survey(path, Limits(seconds=4))
    assert reel is not None
    assert len(reel.times) == 16


def test_pictures_are_upright_square_and_small(tmp_path: Path) -> None:
    halves = np.zeros((200, 400, 3), dtype=np.uint8)
    halves[:, :200], halves[:, 200:] = RED, BLUE
    for turn, (top, bottom) in {90: (BLUE, RED), -90: (RED, BLUE)}.items():
        path = film(tmp_path / f"{turn}.mp4", [halves], shot=Shot(size=(400, 200), still=0.3, turn=turn))
        (picture,) = shown(path, [0.1])
        assert picture.size == (32, 64)
        np.testing.assert_allclose(np.asarray(picture)[2, 16], top, atol=12)
        np.testing.assert_allclose(np.asarray(picture)[-3, 16], bottom, atol=12)
    path = film(tmp_path / "180.mp4", [halves], shot=Shot(size=(400, 200), still=0.3, turn=180))
    np.testing.assert_allclose(np.asarray(shown(path, [0.1])[0])[16, 3], BLUE, atol=12)
    wide = film(tmp_path / "wide.mp4", [RED], shot=Shot(size=(100, 100), still=0.3, stretch=2))
    assert shown(wide, [0.1])[0].size == (64, 32)


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    clear = np.zeros((64, 96, 4), dtype=np.uint8)
    clear[:, 48:] = (*BLUE, 255)
    path = film(tmp_path / "a.mov", [clear], shot=Shot("png", "rgba", still=0.3))
    (picture,) = shown(path, [0.1])
    assert picture.mode == "RGB"
    np.testing.assert_allclose(np.asarray(picture)[16, [2, -2]], [(255, 255, 255), BLUE], atol=3)


def gif_header(width: int, height: int, rest: bytes = b"\0\0\0") -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + rest


def claiming(path: Path, width: int, height: int) -> bytes:
    """An mp4 file whose header claims another frame size."""
    data = bytearray(path.read_bytes())
    at = data.index(b"avc1", data.index(b"stsd")) + 28
    data[at : at + 4] = struct.pack(">HH", width, height)
    return bytes(data)


def test_what_cannot_be_used_says_why(tmp_path: Path) -> None:
    whole = film(tmp_path / "a.mp4", COLOURS)
    data = whole.read_bytes()
    unknown = film(tmp_path / "a.mkv", [RED], shot=Shot("snow"))
    picture = tmp_path / "p.png"
    Image.new("RGB", (50, 50)).save(picture)
    cases: dict[bytes | Path, str] = {
        b"": r"empty \(0 bytes\)",
        b"I am a text file\n" * 99: "not sound or film that can be opened .* starts with b'I am a text '",
        data[: len(data) // 2]: "not sound or film",  # an mp4 file keeps its index at the end
        picture: "not sound or film",
        tmp_path / "none.mp4": "no such file",
        tmp_path: "a folder or a device",
        unknown: "pictures are in the codec snow; expected one of h264",
        gif_header(30_000, 30_000) + film(tmp_path / "a.gif", [RED], shot=Shot("gif", "rgb8")).read_bytes()[10:]: (
            "30000 x 30000 pixels a frame, more than the limit of 16000000"
        ),
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n": "not sound or film",
    }
    for n, (content, reason) in enumerate(cases.items()):
        path = content if isinstance(content, Path) else tmp_path / f"{n}.mp4"
        if isinstance(content, bytes):
            path.write_bytes(content)
        with pytest.raises(Unusable, match=reason):
            shown(path, [0.1])
    with pytest.raises(Unusable, match="more than the limit of 100"):
        survey(whole, Limits(max_bytes=100))
    with pytest.raises(Unusable, match="96 x 64 pixels a frame, more than the limit of 6000"):
        survey(whole, Limits(max_pixels=6000))


@pytest.mark.parametrize("claimed", [(30_000, 30_000), (16, 16)])
def test_a_header_that_lies_about_the_frame_size_is_not_believed(claimed: tuple[int, int], tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", [RED], shot=Shot(size=(640, 480), still=0.3))
    path.write_bytes(claiming(path, *claimed))
    with pytest.raises(Unusable, match=r"30000 x 30000 pixels|640 x 480 pixels|cannot be decoded"):
        shown(path, [0.1], Limits(max_pixels=200_000))


def test_an_index_that_claims_millions_of_frames_takes_no_memory(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", [RED], shot=Shot("mpeg4"))
    data = bytearray(path.read_bytes())
    many = 60_000_000
    sizes, chunks, times = (data.index(name) for name in (b"stsz", b"stsc", b"stts"))
    data[sizes + 8 : sizes + 16] = struct.pack(">II", 1, many)  # of one byte each
    data[chunks + 16 : chunks + 20] = struct.pack(">I", many)  # all in one chunk
    data[times + 12 : times + 16] = struct.pack(">I", many)
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Unusable, match=r"holds no frame|not sound or film"):
        survey(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # in units of 1 KB


def test_a_film_that_breaks_off_counts_as_far_as_it_goes(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", ramp(40), shot=Shot("mpeg4", fps=10, still=0.1, gop=5))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    reel = survey(path)
    assert reel is not None
    assert 1.5 < reel.end < 3.5
    assert numbers(path, [0.15, 1.25]) == [1, 12]
    path.write_bytes(data[:600])
    with pytest.raises(Unusable, match=r"holds no frame|not sound or film|cannot be decoded"):
        shown(path, [0.1])


def test_damage_in_the_middle_costs_little_and_damage_everywhere_the_film(tmp_path: Path) -> None:
    noise = [np.random.default_rng(n).integers(0, 256, (64, 96, 3), dtype=np.uint8) for n in range(20)]
    path = film(tmp_path / "a.avi", noise, shot=Shot("mjpeg", "yuvj420p", fps=10, still=0.1))
    data = bytearray(path.read_bytes())
    start = data.index(b"movi")
    middle = slice(start + len(data) // 2, start + len(data) // 2 + 3000)
    data[middle] = bytes(3000)
    path.write_bytes(data)
    assert len(shown(path, [0.05, 0.15])) == 2
    data[start + 40 :: 7] = bytes(len(data[start + 40 :: 7]))
    path.write_bytes(data)
    with pytest.raises(Unusable, match=r"cannot be decoded|holds no frame|not sound or film"):
        shown(path, [0.05, 0.95, 1.55])


def test_sound_alone_and_cover_art_are_no_picture_track(tmp_path: Path) -> None:
    assert survey(film(tmp_path / "a.mp4", [], tone(440), Shot(None))) is None
    assert (
        survey(film(tmp_path / "cover.mp4", [RED], tone(440), Shot("mjpeg", "yuvj420p", still=0.1, cover=True))) is None
    )


MUTABLE = ("a.mp4", "a.webm", "a.gif", "a.avi", "a.ts", "a.flv")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("seeds")
    sounds = {"a.gif": None, "a.webm": None}
    return {n: film(folder / n, COLOURS[:2], sounds.get(n, tone(440)), FORMATS[n]).read_bytes() for n in MUTABLE}


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(MUTABLE),
    st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=6)), min_size=1, max_size=12),
    st.floats(0.05, 1.0),
)
def test_mutated_bytes_give_pictures_or_unusable(
    seeds: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    changes: list[tuple[float, bytes]],
    kept: float,
) -> None:
    data = bytearray(seeds[name])
    for place, put in changes:
        at = int(place**3 * len(data))  # more often in the header
        data[at : at + len(put)] = put
    path = tmp_path_factory.mktemp("mutated") / "a"
    path.write_bytes(data[: int(kept * len(data))])
    limits = Limits(max_pixels=1_000_000)
    try:
        reel = survey(path, limits)
        if reel is not None:
            for _, picture in stills(path, reel, np.array([0.1, 0.7, 1.5]), 32, limits):
                assert picture.mode == "RGB"
    except Unusable:
        return


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.floats(-10, 700), st.booleans()), min_size=1, max_size=40),
    st.lists(st.floats(0, 600), min_size=1, max_size=20).map(sorted),
)
def test_every_moment_belongs_to_one_run(packets: list[tuple[float, bool]], moments: list[float]) -> None:
    """Whatever order a stranger's time stamps come in."""
    times = np.array([t for t, _ in packets])
    runs = np.cumsum([n == 0 or key for n, (_, key) in enumerate(packets)]) - 1
    reel = Reel(times, runs, 0.0, 600.0, reading.SMALL)
    wanted = reel.wanted(np.array(moments))
    assert sorted(n for chosen in wanted.values() for n in chosen) == list(range(len(moments)))
    assert set(wanted) <= set(runs.tolist())
    assert 0 < reel.cost(np.array(moments)) <= (len(packets) + len(wanted)) * reading.SMALL
