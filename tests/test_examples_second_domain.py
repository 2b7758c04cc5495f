"""The grocery example: what it writes is a data set as it stands, its order is that of time, and it drops nothing
unseen.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from examples import second_domain

from palate.data import import_dataset

NOON, LATER = datetime(2017, 5, 1, 12), datetime(2017, 5, 2, 12)
PRODUCTS = [
    (1, "GROCERY", "National", "BREAD", "BREAD:ITALIAN/FRENCH", "20 OZ"),
    (2, "GROCERY", "National", "BREAD", "BREAD:ITALIAN/FRENCH", "16 OZ"),
    (3, "GROCERY", "Private", "BREAD", "BREAD:ITALIAN/FRENCH", None),
    (4, "PRODUCE", "National", "APPLES", "APPLES GALA", None),
    (5, "FUEL", "National", "COUPON/MISC ITEMS", "GASOLINE", None),
    (6, "GROCERY", "National", None, None, None),
    (7, "GROCERY", "National", "RARE", "TRUFFLES", None),
]
LINES = [  # household 9 is not described
    (1, 5, NOON), (1, 6, NOON), (1, 4, LATER), (1, 2, LATER), (1, 1, NOON), (1, 3, LATER),
    (2, 4, NOON), (2, 2, LATER), (2, 3, LATER), (2, 7, LATER), (9, 4, NOON), (9, 7, NOON),
]  # fmt: skip


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[Path, str]:
    def table(name: str, columns: list[str], rows: list[tuple[object, ...]]) -> None:
        pq.write_table(pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))), tmp_path / name)

    kinds = ["product_id", "department", "brand", "product_category", "product_type", "package_size"]
    table("products.parquet", kinds, PRODUCTS)
    table("transactions.parquet", ["household_id", "product_id", "transaction_timestamp"], LINES)
    people = [(1, "45-54", "35-49K", None, "Married", "2 Adults", "0"), (2, "65+", "Under 15K", *["Other"] * 4)]
    table("demographics.parquet", ["household_id", *second_domain.PROFILE], people)
    monkeypatch.setattr(second_domain, "fetch", lambda source: tmp_path)
    monkeypatch.setattr(second_domain, "LEAST", 2)
    second_domain.main(str(tmp_path / "tables"))
    return tmp_path / "tables", capsys.readouterr().out


def test_it_is_a_data_set_as_it_stands(written: tuple[Path, str], tmp_path: Path) -> None:
    folder, said = written
    data = import_dataset(str(folder), tmp_path / "data", max_rejects=0)
    assert {i.title for i in data.catalog.values()} == {
        "Bread: italian / french", "Bread: italian / french (store brand)", "Apples gala",
    }  # fmt: skip
    bread = next(i for i in data.catalog.values() if i.title == "Bread: italian / french")
    assert bread.text == {"department": "Grocery", "category": "Bread", "sizes": "20 oz, 16 oz"}
    assert (data.wording.item, data.wording.verb, data.wording.person) == ("product", "bought", "household")
    assert dict(data.users["1"])["marital_status"] == "Married"
    assert "2 households, 3 kinds of goods, 6 first purchases" in said
    assert "left out: 1 kinds that fewer than 2 households bought" in said


def test_events_are_first_purchases_in_time(written: tuple[Path, str], tmp_path: Path) -> None:
    data = import_dataset(str(written[0]), tmp_path / "data")
    events = data.histories.interactions
    titles = [[data.catalog[events.item_ids[i]].title for i in events.sequence(u)] for u in range(2)]
    assert titles[0][0] == "Bread: italian / french"  # at noon as product 1, so the later product 2 is no news
    assert sorted(titles[0][1:]) == ["Apples gala", "Bread: italian / french (store brand)"]
    assert titles[1][0] == "Apples gala"
    assert list(events.timestamps[:3]) == sorted(events.timestamps[:3])


def test_goods_of_one_receipt_have_no_order_of_their_own() -> None:
    kinds = [second_domain.Goods("A", str(n), "Private") for n in range(6)]
    events = [((kind, home), NOON) for home in range(40) for kind in kinds]
    ordered = sorted(events, key=second_domain.in_time)
    first = {next(kind for (kind, home), _ in ordered if home == h) for h in range(40)}
    assert first == set(kinds)
    assert sorted([((kinds[0], 1), LATER), ((kinds[1], 1), NOON)], key=second_domain.in_time)[0][1] == NOON
