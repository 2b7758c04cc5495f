"""The audio encoder: acoustic statistics, any transformers audio model, time order, bad files reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sounds import encoded, noise, tone

from palate.config import EncoderConfig
from palate.errors import ConfigError, FeatureError
from palate.features import FeatureStore, compute
from palate.features.acoustics import RATE, WIDTH, describe
from palate.features.encoders.audio import AudioEncoder
from palate.schema import Floats, Item


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))


def encoder(source: Path | None = None, **options: object) -> AudioEncoder:
    where = None if source is None else f"path:{source}"
    return AudioEncoder(EncoderConfig(source=where, options={"device": "cpu", **options}))


def sounds(
    folder: Path, clips: list[Floats], rate: int = RATE, form: tuple[str, str] = ("wav", "pcm_s16le")
) -> list[Item]:
    items = []
    for n, clip in enumerate(clips):
        path = folder / f"{n}.{form[1]}"
        path.write_bytes(encoded(clip, rate, *form))
        items.append(Item(str(n), f"item {n}", media={"audio": path}))
    return items


def mixed(count: int) -> list[Floats]:
    """Clips of different lengths: tones in noise."""
    return [tone(200 + 150 * n, 0.5 + 0.3 * n, RATE) + noise(0.5 + 0.3 * n, RATE, 0.02, n) for n in range(count)]


def near(a: Floats, b: Floats) -> float:
    """Distance as a part of the length of the vectors."""
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(a), np.linalg.norm(b), 1e-9))


# --- statistics -----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 5000), st.floats(0, 1), st.integers(0, 3))
def test_any_samples_give_finite_vectors(count: int, loud: float, seed: int) -> None:
    vector = describe(noise(1.0, 5000, loud, seed)[:count].clip(-1, 1))
    assert vector.shape == (WIDTH,)
    assert vector.dtype == np.float32
    assert np.isfinite(vector).all()
    assert np.abs(vector).max() < 100


def test_silence_is_zero_and_louder_is_more() -> None:
    # a product of many equal terms is not exactly zero with every BLAS
    np.testing.assert_allclose(describe(np.zeros(RATE, np.float32)), 0, atol=1e-5)
    loud, quiet = (describe(tone(440, 1.0, RATE, level)) for level in (0.5, 0.05))
    loudness = 2 * 64 + 3 * 20
    assert loud[loudness] - quiet[loudness] == pytest.approx(2.0, abs=0.01)  # 20 dB are two powers of ten
    assert loud[:64].sum() > quiet[:64].sum() + 10
    pitch = slice(loudness + 1, loudness + 4)  # centroid, spread, roll-off do not hear how loud it is
    np.testing.assert_allclose(loud[pitch], quiet[pitch], atol=0.02)


def test_what_the_numbers_say_about_known_sounds() -> None:
    from palate.features import acoustics

    shape = 2 * acoustics.MELS + 3 * acoustics.CEPSTRA
    low, high, rough = (describe(x)[shape:] for x in (tone(250, 1, RATE), tone(4000, 1, RATE), noise(1, RATE)))
    _, centroid, spread, rolloff, flatness, crossings, onset = range(7)
    assert low[centroid] == pytest.approx(2, abs=0.05)  # 250 Hz: two octaves above 62.5 Hz
    assert high[centroid] == pytest.approx(6, abs=0.05)
    assert high[rolloff] == pytest.approx(6, abs=0.05)
    assert rough[flatness] > high[flatness] + 1
    assert rough[spread] > high[spread] + 0.5
    assert high[crossings] == pytest.approx(2 * 4000 / RATE, rel=0.02)
    assert low[onset] < 0.01 < rough[onset]
    seconds = np.arange(4 * RATE) / RATE
    for beat, octave in ((0.75, 0), (1.5, 1), (3.0, 2), (6.0, 3), (12.0, 4)):
        swell = (noise(4, RATE) * (0.55 + 0.45 * np.sin(2 * np.pi * beat * seconds))).astype(np.float32)
        assert int(describe(swell)[-5:].argmax()) == octave, beat
    clicks = np.zeros(2 * RATE, np.float32)
    clicks[:: RATE // 8] = 0.9
    assert describe(clicks)[shape + onset] > 5 * low[onset]


def test_different_tones_lie_apart_and_the_same_tone_lies_together() -> None:
    rng = np.random.default_rng(2)
    pitches = [220.0 * 2 ** (n / 3) for n in range(10)]  # steps of four semitones
    vectors = [
        [describe(tone(p, 1.0, RATE, rng.uniform(0.3, 0.6)) + noise(1.0, RATE, 0.003, 10 * n + k)) for k in range(3)]
        for n, p in enumerate(pitches)
    ]
    flat = np.array([v for group in vectors for v in group])
    owner = np.repeat(np.arange(10), 3)
    apart = np.linalg.norm(flat[:, None] - flat[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (owner[apart.argmin(axis=1)] == owner).all()


@pytest.mark.parametrize("form", [("flac", "flac"), ("mp3", "libmp3lame"), ("mp4", "aac"), ("ogg", "libopus")])
def test_the_same_sound_in_another_container_has_the_same_vector(form: tuple[str, str], tmp_path: Path) -> None:
    clip = (sum(tone(f, 2.0, 48_000, 0.15) for f in (220, 700, 2500)) + noise(2.0, 48_000, 0.01)).astype(np.float32)
    other = tone(900, 2.0, 48_000)
    first, second = encoder().encode(sounds(tmp_path, [clip, other], 48_000)).vectors
    again = encoder().encode(sounds(tmp_path, [clip], 48_000, form)).vectors[0]
    assert near(first, again) < (0.01 if form[0] == "flac" else 0.15)
    assert near(first, again) < near(first, second) / 4


def test_the_default_needs_no_weights_and_its_options_count(tmp_path: Path) -> None:
    made = encoder()
    assert (made.width, made.tokens, made.weights, made.source) == (WIDTH, 1, None, None)
    assert made.fingerprint == encoder(batch=3, workers=2, max_bytes=10**6).fingerprint
    for counts in ({"tokens": 2}, {"max_seconds": 10.0}):
        assert made.fingerprint != encoder(**counts).fingerprint
    with pytest.raises(ConfigError, match=r"features\.audio\.options: unknown key 'token'; did you mean 'tokens'\?"):
        encoder(token=3)
    with pytest.raises(ConfigError, match="tokens"):
        encoder(tokens=0)
    (item,) = sounds(tmp_path, [tone(440, 1, RATE)])
    assert encoder().identity(Item("x", "no sound")) is None
    cover = AudioEncoder(EncoderConfig(encoder="audio"), "jingle")
    assert cover.identity(item) is None
    assert cover.identity(Item("x", "x", media={"jingle": item.media["audio"]})) == made.identity(item)


def test_only_the_first_seconds_count(tmp_path: Path) -> None:
    clip = np.concatenate([tone(300, 1, RATE), tone(3000, 1, RATE)])
    items = sounds(tmp_path, [clip, clip[:RATE]])
    cut = encoder(max_seconds=1.0).encode(items).vectors
    np.testing.assert_allclose(cut[0], cut[1], atol=1e-5)
    whole = encoder().encode(items).vectors
    assert near(whole[0], whole[1]) > 0.1


def test_tokens_are_stretches_in_the_order_of_time(tmp_path: Path) -> None:
    parts = [tone(300, 1, RATE), tone(900, 1, RATE), tone(2700, 1, RATE)]
    items = sounds(tmp_path, [np.concatenate(parts), np.concatenate(parts[::-1]), tone(300, 0.01, RATE)])
    made = encoder(tokens=3)
    assert (made.width, made.tokens) == (3 * WIDTH, 3)
    rows = made.encode(items).vectors.reshape(3, 3, WIDTH)
    for n, part in enumerate(parts):
        np.testing.assert_allclose(rows[0, n], describe(part), atol=0.02)
        np.testing.assert_allclose(rows[1, 2 - n], describe(part), atol=0.02)
    assert np.isfinite(rows[2]).all()  # stretches of 3 ms
    table = compute(items, None, {"audio": EncoderConfig(options={"tokens": 3})}, progress=False).tables["audio"]
    assert (table.tokens, table.width) == (3, 3 * WIDTH)


def test_bad_files_cost_their_item_only_and_vectors_are_cached(tmp_path: Path) -> None:
    items = sounds(tmp_path, mixed(6))
    items[1].media["audio"].write_text("I am a text file")
    items[3].media["audio"].write_bytes(b"")
    items[4].media["audio"].unlink()
    items.append(Item("none", "no sound"))
    store = FeatureStore(tmp_path / "store")
    for hits, computed in ((0, 3), (3, 0)):
        result = compute(items, None, {"audio": EncoderConfig(options={"batch": 2})}, store=store, progress=False)
        report = result.report["audio"]
        assert (report.present, report.missing, report.failed) == (3, 1, 3)
        assert (report.hits, report.computed) == (hits, computed)
        assert sorted(p.item_id for p in result.problems) == ["1", "3", "4"]
    reasons = {p.item_id: p.reason for p in result.problems}
    assert "not sound or film" in reasons["1"]
    assert "empty" in reasons["3"]
    assert "no such file" in reasons["4"]
    table = result.tables["audio"]
    assert not table.vectors[~table.present].any()
    np.testing.assert_allclose(table.vectors[0], encoder().encode(items[:1]).vectors[0], atol=1e-6)


def test_a_file_without_samples_is_a_problem(tmp_path: Path) -> None:
    (item,) = sounds(tmp_path, [tone(440)])
    data = item.media["audio"].read_bytes()
    item.media["audio"].write_bytes(data[: data.index(b"data") + 4] + bytes(4))
    made = encoder().encode([item])
    assert not made.present.any()
    assert "no samples" in made.problems[0].reason or "not sound" in made.problems[0].reason


def test_samples_at_hand_are_described_like_files(tmp_path: Path) -> None:
    clips = mixed(3)
    made = encoder(tokens=2)
    files = made.encode(sounds(tmp_path, clips, form=("wav", "pcm_f32le"))).vectors
    np.testing.assert_allclose(made.describe([c.clip(-1, 1) for c in clips]), files, atol=1e-4)


# --- networks -------------------------------------------------------------------------------------------

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def _clap() -> tuple[Any, Any]:
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    audio = {
        "window_size": 2, "num_mel_bins": 16, "spec_size": 64, "patch_size": 4, "patch_stride": [4, 4],
        "depths": [1, 1], "num_attention_heads": [2, 2], "patch_embeds_hidden_size": 8, "hidden_size": 16,
        "projection_dim": 12, "num_classes": 3, "mlp_ratio": 1.0, "max_length": 1, "num_hidden_layers": 2,
    }  # fmt: skip
    words = {**SMALL, "vocab_size": 50, "projection_dim": 12}
    network = ClapModel(ClapConfig(text_config=words, audio_config=audio, projection_dim=12))
    extractor = ClapFeatureExtractor(
        feature_size=16, sampling_rate=8000, hop_length=80, max_length_s=1, fft_window_size=256,
        truncation="rand_trunc", frequency_max=4000,
    )  # fmt: skip
    return network, extractor


def _whisper() -> tuple[Any, Any]:
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    config = WhisperConfig(
        vocab_size=60, num_mel_bins=16, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_source_positions=100,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return WhisperModel(config), WhisperFeatureExtractor(feature_size=16, chunk_length=2)


def _ast() -> tuple[Any, Any]:
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    config = ASTConfig(**SMALL, patch_size=8, frequency_stride=8, time_stride=8, max_length=100, num_mel_bins=16)
    return ASTModel(config), ASTFeatureExtractor(num_mel_bins=16, max_length=100)


def _wav2vec2() -> tuple[Any, Any]:
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    config = Wav2Vec2Config(
        **SMALL, conv_dim=(8, 8), conv_stride=(5, 4), conv_kernel=(10, 8), num_feat_extract_layers=2,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, vocab_size=10,
    )  # fmt: skip
    return Wav2Vec2Model(config), Wav2Vec2FeatureExtractor(sampling_rate=4000)


def _hubert() -> tuple[Any, Any]:
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    config = HubertConfig(
        **SMALL, conv_dim=(8, 8), conv_stride=(5, 4), conv_kernel=(10, 8), num_feat_extract_layers=2,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, vocab_size=10,
    )  # fmt: skip
    return HubertModel(config), Wav2Vec2FeatureExtractor(sampling_rate=4000, return_attention_mask=True)


MAKERS = {"clap": _clap, "whisper": _whisper, "ast": _ast, "wav2vec2": _wav2vec2, "hubert": _hubert}
WIDTHS = {"clap": 12, "whisper": 16, "ast": 16, "wav2vec2": 16, "hubert": 16}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random audio models, saved with their feature extractors."""
    import torch

    folders = {}
    for name, make in MAKERS.items():
        torch.manual_seed(0)
        network, extractor = make()
        folders[name] = tmp_path_factory.mktemp(name)
        network.save_pretrained(folders[name])
        extractor.save_pretrained(folders[name])
    return folders


