"""Chinese: what is understood over the real parser, and answers in Chinese."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from facade import tiny_bundle
from palate import Recommender
from palate.chat import Chat
from palate.chat.languages import language_of, languages
from palate.chat.saying import Speaker
from palate.chat.textmatch import TextMatch
from palate.data import Dataset
from palate.recommender.filters import parse_filters
from palate.recommender.reasons import Reasoner
from palate.schema import Item, Wording

SAID = [
    ("90年代的喜剧，不要动画片，100分钟以内", "a 90s comedy, not animation, at most 100 minutes"),
    ("想看一部八十年代的科幻片", "sci-fi from the 80s"),
    ("1975年以后的喜剧", "a comedy after 1975"),
    ("1972年到1980年的", "from 1972 to 1980"),
    ("90年代以前的动作片", "action before the 90s"),
    ("不是90年代的喜剧", "comedies, not from the 90s"),
    ("不到两小时的", "under 120 minutes"),
    ("一个半小时以内的喜剧", "a comedy, at most 90 minutes"),
    ("超过两个半小时的剧情片", "a drama over 150 minutes"),
    ("至少1小时40分钟", "at least 100 minutes"),
    ("恐怖或者惊悚", "horror or thriller"),
    ("不要恐怖、动作", "no horror and no action"),
    ("不恐怖的科幻片", "sci-fi, not horror"),
    ("搞笑的", "funny"),
    ("适合孩子看的动画片", "animation for kids"),
    ("像《Alien》一样的", "like Alien"),
    ("像Alien一样的喜剧", "a comedy like Alien"),
    ("不要像《Jaws》那样的", "nothing like Jaws"),
    ("跟《Heat》和《Speed》类似的", "similar to Heat and Speed"),
    ("《Toy Story 2》", "“Toy Story 2”"),
    ("随便推荐几部", "recommend something"),
    ("更多", "more"), ("换一批", "more"), ("还有吗？", "more"), ("重新开始", "reset"), ("你好", "hello"),
    ("好", "yes"), ("不用了", "no"), ("为什么推荐这个？", "why?"), ("为什么推荐《Heat》？", "why Heat?"),
    ("我喜欢《Alien》", "I loved Alien"), ("我很喜欢Toy Story", "I loved Toy Story"),
    ("《Jaws》很好看", "I loved Jaws"),
    ("我讨厌《Twister》", "I hated Twister"), ("《Speed》太无聊了", "I hated Speed"),
    ("我看过《Jaws》和《Speed》了", "I've seen Jaws and Speed"),
]  # fmt: skip


@pytest.fixture(scope="module")
def rec(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: Path) -> Recommender:
    path = tiny_bundle(tmp_path_factory.mktemp("adapters") / "tiny", tiny_base, tiny_data)
    return Recommender.load(path, data=Dataset.open(tiny_data), device="cpu")


@pytest.fixture
def chat(rec: Recommender) -> Chat:
    return Chat(rec, history=["Alien", "Fargo"], k=3, dense=False)


@pytest.mark.parametrize(("chinese", "english"), SAID)
def test_chinese_means_what_the_english_does(chat: Chat, chinese: str, english: str) -> None:
    assert language_of(chinese).name == "zh"
    assert language_of(english).name == "en"
    said, meant = chat.wishes.parse(chinese), chat.wishes.parse(english)
    shelf = chat.rec.shelf
    for part in ("intent", "targets", "like", "unlike", "text", "avoid"):
        assert getattr(said, part) == getattr(meant, part), part
    assert [h[1] for h in said.hints] == [h[1] for h in meant.hints]
    known = {n: c for n, c in said.filters.items() if n in shelf.fields}
    assert known.keys() == meant.filters.keys()
    assert (shelf.mask(known) == shelf.mask(meant.filters)).all()
    assert len(said.notes) == len(meant.notes)


def test_a_chinese_conversation(chat: Chat) -> None:
    first = chat.ask("90年代的喜剧，不要动画片")
    assert first.text.splitlines()[0] == "1部电影（年份 1990 到 1999，不要Animation且Comedy）："
    assert all(re.match(r"\d\. .+ \(19\d\d\)：.+。$", line) for line in first.text.splitlines()[1:2])
    shelf = chat.rec.shelf
    meant = shelf.mask(parse_filters(["year=1990..1999", "genres=Comedy"]))
    assert all(meant[shelf.index(i.item_id)] for i in first.items)
    assert "都已经推荐过" in chat.ask("更多").text
    second = chat.ask("科幻片")
    assert len(second.items) == 3
    assert not {i.item_id for i in first.items} & {i.item_id for i in second.items}
    why = chat.ask("为什么推荐第一部？")
    assert why.explanation is not None
    assert why.explanation.item_id == second.items[0].item_id
    assert chat.ask("我喜欢《教父》").text.startswith("目录里找不到《教父》。")
    assert chat.ask("像《Alein》一样的").text == "目录里找不到《Alein》。你是指《Alien》或《Aliens》吗？"
    assert "像《Alien》" in chat.ask("是的").text
    assert "《Heat》这样的" in chat.ask("我喜欢《Heat》").text
    assert chat.like("Speed").text.startswith("好的")
    assert chat.ask("").text.startswith("请告诉我")
    assert chat.ask("既要喜剧又不要喜剧").text == "你既要Comedy又不要Comedy：到底要哪一个？"
    assert "那你想找什么样的" in chat.ask("1873年的喜剧").text or chat.offer is not None
    assert chat.ask("more").text.split()[1].startswith("movie")


def test_every_reason_has_chinese(rec: Recommender) -> None:
    """No English sentence is left where the reasons of the recommender change."""
    reasoner = Reasoner(rec.shelf, rec.fields, rec.dataset.wording, rec.dataset.show, None)
    known = [(), ("12",), ("12", "15"), tuple(rec.shelf.item_ids)]
    said = {rec.reasoner.reason(i, h) for i in rec.shelf for h in known}
    said |= {reasoner.reason(i, h) for i in rec.shelf for h in known}
    said |= {rec.explain(i, history=h).reason for i in list(rec.shelf)[:6] for h in ([], ["12", "15"], ["1", "2", "3"])}
    assert len(said) > 20
    titles = sorted({i.title for i in rec.shelf.values()}, key=len, reverse=True)
    tags = sorted({t for f in rec.fields.values() for t in f.tags}, key=len, reverse=True)
    for text in said:
        left = Speaker(rec, "year")._sentence(languages()["zh"], text)
        assert " and " not in left
        for name in [*titles, *tags]:
            left = left.replace(name, "")
        assert not re.search(r"[a-z]{3}", left), (text, left)
        assert "{" not in left


def test_every_language_has_all_sentences() -> None:
    assert set(languages()) >= {"en", "zh"}
    keys = languages()["en"].sayings.keys()
    for language in languages().values():
        assert language.sayings.keys() == keys
        for key in keys:
            parts = {m: "x" for k in languages().values() for m in re.findall(r"{(\w+)}", k.sayings[key])}
            assert "{" not in language.say(key, **parts)
        assert language.noun(Wording("movie", "movies", "watched"), 1)


def test_chinese_text_is_matched_with_chinese_items() -> None:
    """A catalogue in Chinese: pairs of characters are its words, its own tags are read."""

    class Shelf(dict[str, Item]):
        pass

    items = [Item("1", "甲", {"plot": "一个关于友谊的故事"}), Item("2", "乙", {"plot": "战争中的爱情"})]
    match = TextMatch(Shelf({i.item_id: i for i in items}), dense=False)  # type: ignore[arg-type]
    near = match.similarity("友谊")
    assert near[0] > near[1] == 0
    read = languages()["zh"].plain("想看武侠喜剧片，不要恐怖", {"武侠", "喜剧"}.__contains__)
    assert read == ", 武侠 喜剧 , , not horror"


@pytest.mark.parametrize(
    "text",
    [
        "1" * 9000,
        "like " * 2000,
        "《a》和" * 3000,
        "《" * 9000,
        "Aa Bb " * 1500,
        "why did you x " * 700,
        "不要像" * 3000,
        '"' * 9000,
    ],
)
def test_long_messages_are_read_in_a_moment(chat: Chat, text: str) -> None:
    began = time.process_time()
    chat.wishes.parse(text)
    assert time.process_time() - began < 2
