"""Amazon Reviews 2023 (McAuley Lab): CATEGORY.jsonl and meta_CATEGORY.jsonl, also gzipped.

Fields: https://amazon-reviews-2023.github.io. Products are told apart by `parent_asin`, as its authors
advise. Pictures are given as web addresses; the first one is kept as the text field `image_url`, nothing is
fetched.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from palate.data import columns as col
from palate.data.readers import Layout, Reader
from palate.data.spec import DatasetSpec, InteractionsSpec, ItemsSpec, Show, WordingSpec
from palate.data.tables import TableSource
from palate.errors import DataError

ENDINGS = (".jsonl", ".jsonl.gz")
TEXT = (
    "main_category", "categories", "store", "price", "average_rating", "rating_number", "features",
    "description", "details",
)  # fmt: skip
CONTEXT = ("review_title", "review", "verified_purchase", "helpful_vote")
REVIEW = {
    "user_id",
    "parent_asin",
    "asin",
    "rating",
    "timestamp",
    "title",
    "text",
    "verified_purchase",
    "helpful_vote",
}


def _full(table: pa.Table, names: tuple[str, ...]) -> pa.Table:
    """The named columns; a key that no line has is empty."""
    empty = pa.nulls(table.num_rows, pa.large_string())
    return pa.table({n: table[n] if n in table.column_names else empty for n in names})


def _items(table: pa.Table) -> pa.Table:
    table = _full(table, ("parent_asin", "title", *TEXT, "images"))
    links = pc.extract_regex(col.text(table["images"]), r"(?P<url>https?://[^,; ]+)")
    urls = pc.fill_null(pc.struct_field(links, "url"), "")
    price = col.text(table["price"])
    table = table.set_column(table.column_names.index("price"), "price", pc.if_else(pc.equal(price, "None"), "", price))
    return table.drop_columns(["images"]).append_column("image_url", urls)


def _reviews(table: pa.Table) -> pa.Table:
    """Reviews of a product that has no parent count for the product itself."""
    table = _full(table, tuple(sorted(REVIEW)))
    parent, own = col.ids(table["parent_asin"]), col.ids(table["asin"])
    table = table.set_column(
        table.column_names.index("parent_asin"), "parent_asin", pc.if_else(pc.equal(parent, ""), own, parent)
    )
    return table.rename_columns([{"title": "review_title", "text": "review"}.get(n, n) for n in table.column_names])


class Amazon2023(Reader):
    """One category: a file of reviews beside its file of products."""

    name = "amazon-2023"
    about = "CATEGORY.jsonl[.gz] with reviews and meta_CATEGORY.jsonl[.gz] with products"

    def sniff(self, path: Path) -> bool:
        return len(self._meta(path)) == 1

    def _meta(self, path: Path) -> list[Path]:
        return sorted(p for p in path.glob("meta_*") if p.name.endswith(ENDINGS))

    def read(self, path: Path) -> Layout:
        metas = self._meta(path)
        if len(metas) != 1:
            raise DataError(
                f"{path}: expected one meta_CATEGORY.jsonl or .jsonl.gz, found {len(metas)}; "
                "put one category in a folder"
            )
        category = metas[0].name.removeprefix("meta_").split(".jsonl")[0]
        reviews = next((p for e in ENDINGS if (p := path / f"{category}{e}").is_file()), None)
        if reviews is None:
            raise DataError(f"{path}: expected reviews in {category}.jsonl or {category}.jsonl.gz, found neither")
        spec = DatasetSpec(
            name=f"amazon-{category.lower().replace('_', '-')}",
            source="Amazon Reviews 2023, McAuley Lab",
            wording=WordingSpec(item="product", items="products", verb="bought", person="shopper"),
            items=ItemsSpec(path="items", id="parent_asin", text=(*TEXT, "image_url")),
            interactions=InteractionsSpec(
                path="interactions",
                item="parent_asin",
                rating="rating",
                timestamp="timestamp",
                context=CONTEXT,
                review="review",
                rating_range=(0, 5),
            ),
            show=Show(history=(), candidate=("store", "price")),
        )
        wanted = ("parent_asin", "title", *TEXT, "images")
        return Layout(
            spec,
            TableSource(metas[0], metas[0].name, "jsonl", columns=wanted, prepare=_items),
            TableSource(reviews, reviews.name, "jsonl", columns=tuple(sorted(REVIEW)), prepare=_reviews),
        )
