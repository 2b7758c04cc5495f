"""A folder of media files as a catalogue: files of one directory that share a stem are one item.

birds/crow.png, birds/crow.ogg and birds/crow.txt are the item `birds/crow` with a picture, a sound and a title, in
the category `birds`. The first line of a text is the title; lines such as `de.utf8=Eine Krähe.` are the title in
other languages (the format of Tux Paint's stamps); the rest is the field `description`. Without a text the file
name is the title. An item needs a medium: a text alone, such as a README, makes none.

Where `crow` has a text, `crow_de.ogg` and `crow_mirror.png` are further files of it: its sound is the one in the
chosen language, else the plain one, else, where it has nothing but sounds, the first. A sound called `..._desc` or
`..._desc_de` reads a description aloud and is not taken. Every file that is not used is counted with the reason.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from palate.data import tables
from palate.data.readers import Layout, Reader
from palate.data.rejects import MAX_CHARS, Reject
from palate.data.spec import SPEC_FILE, DatasetSpec, InteractionsSpec, ItemsSpec, Show
from palate.data.tables import TableSource
from palate.errors import DataError, spelt

SUFFIXES = {
    "image": (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
    "audio": (".ogg", ".oga", ".opus", ".wav", ".mp3", ".flac", ".m4a", ".aac"),
    "video": (".mp4", ".webm", ".mkv", ".mov", ".avi", ".ogv"),
    "text": (".txt",),
    "drawing": (".svg",),
}
"""Kind -> file name suffixes; where an item has several files of a kind, the first here is taken."""
KINDS = {suffix: kind for kind, suffixes in SUFFIXES.items() for suffix in suffixes}
RANK = {suffix: n for n, suffix in enumerate(KINDS)}
MEDIA = ("image", "audio", "video")
VIEWS = ("mirror", "flip", "mirror_flip", "mirrorflip")
"""Last words of pictures that show another picture of the item turned."""
SPOKEN = re.compile(r"_desc(_[a-z]{2,3}(_[A-Za-z]+)?)?$")
FIELDS = ("description", "category", "subcategory")
MAX_TEXT = 100_000
TRANSLATION = re.compile(r"^([a-z]{2,3}(?:[_@][A-Za-z]+)*)\.utf8=(.*)$")
TABLES = (*tables.KINDS, ".inter", ".item", ".arrow")
TABLE_NAMES = {SPEC_FILE, "u.data", "u.item", "ratings.dat", "movies.dat", "dataset_dict.json", "state.json"}
LOOKED = 20_000
"""Files that `sniff` looks at before it gives up."""

SVG = "SVG is not decoded"
OTHER = "neither a medium nor a text"
FURTHER = "further file of an item: one of a kind is taken"
ALOUD = "spoken description: not taken"
ALONE = "text without a medium"
HIDDEN = "hidden"
LINKED = "linked directory: not followed"
OUTSIDE = "link that leads outside the folder, or nowhere"
SPECIAL = "expected a regular file"
NAME = "name that is not UTF-8 or starts with a space"
OWN = "a data set folder of its own"


@dataclass
class Listing:
    """What a walk over the folder found. rows: one an item; left: files that are not used, with the reason."""

    root: Path
    language: str
    rows: list[dict[str, str]] = field(default_factory=list)
    left: list[Reject] = field(default_factory=list)

    def leave(self, relative: str, reason: str, kind: str = "") -> None:
        shown = spelt(relative)[:MAX_CHARS]
        self.left.append(Reject(self.root.name, None, kind, shown, reason, "media"))


class Folder(Reader):
    """No interactions: features, neighbours and a trained adapter work on it, training needs a table of events."""

    name = "folder"
    about = "media files (.png .jpg .webp .ogg .wav .mp3 .mp4 .webm ...), maybe with .txt, and no table among them"

    def sniff(self, path: Path) -> bool:
        """A medium and no table: where one lies in the folder or just below it, other readers must know the layout."""
        media, looked = False, 0
        for folder, inner, names in os.walk(path):
            near = Path(folder) == path or Path(folder).parent == path
            if near and any(_is_table(name) for name in names):
                return False
            media = media or any(KINDS.get(_split(n)[1], "text") != "text" and not n.startswith(".") for n in names)
            inner[:] = [d for d in inner if not d.startswith(".")] if near or not media else []
            looked += len(names)
            if looked > LOOKED:
                break
        return media

    def read(self, path: Path) -> Layout:
        """Walks the folder and reads the texts: they are the table."""
        found = Listing(path.resolve(), self.language.replace("-", "_"))
        for parent, names in _directories(found):
            _group(found, parent, names)
        if not found.rows:
            raise DataError(
                f"{path}: expected pictures, sounds or videos ({', '.join(s for m in MEDIA for s in SUFFIXES[m])}), "
                f"found none among {len(found.left):,} files"
            )
        _categories(found.rows)
        table = pa.table({n: [r.get(n, "") for r in found.rows] for n in ("item_id", "title", *_held(found.rows))})
        spec = DatasetSpec(
            name=found.root.name or "media",
            language=self.language,
            items=ItemsSpec(
                path="items",
                text=tuple(f for f in FIELDS if f in table.column_names),
                media={m: m for m in MEDIA if m in table.column_names},
            ),
            interactions=InteractionsSpec(path="interactions"),
            show=Show(candidate=("category",) if "category" in table.column_names else ()),
        )
        items = TableSource(path, found.root.name, "arrow", batches=lambda: iter(table.to_batches(tables.BATCH)))
        return Layout(spec, items, None, media_folder=path, left_out=tuple(found.left))


def _is_table(name: str) -> bool:
    return name in TABLE_NAMES or name.lower().removesuffix(".gz").endswith(TABLES)


def _split(name: str) -> tuple[str, str]:
    """Stem and suffix; the suffix in small letters."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 (a name, not a path)
    return stem, suffix.lower()


