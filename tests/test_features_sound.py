"""Decoding sound from strangers: the right samples of any file, and none raises anything but Unusable."""

from __future__ import annotations

import io
import time
import tracemalloc
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sounds import encoded, noise, riff, tone

from palate.features.container import opened
from palate.features.problem import Unusable
from palate.features.sound import NoSound, decode
from palate.schema import Floats

RATE = 16_000
FORMS = [
    ("wav", "pcm_u8"), ("wav", "pcm_s16le"), ("wav", "pcm_s24le"), ("wav", "pcm_s32le"), ("wav", "pcm_f32le"),
    ("wav", "pcm_f64le"), ("wav", "pcm_alaw"), ("flac", "flac"), ("aiff", "pcm_s16be"), ("caf", "pcm_s16be"),
    ("mp3", "libmp3lame"), ("mp4", "aac"), ("adts", "aac"), ("ogg", "libopus"), ("ogg", "flac"),
    ("matroska", "libopus"), ("avi", "libmp3lame"), ("mpegts", "mp2"), ("wv", "wavpack"),
]  # fmt: skip


def pitch(samples: Floats, rate: int = RATE) -> float:
    """Frequency of the strongest partial, in Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * rate / len(samples))


def level(samples: Floats) -> float:
    """Amplitude of a steady tone."""
    return float(np.sqrt(2 * np.mean(np.square(samples[len(samples) // 4 : -len(samples) // 4]))))


@pytest.mark.parametrize(("container", "codec"), FORMS, ids=lambda value: str(value))
def test_any_container_and_codec_gives_the_same_sound(container: str, codec: str) -> None:
    made = decode(encoded(tone(1000, 1.5, 48_000), 48_000, container, codec), RATE)
    assert made.dtype == np.float32
    assert 1.49 <= len(made) / RATE <= 1.56  # codecs that work in blocks fill up the last one
    assert pitch(made) == pytest.approx(1000, abs=2)
    assert level(made) == pytest.approx(0.5, rel=0.06)


@pytest.mark.parametrize("found", [8_000, 11_025, 16_000, 22_050, 44_100, 44_101, 48_000, 96_000])
@pytest.mark.parametrize("wanted", [16_000, 22_050, 48_000])
def test_resampling_keeps_length_pitch_and_place(found: int, wanted: int) -> None:
    sound = tone(440, 1.0, found)
    made = decode(encoded(sound, found, "wav", "pcm_f32le"), wanted)
    assert abs(len(made) - wanted) <= 1
    middle = slice(wanted // 10, -wanted // 10)
    np.testing.assert_allclose(made[:wanted][middle], tone(440, 1.0, wanted)[: len(made)][middle], atol=2e-3)


def test_what_the_new_rate_cannot_hold_is_filtered_out() -> None:
    made = decode(encoded(tone(11_000, 1.0, 44_100), 44_100), RATE)
    assert np.abs(made[1000:-1000]).max() < 1e-3


def test_channels_are_averaged_alike_for_integer_and_float_samples() -> None:
    both = np.stack([tone(500, level=0.8), np.zeros(RATE, np.float32)])
    for codec in ("pcm_s16le", "pcm_f32le", "pcm_u8"):
        assert level(decode(encoded(both, codec=codec), RATE)) == pytest.approx(0.4, abs=0.01), codec
    opposite = np.stack([tone(500), -tone(500)])
    assert np.abs(decode(encoded(opposite), RATE)).max() < 1e-3
    six = np.stack([tone(500)] * 6)
    assert level(decode(encoded(six), RATE)) == pytest.approx(0.5, abs=0.01)


def test_python_s_own_wave_module_agrees() -> None:
    out = io.BytesIO()
    values = (noise() * 32_767).astype("<i2")
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(values.tobytes())
    np.testing.assert_allclose(decode(out.getvalue(), RATE), values / 32_768, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 2.5), st.floats(0.01, 2.5))
def test_a_stretch_is_that_part_of_the_whole(start: float, seconds: float) -> None:
    data = encoded(noise(2.0), codec="pcm_f32le")
    part = decode(data, RATE, seconds, start)
    low = round(start * RATE)
    np.testing.assert_allclose(part, np.clip(noise(2.0), -1, 1)[low : low + len(part)], atol=1e-6)
    assert abs(len(part) - min(max(0.0, 2.0 - start), seconds) * RATE) <= 2


def test_a_stretch_of_a_lossy_file_is_in_its_place() -> None:
    for container, codec in (("mp3", "libmp3lame"), ("mp4", "aac"), ("ogg", "libopus")):
        sound = np.concatenate([tone(300, 1.0, 48_000), tone(2000, 1.0, 48_000)])
        data = encoded(sound, 48_000, container, codec)
        assert pitch(decode(data, RATE, 0.8, 0.1)) == pytest.approx(300, abs=3), container
        assert pitch(decode(data, RATE, 0.8, 1.1)) == pytest.approx(2000, abs=3), container
        whole = decode(data, RATE)
        np.testing.assert_allclose(decode(data, RATE, 0.5, 0.7), whole[11_200:19_200], atol=0.02)


def test_what_cannot_be_meant_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="expected rate >= 1, seconds > 0 and start >= 0, got 16000, 0, 0"):
        decode(encoded(tone(440)), RATE, 0)


@pytest.mark.parametrize("on_disk", [True, False], ids=["samples", "header only"])
def test_a_wav_of_three_hours_is_read_as_far_as_the_limit(tmp_path: Path, on_disk: bool) -> None:
    path, size = tmp_path / "long.wav", 3 * 3600 * 8_000
    start = (128 + 100 * tone(440, 90, 8_000, 1.0)).astype(np.uint8).tobytes()
    with path.open("wb") as file:
        file.write(riff(start, claimed=size))
        if on_disk:
            file.truncate(44 + size)  # a hole: 86 MB that take no room
    tracemalloc.start()
    began = time.perf_counter()
    made = decode(path, RATE, 60.0)
    taken, (_, most) = time.perf_counter() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(made) == 60 * RATE
    assert pitch(made[:RATE]) == pytest.approx(440, abs=2)
    assert most < 30_000_000  # 3.8 MB of samples, some copies; three hours would be 690 MB
    assert taken < 20  # a second on an idle machine


def test_a_header_may_lie_about_its_size() -> None:
    samples = (128 + 100 * tone(440, 1, 8_000, 1.0)).astype(np.uint8).tobytes()
    for claimed in (2**32 - 1, 10**9, 0):
        made = decode(riff(samples, claimed=claimed), 8_000)
        assert len(made) == 8_000, claimed
    assert len(decode(riff(samples, claimed=4_000), 8_000)) == 4_000
    for rate in (1, 0, 2**31, 4_000_000_000):
        with pytest.raises(Unusable, match=r"sample rate|cannot be opened|not sound"):
            decode(riff(samples, rate=rate), 8_000)
    with pytest.raises(Unusable, match="channels; expected 1 to 64"):
        decode(riff(samples, channels=100), 8_000)


def test_damaged_mp3_counts_as_far_as_it_can_be_heard() -> None:
    data = encoded(tone(1000, 4.0, 44_100), 44_100, "mp3", "libmp3lame")
    cut = decode(data[: len(data) // 2], RATE)
    assert 1.5 < len(cut) / RATE < 2.3
    assert pitch(cut) == pytest.approx(1000, abs=2)
    holed = bytearray(data)
    holed[len(data) // 2 : len(data) // 2 + 300] = bytes(300)  # one frame or two
    assert pitch(decode(bytes(holed), RATE)) == pytest.approx(1000, abs=3)
    rng = np.random.default_rng(1)
    broken = np.frombuffer(data, np.uint8).copy()
    broken[400:] = rng.integers(0, 256, len(data) - 400)
    with pytest.raises(Unusable, match=r"not sound or film|parts cannot be decoded|cannot be"):
        decode(broken.tobytes(), RATE)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", r"the file is empty \(0 bytes\)"),
        (b"this is a text file\n" * 50, r"not sound or film that can be opened \(WAV, .*starts with b'this is a te"),
        (riff(b"")[:20], "not sound or film"),
        (riff(np.array([0, np.nan, 0.5], np.float32).tobytes() * 99, bits=32), r"not finite \(NaN or infinity\)"),
        (riff(np.array([0, np.inf, 0.5], np.float32).tobytes() * 99, bits=32), r"not finite \(NaN or infinity\)"),
        (encoded(tone(440), container="mp4", codec="aac")[:1000], "not sound or film"),
    ],
    ids=["empty", "text", "cut header", "NaN", "infinity", "mp4 without its index"],
)
def test_what_cannot_be_used_says_why(data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "sound.mp3"  # the name promises what the content is not
    path.write_bytes(data)
    for source in (data, path):
        with pytest.raises(Unusable, match=reason):
            decode(source, RATE)


def test_the_name_of_a_file_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "song.txt"
    path.write_bytes(encoded(tone(440), container="flac", codec="flac"))
    np.testing.assert_allclose(decode(path, RATE), tone(440), atol=1e-3)
    strange = tmp_path / "concat:a|b\n.m3u8"
    path.rename(strange)
    assert len(decode(strange, RATE)) == RATE


def test_files_are_bounded_before_they_are_opened(tmp_path: Path) -> None:
    data = encoded(tone(440))
    path = tmp_path / "a.wav"
    with pytest.raises(Unusable, match="there is no such file"):
        decode(path, RATE)
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(Unusable, match=f"{len(data)} bytes, more than the limit of 1000"):
            decode(source, RATE, max_bytes=1000)
    for other in (tmp_path, Path("/dev/zero")):
        with pytest.raises(Unusable, match="a folder or a device"):
            decode(other, RATE)


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:9.0,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{}'\nduration 1\n",
        "[playlist]\nFile1={}\nNumberOfEntries=1\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\na=x:{}\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
        '<Representation id="1"><BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    ],
    ids=["hls", "concat", "pls", "sdp", "dash"],
)
def test_a_playlist_opens_no_other_file(playlist: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(encoded(tone(440)))
    listed = tmp_path / "list.m3u8"
    listed.write_text(playlist.format(secret))
    with pytest.raises(Unusable, match="not sound or film that can be opened"):
        decode(listed, RATE)


def test_a_playlist_that_passed_for_a_sound_could_open_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from palate.features import container

    secret = tmp_path / "secret.wav"
    secret.write_bytes(encoded(tone(440)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(container, "DEMUXERS", ("concat", "hls"))  # as if the first gate stood open
    with pytest.raises(Unusable, match="not sound or film that can be opened"):
        decode(f"ffconcat version 1.0\nfile '{secret.name}'\nduration 1\n".encode(), RATE)


def test_reading_to_and_fro_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    from palate.features import container

    data = encoded(tone(440, 20.0), codec="pcm_f32le")
    monkeypatch.setattr(container, "SLACK", 300_000)
    monkeypatch.setattr(container, "REREAD", 0)
    with pytest.raises(Unusable, match="to and fro without end"):
        decode(data, RATE)


def test_silence_is_sound_and_a_film_without_sound_is_told_apart() -> None:
    made = decode(encoded(np.zeros(RATE, np.float32)), RATE)
    assert made.shape == (RATE,)
    assert not made.any()
    with pytest.raises(NoSound, match="there is no sound track in it"):
        decode(film(), RATE)
    with opened(film()) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def film() -> bytes:
    import av

    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as file:
        stream = file.add_stream("mjpeg", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
        for n in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * n, np.uint8), format="rgb24")
            for packet in stream.encode(frame):
                file.mux(packet)
        for packet in stream.encode(None):
            file.mux(packet)
    return out.getvalue()


def test_samples_beyond_full_scale_are_clipped() -> None:
    loud = riff(np.array([0, 3e38, -3e38, 2.0, 0.25], np.float32).tobytes() * 500, bits=32)
    np.testing.assert_array_equal(decode(loud, 8_000)[:5], [0, 1, -1, 1, 0.25])
    assert np.abs(decode(loud, 11_025)).max() <= 1


def test_ffmpeg_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(encoded(tone(440, 2.0), container="mp3", codec="libmp3lame"))
    data[500:700] = bytes(200)
    for source in (bytes(data), b"#EXTM3U\n/x\n", b"\xff\xfb" * 400):
        try:
            decode(source, RATE)
        except Unusable:
            continue
    assert capfd.readouterr() == ("", "")


def usable(data: bytes) -> None:
    try:
        made = decode(data, RATE, 5.0)
    except Unusable:
        return
    assert made.dtype == np.float32
    assert made.ndim == 1
    assert len(made) <= 5 * RATE
    assert np.abs(made).max(initial=0.0) <= 1.0  # and so finite


MAGIC = [
    b"", riff(b"")[:40], b"ID3\x04\0\0", b"\xff\xfb\x90\x64", b"OggS\0\x02", b"fLaC\0\0\0\x22",
    b"\x1aE\xdf\xa3", b"\0\0\0\x18ftypisom", b"FORM\0\0\0\0AIFF", b"#EXTM3U\n",
]  # fmt: skip


@settings(deadline=None, max_examples=80)
@given(
    st.binary(max_size=400),
    st.sampled_from(MAGIC),
)
def test_any_bytes_give_sound_or_unusable(data: bytes, magic: bytes) -> None:
    usable(magic + data)


VALID = {
    form: encoded(tone(700, 0.3), container=form[0], codec=form[1])
    for form in FORMS
    if form[1] not in {"pcm_s32le", "pcm_f64le", "pcm_alaw", "pcm_s24le"}
}


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(sorted(VALID)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=6)), max_size=8),
    st.floats(0, 1),
    st.booleans(),
)
def test_a_mutated_file_gives_sound_or_unusable(
    form: tuple[str, str], edits: list[tuple[float, bytes]], kept: float, head: bool
) -> None:
    data = bytearray(VALID[form])
    reach = min(len(data), 200) if head else len(data)  # most of what can be broken lies in the header
    for place, patch in edits:
        at = int(place * reach)
        data[at : at + len(patch)] = patch
    usable(bytes(data[: int(len(data) * (1 - kept**4))]))
