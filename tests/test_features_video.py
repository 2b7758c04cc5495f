"""The video encoder: picture and sound of a film in the order of time, whatever its frame rate and tracks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.films import BLUE, COLOURS, GREEN, RED, YELLOW, Shot, film
from tests.sounds import tone

from palate.config import EncoderConfig
from palate.errors import ConfigError
from palate.features import FeatureStore, acoustics, compute, encode_item
from palate.features.encoders.audio import AudioEncoder
from palate.features.encoders.video import VideoEncoder
from palate.schema import Floats, Item

WIDTH, SOUND = 16, acoustics.WIDTH
TONES = np.concatenate([tone(hertz) for hertz in (220, 440, 880, 1760)])


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "weights" not in request.keywords:
        monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random vision transformer."""
    import torch
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vit")
    config = ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32,
        patch_size=8, initializer_range=0.5,  # more than usual, so that colours tell
    )  # fmt: skip
    ViTModel(config).save_pretrained(folder)
    facts = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(facts))
    return folder


def encoder(folder: Path, **options: object) -> VideoEncoder:
    return VideoEncoder(EncoderConfig(source=f"path:{folder}", options={"device": "cpu", **options}))


def item(path: Path) -> Item:
    return Item(path.name, path.stem, media={"video": path})


def rows(made: VideoEncoder, *paths: Path) -> Floats:
    """float32 [n, T, F]; every film must be usable."""
    encoded = made.encode([item(p) for p in paths])
    assert encoded.problems == []
    assert encoded.present.all()
    assert encoded.vectors.dtype == np.float32
    return encoded.vectors.reshape(len(paths), made.tokens, -1)


def cosine(one: Floats, other: Floats) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def parts(row: Floats) -> tuple[Floats, Floats, list[int], list[int]]:
    """Image vectors, sound vectors, has picture, has sound of the stretches [T, F]."""
    assert row.shape[1] == WIDTH + SOUND + 2
    return row[:, :WIDTH], row[:, WIDTH:-2], row[:, -2].tolist(), row[:, -1].tolist()


def test_a_stretch_is_its_picture_and_its_sound(vit: Path, tmp_path: Path) -> None:
    made = encoder(vit)
    assert (made.tokens, made.width) == (4, 4 * (WIDTH + SOUND + 2))
    path = film(tmp_path / "a.mp4", COLOURS, TONES)
    images, sounds, seen, heard = parts(rows(made, path)[0])
    assert seen == heard == [1, 1, 1, 1]
    for n, colour in enumerate(COLOURS):
        alone = film(tmp_path / f"{n}.mp4", [colour], shot=Shot(still=0.5))
        np.testing.assert_allclose(images[n], rows(made, alone)[0, 0, :WIDTH], atol=0.05)
        assert np.argmin(np.linalg.norm(images - images[n], axis=1)) == n
    audio = AudioEncoder()
    wanted = audio.describe(
        np.array_split(np.concatenate([tone(h, rate=audio.rate) for h in (220, 440, 880, 1760)]), 4)
    )
    for n in range(4):
        assert np.argmax([cosine(sounds[n], w) for w in wanted]) == n
        assert cosine(sounds[n], wanted[n]) > 0.95


def test_a_film_run_backwards_has_its_tokens_reversed(vit: Path, tmp_path: Path) -> None:
    backwards = film(tmp_path / "b.mp4", COLOURS[::-1], TONES[::-1].copy())
    there, back = rows(encoder(vit), film(tmp_path / "a.mp4", COLOURS, TONES), backwards)
    np.testing.assert_allclose(there[:, :WIDTH], back[::-1, :WIDTH], atol=0.05)
    assert min(cosine(a, b) for a, b in zip(there, back[::-1], strict=True)) > 0.98
    assert np.abs(there[:, :WIDTH] - back[:, :WIDTH]).max() > 0.5


def test_frame_rate_and_codec_hardly_matter(vit: Path, tmp_path: Path) -> None:
    shots = {"a.mp4": Shot(fps=4), "b.mp4": Shot(fps=25), "c.webm": Shot("libvpx-vp9"), "d.avi": Shot("mpeg4", fps=12)}
    made = rows(encoder(vit, fps=2), *(film(tmp_path / n, COLOURS, shot=s) for n, s in shots.items()))
    for other in made[1:]:
        np.testing.assert_allclose(made[0], other, atol=0.08)


