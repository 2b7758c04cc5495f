"""MovieLens as GroupLens ships it: 100K (u.data), 1M (ratings.dat) and 10M to 32M (ratings.csv or .dat).

The READMEs at https://grouplens.org/datasets/movielens/ give the columns. A year in brackets leaves the title
for its own column and a trailing article returns to the front.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from palate.data import columns as col
from palate.data.readers import Layout, Reader
from palate.data.spec import DatasetSpec, InteractionsSpec, ItemsSpec, Show, UsersSpec, WordingSpec
from palate.data.tables import TableSource
from palate.errors import DataError

GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
"""The flags of u.item, in the order of u.genre."""
AGES = {
    "1": "under 18", "18": "18-24", "25": "25-34", "35": "35-44", "45": "45-49",
    "50": "50-55", "56": "56 or over",
}  # fmt: skip
JOBS = (
    "other", "academic/educator", "artist", "clerical/admin", "college/grad student", "customer service",
    "doctor/health care", "executive/managerial", "farmer", "homemaker", "K-12 student", "lawyer",
    "programmer", "retired", "sales/marketing", "scientist", "self-employed", "technician/engineer",
    "tradesman/craftsman", "unemployed", "writer",
)  # fmt: skip
"""Occupation codes of the 1M users, by number."""
ITEM_COLUMNS = ("item_id", "title", "release_date", "video_release_date", "imdb_url", *GENRES)
EVENTS = ("user_id", "item_id", "rating", "timestamp")


def movies_spec(name: str, top: float, users: tuple[str, ...] | None) -> DatasetSpec:
    """The spec that all layouts share: titles, years and genres, ratings up to `top`."""
    return DatasetSpec(
        name=name,
        source="MovieLens, GroupLens Research; see its licence before you pass it on",
        wording=WordingSpec(item="movie", items="movies", verb="watched", person="viewer"),
        items=ItemsSpec(path="items", text=("year", "genres")),
        interactions=InteractionsSpec(
            path="interactions", rating="rating", timestamp="timestamp", rating_range=(0.5, top)
        ),
        users=None if users is None else UsersSpec(path="users", profile=users),
        show=Show(history=("year",), candidate=("year", "genres")),
    )


def _named(table: pa.Table, genres: pa.Array) -> pa.Table:
    title, year = col.split_year(table["title"])
    return pa.table({"item_id": table["item_id"], "title": col.move_article(title), "year": year, "genres": genres})


def _flags(table: pa.Table) -> pa.Table:
    """u.item: one 0/1 column a genre."""
    words = [pc.if_else(pc.equal(col.ids(table[g]), "1"), pa.scalar(g), pa.scalar(None, pa.string())) for g in GENRES]
    return _named(table, pc.binary_join_element_wise(*words, " ", null_handling="skip"))


def _piped(table: pa.Table) -> pa.Table:
    """movies.dat and movies.csv: `Animation|Children's|Comedy`."""
    names = [{"movieId": "item_id"}.get(n, n) for n in table.column_names]
    table = table.rename_columns(names)
    genres = pc.replace_substring(col.text(table["genres"]), "(no genres listed)", "")
    return _named(table, pc.replace_substring(genres, "|", " "))


def _camel(table: pa.Table) -> pa.Table:
    return table.rename_columns([{"userId": "user_id", "movieId": "item_id"}.get(n, n) for n in table.column_names])


def _coded_users(table: pa.Table) -> pa.Table:
    """Codes of age and occupation as words; an unknown code stays as it is."""
    jobs = {str(n): job for n, job in enumerate(JOBS)}
    for column, words in (("age", AGES), ("occupation", jobs)):
        cells = [words.get(c, c) for c in col.ids(table[column]).to_pylist()]
        table = table.set_column(table.column_names.index(column), column, pa.array(cells, pa.large_string()))
    return table


def _need(path: Path, *names: str) -> None:
    for name in names:
        if not (path / name).is_file():
            raise DataError(f"{path}: expected MovieLens files {', '.join(names)}, {name} is missing")


class MovieLens100K(Reader):
    """u.data, u.item (Latin-1) and u.user."""

    name = "movielens-100k"
    about = "u.data, u.item and, where there is one, u.user"

    def sniff(self, path: Path) -> bool:
        return (path / "u.data").is_file()

    def read(self, path: Path) -> Layout:
        _need(path, "u.data", "u.item")
        user_columns = ("user_id", "age", "gender", "occupation", "zip_code")
        users = None
        if (path / "u.user").is_file():
            users = TableSource(path / "u.user", "u.user", "csv", "|", False, header=user_columns)
        return Layout(
            movies_spec("ml-100k", 5, user_columns[1:] if users else None),
            TableSource(path / "u.item", "u.item", "csv", "|", False, "latin-1", header=ITEM_COLUMNS, prepare=_flags),
            TableSource(path / "u.data", "u.data", "csv", "\t", False, header=EVENTS),
            users,
        )


class MovieLensDat(Reader):
    """ratings.dat, movies.dat and users.dat, columns split by `::`."""

    name = "movielens-dat"
    about = "ratings.dat, movies.dat and, where there is one, users.dat (MovieLens 1M and 10M)"

    def sniff(self, path: Path) -> bool:
        return (path / "ratings.dat").is_file()

    def read(self, path: Path) -> Layout:
        _need(path, "ratings.dat", "movies.dat")
        # 1M is Latin-1 and has users; 10M is UTF-8 and has none
        old = (path / "users.dat").is_file()
        encoding = "latin-1" if old else "utf-8"

        def source(name: str, header: tuple[str, ...], prepare: object = None) -> TableSource:
            return TableSource(
                path / name, name, "csv", "::", False, encoding, header=header, prepare=prepare  # type: ignore[arg-type]
            )  # fmt: skip

        user_columns = ("user_id", "gender", "age", "occupation", "zip_code")
        return Layout(
            movies_spec("ml-1m" if old else "ml-10m", 5, user_columns[1:] if old else None),
            source("movies.dat", ("item_id", "title", "genres"), _piped),
            source("ratings.dat", EVENTS),
            source("users.dat", user_columns, _coded_users) if old else None,
        )


class MovieLensCsv(Reader):
    """ratings.csv and movies.csv."""

    name = "movielens-csv"
    about = "ratings.csv and movies.csv (MovieLens 20M, 25M, 32M and latest)"

    def sniff(self, path: Path) -> bool:
        return (path / "ratings.csv").is_file() and (path / "movies.csv").is_file()

    def read(self, path: Path) -> Layout:
        _need(path, "ratings.csv", "movies.csv")
        return Layout(
            movies_spec(path.resolve().name, 5, None),
            TableSource(path / "movies.csv", "movies.csv", "csv", prepare=_piped),
            TableSource(path / "ratings.csv", "ratings.csv", "csv", prepare=_camel),
        )