# --- walking ----------------------------------------------------------------------------------------------


def _directories(found: Listing) -> Iterator[tuple[str, list[str]]]:
    """Each directory, as "" or "a/b/", with the names of its usable files, in order of name."""
    waiting = [""]
    while waiting:
        parent = waiting.pop()
        try:
            with os.scandir(found.root / parent) as entries:
                listed = sorted(entries, key=lambda e: e.name)
        except OSError as error:
            found.leave(parent or ".", f"directory cannot be listed: {error.strerror or error}")
            continue
        if parent and any(e.name == SPEC_FILE for e in listed):
            found.leave(parent, OWN)
            continue
        names, inner = [], []
        for entry in listed:
            refused = _refused(entry, found.root)
            if refused is not None:
                found.leave(parent + entry.name, refused)
            elif entry.is_dir():
                inner.append(f"{parent}{entry.name}/")
            else:
                names.append(entry.name)
        yield parent, names
        waiting += reversed(inner)


def _refused(entry: os.DirEntry[str], root: Path) -> str | None:
    """Why a directory entry is not looked at; None where it is. A link may lead to a file inside the folder."""
    name = entry.name
    if name.startswith("."):
        return HIDDEN
    if name != name.lstrip() or name != name.encode("utf-8", "replace").decode():
        return NAME
    try:
        if entry.is_symlink():
            if entry.is_dir():
                return LINKED
            target = Path(entry.path).resolve()
            return None if target.is_relative_to(root) and target.is_file() else OUTSIDE
        return None if entry.is_dir() or entry.is_file() else SPECIAL
    except (OSError, RuntimeError):
        return OUTSIDE


# --- items ------------------------------------------------------------------------------------------------


def _group(found: Listing, parent: str, names: Sequence[str]) -> None:
    """Files of one directory into items."""
    stems: dict[str, dict[str, list[str]]] = {}
    for name in sorted(names, key=lambda n: (RANK.get(_split(n)[1], 0), n)):
        stem, suffix = _split(name)
        if suffix not in KINDS:
            found.leave(parent + name, OTHER)
        else:
            stems.setdefault(stem, {}).setdefault(KINDS[suffix], []).append(name)
    spoken: dict[str, dict[str, str]] = {}
    for stem in list(stems):
        base = _base(stem, stems)
        if set(stems[stem]) == {"audio"} and SPOKEN.search(stem):
            for name in stems.pop(stem)["audio"]:
                found.leave(parent + name, ALOUD, "audio")
        elif base is not None:
            for kind, files in stems.pop(stem).items():
                if kind == "audio":
                    spoken.setdefault(base, {})[stem.removeprefix(f"{base}_")] = files.pop(0)
                for name in files:
                    found.leave(parent + name, FURTHER, kind)
    for stem in sorted(stems):
        _item(found, parent, stem, stems[stem], spoken.get(stem, {}))


