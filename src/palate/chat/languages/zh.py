"""Chinese: plain wishes are read by patterns, and answered in Chinese; titles and tags stay as catalogued."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, ClassVar

from palate.chat.languages import ALL, Language
from palate.chat.languages._zh_reading import HAN, read
from palate.schema import Wording

_NOUNS = {
    "movies": "部电影", "films": "部电影", "books": "本书", "songs": "首歌", "games": "款游戏", "articles": "篇文章",
    "courses": "门课程", "products": "件商品", "restaurants": "家餐厅",
}  # fmt: skip
"""English plural -> measure word and noun."""
_VERBS = {"watched": "看过", "read": "读过", "bought": "买过", "played": "玩过", "listened to": "听过", "taken": "学过"}
_FIELDS = {
    "year": "年份", "runtime": "片长", "genres": "类型", "price": "价格", "rated": "分级", "language": "语言",
    "director": "导演", "actors": "演员", "plot": "情节",
}  # fmt: skip
_ORDINAL = re.compile(r"第\s*([一二三四五六七八九十]|\d+)\s*(?:个|部|本|首|款|条|篇|件|家|门)(?:电影|书|歌)?")

_THEY = re.compile(r"(?:看过|读过|听过|玩过|喜欢|讨厌)了?(?P<all>这些|它们)")


class Chinese(Language):
    name = "zh"
    sayings: ClassVar = {
        "fresh": "好，重新开始。你想找什么样的{item}？",
        "mood": "请告诉我你想要什么：哪一类{item}、什么年代，或者一个你喜欢的名字。",
        "liked": "好的，接下来会多推荐像《{title}》这样的。",
        "disliked": "知道了，接下来会少推荐像《{title}》这样的。",
        "seen": "好的，《{title}》不再推荐，并算作你{verb}的。",
        "head": "为你推荐{count}{items}：",
        "head_told": "{count}{items}（{told}）：",
        "like": "像《{titles}》",
        "unlike": "不像《{titles}》",
        "end": "符合条件的只有这些；放宽一些条件会有更多{item}。",
        "dropped": "没有同时满足“{what}”的，所以没有考虑这一点。",
        "exhausted": "符合条件的{item}都已经推荐过或你都{verb}了。要不要换个条件？",
        "relax": "没有{item}同时满足这些条件。去掉“{what}”就有{count}{items}：要去掉吗？",
        "none": "没有{item}符合“{what}”。哪一点对你最重要？",
        "nothing_yet": "我还没有推荐过。你想找什么样的{item}？",
        "unknown": "目录里找不到《{title}》。",
        "did_you_mean": "你是指《{titles}》吗？",
        "or": "》或《",
        "and": "》和《",
        "line": "{title}：{reason}",
        "contradiction": "你既要{what}又不要{what}：到底要哪一个？",
        "impossible": "“{what}”无法满足：你想要哪一头？",
        "nobody": "目录里没有{what}的。要去掉这个条件吗？",
        "cannot_check": "无法确认{what}：目录里没有这项信息。",
        "took_for": "我把“{typed}”当作“{meant}”。",
        "declined": "好的。那你想找什么样的？",
    }

    def speaks(self, text: str) -> bool:
        outside = re.sub(r"[《“\"][^》”\"]*[》”\"]", "", text)
        return HAN.search(outside) is not None or (not outside.strip(" ,.!?，。！？") and "《" in text)

    def plain(self, text: str, known: Callable[[str], bool]) -> str:
        return read(text, known)

    def references(self, text: str) -> list[tuple[int, int, int]]:
        if found := _THEY.search(text):
            return [(found.start("all"), found.end("all"), ALL)]
        digits = {c: n for n, c in enumerate("一二三四五六七八九十", 1)}
        return [(m.start(), m.end(), digits.get(m[1]) or int(m[1])) for m in _ORDINAL.finditer(text)]

    def noun(self, wording: Wording, count: int | None = None) -> str:
        measured = _NOUNS.get(wording.items, "个结果")
        return measured[1:] if count is None else measured

    def verb(self, wording: Wording) -> str:
        return _VERBS.get(wording.verb, "选过")

    def conditions(self, filters: Mapping[str, Any], bare: Collection[str]) -> str:
        told = (_told("" if name in bare else _FIELDS.get(name, name), c) for name, c in filters.items())
        return "，".join(told)

    def sentence(self, reason: str, wording: Wording, listed: Callable[[str], list[str]]) -> str:
        """One frame of the reasons' sentences at a time; an unknown one stays as it is."""
        for pattern, chinese in _FRAMES:
            reason = pattern.sub(partial(_framed, chinese, listed), reason)
        return reason.replace("{verb}", self.verb(wording)).replace("{item}", self.noun(wording)).strip()