def test_what_a_film_lacks_is_zero_and_flagged(vit: Path, tmp_path: Path) -> None:
    made = encoder(vit)
    silent = film(tmp_path / "silent.mp4", COLOURS)
    dark = film(tmp_path / "dark.m4a", [], TONES, Shot(None))
    longer = film(tmp_path / "longer.mp4", [RED], TONES)
    shorter = film(tmp_path / "shorter.mp4", COLOURS, tone(440, 1.0))
    first, second, third, fourth = rows(made, silent, dark, longer, shorter)
    images, sounds, seen, heard = parts(first)
    assert (seen, heard, sounds.any()) == ([1] * 4, [0] * 4, False)
    images, sounds, seen, heard = parts(second)
    assert (seen, heard, images.any()) == ([0] * 4, [1] * 4, False)
    images, _, seen, heard = parts(third)  # the last picture stays on screen
    assert (seen, heard) == ([1] * 4, [1] * 4)
    np.testing.assert_allclose(images, np.tile(images[0], (4, 1)), atol=1e-6)
    _, sounds, seen, heard = parts(fourth)
    assert (seen, heard[0], heard[2:], sounds[2:].any()) == ([1] * 4, 1, [0, 0], False)
    alone = encoder(vit, sound=False)
    assert alone.width == 4 * (WIDTH + 1)
    np.testing.assert_allclose(rows(alone, silent)[0], first[:, [*range(WIDTH), -2]], atol=1e-6)
    assert "no picture track" in alone.encode([item(dark)]).problems[0].reason


def test_a_film_shorter_than_its_stretches_shows_a_frame_in_several(vit: Path, tmp_path: Path) -> None:
    one = film(tmp_path / "one.mp4", [RED], shot=Shot(fps=5, still=0.2))
    two = film(tmp_path / "two.mp4", [RED, BLUE], shot=Shot(fps=5, still=0.2))
    single, double = rows(encoder(vit), one, two)
    np.testing.assert_allclose(single, np.tile(single[0], (4, 1)), atol=1e-6)
    np.testing.assert_allclose(double[0], double[1], atol=1e-6)
    np.testing.assert_allclose(double[2], double[3], atol=1e-6)
    np.testing.assert_allclose(double[0], single[0], atol=0.05)
    assert np.abs(double[1] - double[2]).max() > 0.5


@pytest.mark.parametrize(
    ("options", "pictures"),
    [({}, 8), ({"fps": 0.1}, 4), ({"fps": 4}, 32), ({"fps": 4, "frames": 9}, 8), ({"frames": 1, "tokens": 2}, 2)],
)
def test_frames_looked_at_are_counted(
    vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, float], pictures: int
) -> None:
    path = film(tmp_path / "a.mkv", COLOURS, shot=Shot("mpeg4", fps=10, still=2.0))
    made = encoder(vit, **options)
    seen: list[int] = []
    forward = made.backend.forward
    monkeypatch.setattr(made.backend, "forward", lambda batch: (seen.append(len(batch)), forward(batch))[1])
    rows(made, path)
    assert sum(seen) == pictures
    assert max(seen) <= made.batch


def test_only_the_first_seconds_count(vit: Path, tmp_path: Path) -> None:
    long, cut = film(tmp_path / "a.mp4", COLOURS, TONES), film(tmp_path / "b.mp4", COLOURS[:2], TONES[: 2 * 16_000])
    one, other = rows(encoder(vit, max_seconds=2), long, cut)
    np.testing.assert_allclose(one[:, :WIDTH], other[:, :WIDTH], atol=0.05)
    assert min(cosine(a, b) for a, b in zip(one, other, strict=True)) > 0.98


def mute(path: Path) -> Path:
    """Overwrite all sound of an AVI file."""
    data = bytearray(path.read_bytes())
    at = data.index(b"01wb")
    while at >= 0:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        data[at + 8 : at + 8 + size] = bytes(size)
        at = data.find(b"01wb", at + 8, data.index(b"idx1"))
    path.write_bytes(data)
    return path


def test_bad_films_cost_their_item_only_and_order_does_not_matter(vit: Path, tmp_path: Path) -> None:
    good = [
        film(tmp_path / "a.mp4", COLOURS, TONES),
        film(tmp_path / "b.webm", [GREEN, RED], shot=Shot("libvpx-vp9")),
        film(tmp_path / "c.mp3", [], TONES, Shot(None, audio="libmp3lame")),
        film(tmp_path / "d.gif", [YELLOW, BLUE], shot=Shot("gif", "rgb8", fps=5)),
    ]
    text, empty, gone = tmp_path / "text.mp4", tmp_path / "empty.mp4", tmp_path / "gone.mp4"
    text.write_text("I am a text file")
    empty.write_bytes(b"")
    broken = mute(film(tmp_path / "broken.avi", COLOURS, TONES, Shot("mpeg4", audio="libmp3lame")))
    mixed = [good[0], text, good[1], empty, broken, good[2], gone, good[3]]
    made = encoder(vit, batch=3).encode([item(p) for p in mixed])
    assert made.present.tolist() == [True, False, True, False, False, True, False, True]
    assert not made.vectors[~made.present].any()
    reasons = {p.item_id: p.reason for p in made.problems}
    assert list(reasons) == ["text.mp4", "empty.mp4", "broken.avi", "gone.mp4"]
    assert "not sound or film" in reasons["text.mp4"]
    assert "empty (0 bytes)" in reasons["empty.mp4"]
    assert "no such file" in reasons["gone.mp4"]
    assert "option sound: false takes the pictures alone" in reasons["broken.avi"]
    alone = encoder(vit, batch=64, workers=1)
    np.testing.assert_allclose(made.vectors[made.present], rows(alone, *good).reshape(4, -1), atol=1e-5)
    np.testing.assert_allclose(rows(alone, *good[::-1])[::-1], rows(alone, *good), atol=1e-5)
    assert rows(encoder(vit, sound=False), broken)[0, :, -1].tolist() == [1] * 4