@pytest.mark.parametrize("name", MAKERS)
def test_vectors_are_the_models_own(models: dict[str, Path], name: str) -> None:
    import torch
    from transformers import AutoFeatureExtractor, AutoModel

    made = encoder(models[name])
    assert made.width == WIDTHS[name]
    clip = mixed(1)[0][: int(made.rate * 0.5)]
    extractor = AutoFeatureExtractor.from_pretrained(models[name])
    network = AutoModel.from_pretrained(models[name]).eval()
    inputs = extractor(clip, sampling_rate=made.rate, return_tensors="pt")
    inputs = {k: v.float() if v.is_floating_point() else v for k, v in inputs.items()}
    with torch.no_grad():
        if name == "clap":
            wanted = network.get_audio_features(**inputs).pooler_output[0]
        elif name == "whisper":  # half a second of the two that it hears: 25 of 100 positions
            wanted = network.encoder(**inputs).last_hidden_state[0, :25].mean(dim=0)
        elif name == "ast":
            wanted = network(**inputs).pooler_output[0]
        else:
            wanted = network(**inputs).last_hidden_state[0].mean(dim=0)
    np.testing.assert_allclose(made.describe([clip])[0], wanted.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", MAKERS)
def test_batch_order_and_batch_size_do_not_matter(models: dict[str, Path], name: str, tmp_path: Path) -> None:
    items = sounds(tmp_path, mixed(7))
    one = encoder(models[name], batch=1, workers=1)
    many = encoder(models[name], batch=4, workers=5)
    alone, together = one.encode(items), many.encode(items)
    assert alone.present.all()
    assert alone.problems == []
    np.testing.assert_allclose(alone.vectors, together.vectors, atol=1e-5)
    np.testing.assert_allclose(many.encode(items[::-1]).vectors[::-1], together.vectors, atol=1e-5)
    assert len(np.unique(together.vectors.round(5), axis=0)) == len(items)
    assert one.fingerprint == many.fingerprint
    assert encoder(models[name], dtype="bfloat16").fingerprint != one.fingerprint


def test_a_clip_longer_than_the_network_hears_is_the_mean_of_its_windows(models: dict[str, Path]) -> None:
    made = encoder(models["clap"])  # hears one second
    clip = np.concatenate([tone(f, 1.0, made.rate) for f in (300, 1000, 3000)])
    parts = made.describe(list(clip.reshape(3, -1)))
    np.testing.assert_allclose(made.describe([clip])[0], parts.mean(axis=0), atol=1e-5)
    np.testing.assert_array_equal(made.describe([clip]), made.describe([clip]))  # CLAP's own cut is random
    split = encoder(models["clap"], tokens=3).describe([clip]).reshape(3, -1)
    np.testing.assert_allclose(split, parts, atol=1e-5)


@pytest.mark.parametrize("name", MAKERS)
def test_mean_pooling_short_clips_and_half_precision_work(models: dict[str, Path], name: str) -> None:
    for options in ({"pooling": "mean"}, {"dtype": "bfloat16"}, {"tokens": 4}):
        made = encoder(models[name], **options)
        vectors = made.describe([tone(440, 0.01, made.rate), np.zeros(0, np.float32), tone(440, 2.5, made.rate)])
        assert vectors.shape == (3, made.width)
        assert np.isfinite(vectors).all()


def test_a_checkpoint_trained_for_a_task_is_heard_without_its_head(models: dict[str, Path], tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel, Wav2Vec2ForCTC, WhisperForAudioClassification

    for name, task in (("wav2vec2", Wav2Vec2ForCTC), ("whisper", WhisperForAudioClassification)):
        network, extractor = MAKERS[name]()
        headed = task(network.config)
        part = headed.wav2vec2 if name == "wav2vec2" else headed.encoder
        plain = AutoModel.from_pretrained(models[name])
        with torch.no_grad():
            part.load_state_dict((plain if name == "wav2vec2" else plain.encoder).state_dict())
        headed.save_pretrained(tmp_path / name)  # lacks Whisper's decoder
        extractor.save_pretrained(tmp_path / name)
        clip = tone(440, 0.7, encoder(models[name]).rate)
        np.testing.assert_allclose(
            encoder(tmp_path / name).describe([clip]), encoder(models[name]).describe([clip]), atol=1e-6
        )


def test_wrong_sources_are_named(models: dict[str, Path], tiny_base: Path, tmp_path: Path) -> None:
    (item,) = sounds(tmp_path, [tone(440)])
    with pytest.raises(ConfigError, match="expected a device such as 'cpu'"):
        encoder(models["ast"], device="toaster").encode([item])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FeatureError, match=r"config\.json, found none"):
        encoder(empty).encode([item])
    with pytest.raises(FeatureError, match="expected an audio model with a feature extractor and safetensors"):
        encoder(tiny_base).encode([item])
    import shutil

    from safetensors.numpy import load_file, save_file

    gone = Path(shutil.copytree(models["ast"], tmp_path / "gone"))
    tensors = load_file(gone / "model.safetensors")
    lost = sorted(tensors)[0]
    del tensors[lost]
    save_file(tensors, gone / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FeatureError, match="the checkpoint lacks 1 of the model's tensors"):
        encoder(gone).encode([item])