def _base(stem: str, stems: Mapping[str, Mapping[str, object]]) -> str | None:
    """The item that a stem is a further file of: it has a text and its stem ends here at an underscore; the longest."""
    kinds = set(stems[stem])
    cut = stem
    while "_" in cut:
        cut = cut.rpartition("_")[0]
        if "text" in stems.get(cut, ()):
            seen = {"image", "drawing"}
            turned = kinds <= seen and seen & set(stems[cut]) and stem.removeprefix(f"{cut}_") in VIEWS
            return cut if kinds == {"audio"} or turned else None
    return None


def _item(found: Listing, parent: str, stem: str, kinds: dict[str, list[str]], spoken: dict[str, str]) -> None:
    """One item from the files of a stem."""
    for name in kinds.get("drawing", ()):
        found.leave(parent + name, SVG, "image")
    sounds = {**spoken, **({"": kinds["audio"].pop(0)} if "audio" in kinds else {})}
    chosen = _in_language(sounds, found.language)
    if sounds and chosen is None and set(kinds) <= {"text", "audio"}:
        chosen = sounds[min(sounds)]  # all that the item has
    for name in sounds.values():
        if name != chosen:
            found.leave(parent + name, FURTHER, "audio")
    row = {"item_id": parent + stem, "title": re.sub(r"[_\-\s]+", " ", stem).strip() or stem}
    if chosen is not None:
        row["audio"] = parent + chosen
    for kind, files in kinds.items():
        if kind in ("image", "video", "text") and files:
            row[kind] = parent + files.pop(0)
        for name in files if kind != "drawing" else ():
            found.leave(parent + name, FURTHER, kind)
    text = row.pop("text", None)
    if not any(m in row for m in MEDIA) and "drawing" not in kinds:
        found.leave(text or parent + stem, ALONE, "text")
        return
    if text is not None:
        row.update(_read_text(found, text))
    found.rows.append(row)


def _in_language(options: Mapping[str, str], language: str) -> str | None:
    """The option in a language: "de", then any "de_XX"; "" is the plain one, which comes before another English."""
    root = language.partition("_")[0]
    regions = sorted(code for code in options if re.fullmatch(rf"{re.escape(root)}[_@]\w+", code))
    order = [language, root, *([""] if root == "en" else []), *regions, ""]
    return next((options[code] for code in order if options.get(code)), None)


def _read_text(found: Listing, relative: str) -> dict[str, str]:
    """Title and description of a text; what cannot be used is left out and the file name stays the title."""
    try:
        with (found.root / relative).open("rb") as file:
            data = file.read(MAX_TEXT + 1)
        if len(data) > MAX_TEXT:
            found.leave(relative, f"text of more than {MAX_TEXT:,} bytes", "text")
            return {}
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        found.leave(relative, "text that is not UTF-8", "text")
        return {}
    except OSError as error:
        found.leave(relative, f"text cannot be read: {error.strerror or error}", "text")
        return {}
    titles = {m[1]: m[2].strip() for line in lines if (m := TRANSLATION.match(line))}
    plain = [line for line in lines if not TRANSLATION.match(line)]
    title = _in_language({**titles, "": plain[0] if plain else ""}, found.language)
    held = {"title": title or "", "description": "\n".join(plain[1:]).strip()}
    return {name: value for name, value in held.items() if value}


def _categories(rows: Sequence[dict[str, str]]) -> None:
    """The directory below the one that all items share is the category, the rest of the path the subcategory."""
    folders = [row["item_id"].split("/")[:-1] for row in rows]
    levels = enumerate(zip(*folders, strict=False))  # as deep as the shallowest item
    shared = next((n for n, names in levels if len(set(names)) > 1), min(map(len, folders)))
    for row, parts in zip(rows, folders, strict=True):
        first, *rest = [p.replace("_", " ") for p in parts[shared:]] or [""]
        row["category"], row["subcategory"] = first, " / ".join(rest)


def _held(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The fields and media that some item has."""
    return [name for name in (*FIELDS, *MEDIA) if any(row.get(name) for row in rows)]