def _told(name: str, condition: Any) -> str:
    """A condition of `palate.recommender.filters` in words."""
    if isinstance(condition, Mapping):
        parts = []
        for key, value in condition.items():
            if key == "not":
                parts.append(f"不要{_told(name, value)}")
            elif key in ("min", "max"):
                parts.append(f"{name}{'至少' if key == 'min' else '不超过'} {value:g}")
            else:
                parts += [_told(name, v) for v in value] if key == "all" else [_told(name, value)]
        return "且".join(parts)
    if isinstance(condition, tuple):
        low, high = condition
        return f"{name} {low:g}" if low == high else f"{name} {low:g} 到 {high:g}"
    if isinstance(condition, list):
        return f"{name} ".lstrip() + "或".join(_told("", c) for c in condition)
    return f"{name} {condition}".strip()


_FRAMES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), chinese)
    for pattern, chinese in (
        (r"^A first guess: no .+? so far to go by\.", "初步猜测：还没有{verb}的{item}可以参考。"),
        (
            r"^Nothing listed in common; to the model it is nearest to (?P<titles>.+?), which you .+?\.$",
            "没有共同的标签；在模型看来最接近你{verb}的 <titles>。",
        ),
        (
            r"^Ranked by the model from .+? you .+?; they share no listed attribute\.$",
            "由模型根据你{verb}的{item}排出；没有共同的标签。",
        ),
        (r"^Like (?P<titles>.+), which you .+?: (?P<tags>.+)\.$", "像你{verb}的 <titles>：<tags>。"),
        (r"^Mostly because you \w+ (?P<titles>.+?)(?=[.;])", "主要因为你{verb} <titles>"),
        (r"; it shares (?P<tags>.+?)(?: with .+?)?\.(?= |$)", "；共同点：<tags>。"),
        (r"^None of the .+? you .+? speaks for it alone", "你{verb}的{item}没有哪一个单独支持它"),
        (r"; together they do\.", "；合在一起则支持。"),
        (
            r"^Of the .+? you \w+, (?P<titles>.+?) speaks? for it most",
            "在你{verb}的{item}里，最支持它的是 <titles>",
        ),
        (r" All of them together speak against it\.", "合在一起则不支持。"),
        (r" All of them together do not move it\.", "合在一起没有影响。"),
        (r" ?Of what is known about it, (?P<its>.+?) speaks for it most", "在它的信息里，最有利的是<its>"),
        (r"(?<=[\u4e00-\u9fff}]), then (?P<its>.+?)(?=\.$)", "，其次是<its>"),
        (r"\.(?= |$)", "。"),
    )
)


"""Sentences of `palate.recommender.reasons` -> Chinese."""
_SAID = {"its picture": "图片", "its sound": "声音", "what its text says": "文字内容"}


def _framed(chinese: str, listed: Callable[[str], list[str]], found: re.Match[str]) -> str:
    for name, text in found.groupdict().items():
        told = {"titles": lambda t: " 和 ".join(listed(t)), "its": _said}.get(name, str)(text)
        chinese = chinese.replace(f"<{name}>", told)
    return chinese


def _said(english: str) -> str:
    """What speaks for an item, as `palate.recommender.reasons.SAID` calls it."""
    if english.startswith("who else "):
        return "还有谁{verb}"
    bare = english.removeprefix("its ")
    return _SAID.get(english, _FIELDS.get(bare, bare))
