"""What a Recommender is put together from: a bundle or a base model, and the data set that goes with it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palate import sources
from palate.config import CaptionConfig, ModelConfig, PromptConfig
from palate.data import Dataset, import_dataset
from palate.errors import BundleError, ConfigError, DataError, PalateWarning, RequestError, did_you_mean
from palate.schema import Dtype, Quantization

if TYPE_CHECKING:
    from palate.model import Model
    from palate.model.merge import Merge

ADAPTERS = Path("adapters")


@dataclass(frozen=True)
class Target:
    """What a path given to `Recommender.load` names: a bundle folder, or a base model's source.

    name: of a bundle whose folder is not called after it, since it came from a model hub.
    """

    bundle: Path | None
    base: str | None
    name: str = ""


@dataclass(frozen=True)
class Options:
    """How a model is held and computed; see `palate.model.bundle.load`."""

    quantization: Quantization | None = None
    dtype: Dtype | None = None
    device: str = "auto"
    base: str | None = None
    layers: int | None = None
    merge: Merge = "auto"


def resolve(path: str | Path) -> Target:
    """Tell a bundle folder (or its name under adapters/) from a base source. BundleError for neither.

    A `hub:` source is fetched, for only then it shows whether it is a bundle.
    """
    text = str(path)
    for folder in (Path(text), ADAPTERS / text):
        if (folder / "palate.json").is_file():
            return Target(folder, None)
    if text.startswith("hub:"):
        folder, repository = sources.fetch(text), text.removeprefix("hub:").partition("@")[0]
        if (folder / "palate.json").is_file():
            return Target(folder, None, repository.rpartition("/")[2])
        return Target(None, text)
    if text in sources.ALIASES or text.split(":", 1)[0] in ("hub", "path", "pypi"):
        return Target(None, text)
    if Path(text).is_dir():
        if (Path(text) / "config.json").is_file():
            return Target(None, f"path:{text}")
        found = sorted(p.name for p in Path(text).iterdir())[:5]
        raise BundleError(
            f"{text}: expected an adapter bundle (palate.json) or a base model (config.json), the folder has "
            f"{', '.join(found) or 'nothing'}"
        )
    bundles = [str(p.parent) for p in ADAPTERS.glob("*/palate.json")]
    raise BundleError(
        f"expected an adapter bundle or a base model, found nothing at {text!r}; "
        f"{did_you_mean(text, [*bundles, 'smollm2-135m-instruct'])}"
    )


def open_data(data: str | Path | Dataset | None, meta: Mapping[str, Any]) -> Dataset:
    """The data set: as given, else the bundle's own at ./data/NAME, else fetched and imported into the cache.

    Raises DataError where there is none to be found.
    """
    if isinstance(data, Dataset):
        return data
    if data is not None:
        return Dataset.open(data)
    name = recorded_name(meta)
    if name is None:
        raise DataError(
            "expected a data set: an untuned base has none of its own; name its folder with data= (--data DIR)"
        )
    local = Path("data") / name
    if (local / "dataset.yaml").is_file():
        return Dataset.open(local)
    kept = sources.cache_dir() / "data" / name
    if (kept / "dataset.yaml").is_file():
        return Dataset.open(kept)
    if name not in sources.ALIASES:
        raise DataError(
            f"the bundle was trained on the data set {name!r}, which is not at {local}; name its folder "
            "with data= (--data DIR)"
        )
    return import_dataset(name, kept)


def recorded_name(meta: Mapping[str, Any]) -> str | None:
    """The name of the data set a bundle was trained on."""
    data = meta.get("data")
    name = data.get("name") if isinstance(data, Mapping) else data
    return str(name) if name else None


def check_one_data_set(metas: Mapping[str, Mapping[str, Any]]) -> None:
    """DataError where bundles were trained on different data sets, so that which to use must be said."""
    names = {adapter: recorded_name(meta) for adapter, meta in metas.items()}
    if len(set(names.values())) > 1:
        told = ", ".join(f"{adapter} on {name}" for adapter, name in names.items())
        raise DataError(f"the adapters were trained on different data sets ({told}); name one with data= (--data DIR)")


def captioned(dataset: Dataset, metas: Mapping[str, Mapping[str, Any]]) -> Dataset:
    """The data set with the caption fields that the bundles were trained with; fields it has been given by
    `Dataset.with_fields` are left as they are. Media that cannot be captioned raise a PalateWarning.

    Raises BundleError where a captioner is not the one of the training, DataError where a field is the data
    set's own.
    """
    check_one_captions(metas)
    meta = next(iter(metas.values()))
    wanted = {f: c for f, c in caption_config(meta).items() if f not in dataset.catalog.written}
    if not wanted:
        return dataset
    from palate import features

    for field, told in features.captions_meta(wanted).items():
        check_captioner(meta, field, str(told["fingerprint"]))
    found = features.captions(list(dataset.catalog.values()), wanted, progress=False)
    if found.problems:
        warnings.warn(
            f"{len(found.problems)} media could not be captioned, such as {found.problems[0]}",
            PalateWarning,
            stacklevel=4,
        )
    return dataset.with_fields(found.texts)


def caption_config(meta: Mapping[str, Any]) -> dict[str, CaptionConfig]:
    """The caption fields of a bundle, as its config named them."""
    keys = CaptionConfig.model_fields
    return {
        field: CaptionConfig.parse({k: v for k, v in told.items() if k in keys}, f"palate.json: captions.{field}")
        for field, told in meta.get("captions", {}).items()
    }


def check_captioner(meta: Mapping[str, Any], field: str, fingerprint: str) -> None:
    """BundleError where the captioner of a field is not the one the adapter was trained with."""
    trained = meta["captions"][field].get("fingerprint", fingerprint)
    if fingerprint != trained:
        raise BundleError(
            f"the captioner of the field {field!r} differs from the one this adapter was trained with (fingerprint "
            f"{fingerprint[:24]}, trained with {trained[:24]}); use that captioner or train again"
        )


def check_one_captions(metas: Mapping[str, Mapping[str, Any]]) -> None:
    """BundleError where bundles that are to share one data set read different captions."""
    (first, meta), *others = metas.items()
    for name, other in others:
        if other.get("captions", {}) != meta.get("captions", {}):
            raise BundleError(
                f"the adapters {first!r} and {name!r} were trained with different captions, so they cannot share one "
                "data set; load them apart"
            )


def read_meta(target: Target) -> dict[str, Any]:
    """`palate.json` of a bundle, its templates checked against those of this installation; {} for a base.

    Raises BundleError where a template has changed since training.
    """
    if target.bundle is None:
        return {}
    from palate import prompting
    from palate.model import bundle

    meta = bundle.read_meta(target.bundle)
    language = prompt_config(meta).language
    bundle.check_templates(meta, {n: prompting.load(n, language).hash for n in meta.get("templates", {})})
    return meta


def load_model(target: Target, dataset: Dataset, options: Options) -> Model:
    """The bundle's model, its item vectors in the catalogue's order, or an untuned base."""
    if target.bundle is not None:
        from palate.model import bundle

        return bundle.load(target.bundle, items=dataset.catalog.item_ids, **vars(options)).model
    if options.base is not None:
        raise RequestError("base= goes with an adapter bundle; an untuned base is named by the path alone")
    from palate.model import Model

    assert target.base is not None
    told = {"quantization": options.quantization or "none", "dtype": options.dtype or "auto", "layers": options.layers}
    config = ModelConfig.parse({"base": target.base, **told}, str(target.base))
    return Model.create(config, {}, device=options.device, adapter=False)


def named(path: str | Path | Mapping[str, str | Path], merge: Merge) -> tuple[dict[str, Target], Merge]:
    """What `Recommender.load` is to load by name, the first first, and whether LoRA may be merged.

    Several adapters share one base, so their LoRA stays apart. Raises ConfigError for merge=True with several and
    BundleError for a path that leads nowhere.
    """
    if not isinstance(path, Mapping):
        target = resolve(path)
        name = "untuned" if target.bundle is None else target.name or target.bundle.resolve().name
        return {name: target}, merge
    if not path or not all(path):
        raise ConfigError("expected adapters as a mapping of names to bundle folders, got no name")
    if len(path) > 1 and merge is True:
        raise ConfigError(f"merge=True adds one adapter's LoRA into the base, got {len(path)}; use merge=False")
    return {name: resolve(place) for name, place in path.items()}, merge if len(path) == 1 else False


def prompt_config(meta: Mapping[str, Any]) -> PromptConfig:
    """The token budget the adapter was trained with; the defaults for an untuned base."""
    values = meta.get("prompt") or (meta.get("config") or {}).get("prompt") or {}
    return PromptConfig.parse(dict(values), "palate.json: prompt")