def fingerprint(folder: Path, **options: object) -> str:
    return encoder(folder, **options).fingerprint


def test_the_fingerprint_covers_what_counts(vit: Path, tiny_speech: Path) -> None:
    plain = fingerprint(vit)
    assert plain.startswith("video-")
    neutral = {"batch": 5, "workers": 1, "max_bytes": 99, "max_pixels": 99}
    assert fingerprint(vit, **neutral) == plain
    changes: Sequence[dict[str, object]] = [
        {"tokens": 2}, {"fps": 2}, {"frames": 8}, {"max_seconds": 5}, {"sound": False}, {"pooling": "mean"},
        {"sound_source": f"path:{tiny_speech}"},
    ]  # fmt: skip
    assert len({plain, *(fingerprint(vit, **c) for c in changes)}) == len(changes) + 1
    with pytest.raises(ConfigError, match=r"features\.video\.options: unknown key 'token'; did you mean 'tokens'\?"):
        encoder(vit, token=3)


def test_a_new_version_of_the_sound_statistics_is_another_fingerprint(
    vit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(vit)
    monkeypatch.setattr(AudioEncoder, "version", AudioEncoder.version + 1)
    assert fingerprint(vit) != before


@pytest.fixture(scope="module")
def tiny_speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random audio transformer (HuBERT)."""
    import torch
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("hubert")
    config = HubertConfig(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=[8, 8],
        conv_stride=[40, 8], conv_kernel=[40, 8], num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    HubertModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


def test_any_audio_encoder_hears_the_sound_track(vit: Path, tiny_speech: Path, tmp_path: Path) -> None:
    made = encoder(vit, sound_source=f"path:{tiny_speech}", tokens=2)
    assert made.width == 2 * (WIDTH + 12 + 2)
    with_sound, without = rows(made, film(tmp_path / "a.mp4", COLOURS, TONES), film(tmp_path / "b.mp4", COLOURS))
    assert with_sound[:, WIDTH:-2].any(axis=1).all()
    assert not without[:, WIDTH:-2].any()


def test_films_go_through_the_store_as_tokens(vit: Path, tmp_path: Path) -> None:
    items = [
        item(film(tmp_path / "a.mp4", COLOURS)),
        item(film(tmp_path / "b.mp4", [RED], TONES)),
        Item("none", "none"),
    ]
    config = {"video": EncoderConfig(source=f"path:{vit}", options={"device": "cpu"})}
    store = FeatureStore(tmp_path / "store")
    first = compute(items, None, config, store=store, progress=False)
    table = first.tables["video"]
    assert (table.tokens, table.width, table.present.tolist()) == (4, 4 * (WIDTH + SOUND + 2), [True, True, False])
    again = compute(items, None, config, store=store, progress=False)
    assert (again.report["video"].hits, again.report["video"].computed) == (2, 0)
    np.testing.assert_array_equal(table.vectors, again.tables["video"].vectors)
    np.testing.assert_allclose(encode_item(items[1], config)["video"], table.vectors[1], atol=1e-5)


@pytest.mark.weights
def test_the_default_encoder_tells_films_apart(tmp_path: Path) -> None:
    made = VideoEncoder(EncoderConfig(options={"device": "cpu"}))
    assert made.width == 4 * (1280 + SOUND + 2)
    pictures = [np.random.default_rng(n).integers(0, 256, (8, 12, 3), dtype=np.uint8) for n in range(4)]
    large = [np.kron(p, np.ones((16, 16, 1), dtype=np.uint8)) for p in pictures]
    shot = Shot(size=(192, 128))
    vectors = rows(made, film(tmp_path / "a.mp4", large, shot=shot), film(tmp_path / "b.mp4", large[::-1], shot=shot))
    images = vectors[..., :1280]
    alike = np.array([[cosine(a, b) for b in images[1]] for a in images[0]])
    assert alike.argmax(axis=1).tolist() == [3, 2, 1, 0]
    assert np.diag(alike[:, ::-1]).min() > 0.99
