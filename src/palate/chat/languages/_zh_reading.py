"""Plain Chinese turned into the English that the parser reads: tables of patterns, applied in order."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_RUN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]+")
_DIGITS = {c: n for n, c in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_NUMERAL = re.compile(r"[零〇一二两三四五六七八九十百]+(?=(?:年代?|分钟|个?半?小时|个半小时))")
_LATIN = r"A-Za-z0-9\u00c0-\u024f"
_NAME = rf"([A-Z][{_LATIN}.'-]*(?: [A-Z][{_LATIN}.'-]*)*)"
_TITLE = rf"(?:《[^》]+》|“[^”]+”|\"[^\"]+\"|[{_LATIN}][{_LATIN}'’:&!., -]*[{_LATIN}!.])"
_TITLES = rf"(?P<t>{_TITLE}(?:\s*(?:和|与|跟|以及|还有|,)\s*{_TITLE})*)"
_ALIKE = "(?:一样|那样|这样|类似|差不多|那种|这种|之类)?的?"
_WHY = "为(?:什么|啥|何)(?:会)?(?:给我|向我)?(?:推荐|选|是)?"
_VERY = "(?:真的|真|很|非常|超级?|最|也|特别|太|挺|一直)*"

_LIST = "一些|几部|几个|几本|点"
COMMANDS = tuple(
    (english, re.compile(pattern))
    for english, pattern in (
        ("more", f"(?:请)?(?:给我)?(?:更多|再来(?:一批|一个|一部|{_LIST})?|换[一几][批个部]|下一[批个]|继续|"
                 f"还有(?:吗|别的吗|其他的吗|呢|没有)?|(?:再|多)(?:推荐|来|给我)(?:{_LIST})|别的(?:呢)?)(?:吧|了)?"),
        ("reset", "(?:重新开始|重来|重置|清空|从头(?:开始|来)|忘[掉记了]?(?:这些|之前的|一切|刚才的)?)(?:吧)?"),
        ("yes", "好的?|是的?|对的?|可以|行|嗯|没错|好啊|去掉吧?"),
        ("no", "不|不是|不用了?|不要|算了|否|不行"),
        ("hello", "你好|您好|嗨|谢谢|多谢|早上好|晚上好"),
        ("why", f"{_WHY}(?:给我)?(?:这个|这部|它|这部电影|这本书?|这些)?|理由(?:是什么|呢)?|解释(?:一下)?"),
        ("why {t}", rf"(?:{_WHY}|解释(?:一下)?){_TITLES}(?:给我|呢|这部)?"),
        ("I hated {t}", rf"我?{_VERY}(?:不喜欢|不爱看?|讨厌|受不了){_TITLES}了?"),
        ("I hated {t}", rf"{_TITLES}(?:我)?{_VERY}(?:难看|无聊|差|烂|不好看|不好|不喜欢|没意思)了?"),
        ("I loved {t}", rf"我?{_VERY}(?:喜欢看?|爱看?){_TITLES}"),
        ("I loved {t}", rf"{_TITLES}(?:我)?{_VERY}(?:好看|不错|精彩|棒|喜欢|好)了?"),
        ("I have seen {t}", rf"我?(?:已经|早就|都)?[看读买听玩]过了?{_TITLES}了?"),
        ("I have seen {t}", rf"{_TITLES}(?:我)?(?:已经|早就|都)?[看读买听玩]过了?"),
    )
)  # fmt: skip
"""What a whole message means: English with {t} for its titles, and the Chinese pattern."""

_NO = "(?:不要|不想看|不想要|不看|别要|别给我|别|不含|不带|不是|没有|讨厌|不喜欢|不爱|排除|拒绝|除了|除去|非|无|不)"
_REFINES = re.compile(r"^(?:但是?|不过|再|更|换成|改成|最好|或者?|那|早一点|晚一点|短一点|长一点|新一点|老一点)")
_ADDS = re.compile(r"^(?:还要|也要|只要|只看|并且|而且|同时)")

_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), english)
    for pattern, english in (
        # titles
        (rf"{_NO}\s*(?:像|类似于?)\s*{_TITLES}\s*{_ALIKE}", r" , not like \g<t> , "),
        (rf"(?:{_NO}|少来?一?点)\s*(?P<t>《[^》]+》)\s*{_ALIKE}", r" , not like \g<t> , "),
        (rf"少来?一?点像?\s*{_TITLES}\s*{_ALIKE}", r" , not like \g<t> , "),
        (rf"(?:像|类似于?|多来?一?点像?)\s*{_TITLES}\s*{_ALIKE}", r" , like \g<t> , "),
        (rf"(?:跟|和|与)\s*{_TITLES}\s*(?:一样|类似|差不多|相似|同类)的?", r" , like \g<t> , "),
        # people
        (rf"{_NO}\s*{_NAME}\s*(?:主演|出演|演)的?", r" , not with \1 , "),
        (rf"{_NAME}\s*(?:主演|出演|演)的?", r" , with \1 , "),
        (rf"{_NAME}\s*(?:导演|执导|拍)的?", r" , directed by \1 , "),
        (rf"(?:主演|演员)(?:是|有|:)?\s*{_NAME}", r" , with \1 , "),
        (rf"导演(?:是|为|:)?\s*{_NAME}", r" , directed by \1 , "),
        # hours as minutes come before (see `_hours`); lengths
        (r"(?:不到|少于|短于|小于|低于)\s*(\d+)\s*分钟?", r" , under \1 minutes , "),
        (r"(?:不要|别|不能|不)?(?:不超过|最多|至多|超过不了)\s*(\d+)\s*分钟?", r" , at most \1 minutes , "),
        (r"(?:不要|别|不能|不)\s*(?:超过|长于|多于)\s*(\d+)\s*分钟?", r" , at most \1 minutes , "),
        (r"(?:至少|不少于|不短于|起码|最少)\s*(\d+)\s*分钟?", r" , at least \1 minutes , "),
        (r"(?:超过|多于|长于|大于|高于)\s*(\d+)\s*分钟?", r" , over \1 minutes , "),
        (r"(\d+)\s*分钟?(?:以内|之内|以下|内)", r" , at most \1 minutes , "),
        (r"(\d+)\s*分钟?(?:以上|起)", r" , at least \1 minutes , "),
        (r"(?:大约|大概|差不多)?\s*(\d+)\s*分钟(?:左右|上下)?", r" , about \1 minutes , "),
        (r"(?:不要|别|不)?(?:不太|太)长", " , not too long , "),
        (r"(?:不要|别|不)?(?:不太|太)短", " , not too short , "),
        (r"(?:再)?短(?:一)?(?:点|些)|短片|短的", " , shorter , "),
        (r"(?:再)?长(?:一)?(?:点|些)", " , longer , "),
        # years
        (r"(\d{4})年?\s*(?:到|至|-|~|—)\s*(\d{4})年?(?:之间)?", r" , from \1 to \2 , "),
        (r"(?:20世纪|上(?:个)?世纪)?(\d{2}|\d{4})年代\s*(?:以前|之前|前)", r" , before the \1s , "),
        (r"(?:20世纪|上(?:个)?世纪)?(\d{2}|\d{4})年代\s*(?:以后|之后|后)(?!期)", r" , after the \1s , "),
        (r"(?:20世纪|上(?:个)?世纪)?(\d{2}|\d{4})年代\s*(?:以来|起|开始|至今)", r" , since the \1s , "),
        (r"(?:20世纪|上(?:个)?世纪)?(\d{2}|\d{4})年代\s*(?:初期?|早期|前期)", r" the early \1s "),
        (r"(?:20世纪|上(?:个)?世纪)?(\d{2}|\d{4})年代\s*中期?", r" the mid \1s "),
        (r"(?:20世纪|上(?:个)?世纪)?(\d{2}|\d{4})年代\s*(?:末期?|后期|晚期)", r" the late \1s "),
        (r"(?:20世纪|上(?:个)?世纪)?(\d{2}|\d{4})年代", r" the \1s "),
        (r"(?:不晚于|最晚)\s*(\d{4})年?", r" , no later than \1 , "),
        (r"(?:早于)\s*(\d{4})年?|(\d{4})年?\s*(?:以前|之前|前)", r" , before \1\2 , "),
        (r"(?:晚于)\s*(\d{4})年?|(\d{4})年?\s*(?:以后|之后|后)", r" , after \1\2 , "),
        (r"(\d{4})年?\s*(?:以来|起|开始|至今)", r" , since \1 , "),
        (r"(\d{4})年", r" \1 "),
        (r"(?:更|再)(?:老|早)的?|(?:老|早)一?(?:点|些)", " , older , "),
        (r"(?:更|再)(?:新|晚)的?|(?:新|晚)一?(?:点|些)", " , newer , "),
        (r"更短的?", " , shorter , "), (r"更长的?", " , longer , "),
        (r"老(?:电影|片|歌|书)|老的|古老", " old "), (r"经典", " classic "),
        (r"新(?:电影|片|歌|书)|最近的|近期的?|较新的?", " recent "),
    )
)  # fmt: skip

_TAGS = {
    "comedy": "喜剧", "funny": "搞笑|好笑|幽默|轻松", "animation": "动画|动漫", "cartoon": "卡通",
    "horror": "恐怖|鬼", "scary": "吓人|可怕", "thriller": "惊悚", "suspense": "紧张|刺激",
    "mystery": "悬疑|推理", "detective": "侦探", "romance": "爱情", "romantic": "浪漫",
    "action": "动作|武打|功夫", "sci-fi": "科幻", "war": "战争", "western": "西部",
    "musical": "歌舞|音乐剧|音乐", "documentary": "纪录", "crime": "犯罪|警匪", "gangster": "黑帮",
    "adventure": "冒险|探险", "fantasy": "奇幻|魔幻", "children": "儿童", "drama": "剧情",
    "kids": "孩子|小孩|小朋友|全家|家庭|合家欢", "film-noir": "黑色电影",
}  # fmt: skip
_TAG = tuple((re.compile(f"(?:{words})(?:类型?)?(?:片|电影|剧)?"), f" {tag} ") for tag, words in _TAGS.items())

_LINKS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), english)
    for pattern, english in (
        (r"以外|之外", " , "),
        (r"影片|电影|片子|作品", " film "),
        (_NO, " , not "),
        (r"但是|不过|可是|但", " , but "),
        (r"或者|或是|或|还是", " or "),
        (r"以及|并且|而且|同时|和|与|跟|又|且|、", " and "),
    )
)
_FILLERS = re.compile(
    "我想看|我想要|我想|我要|想看|想要|请问|请|麻烦|帮我|给我|为我|推荐|介绍|有没有|有什么|什么|哪些|可以|适合|关于|讲述?|有关|题材|"
    "一部|一些|几部|一个|几个|一本|几本|这种|那种|今天|今晚|晚上|周末|最好|一下|一点|好看|随便|"
    "[我看要想来找个部点吗呢吧啊呀了是在有能会片类型很些去给都更]"
)


def read(text: str, known: Callable[[str], bool]) -> str:
    """A Chinese message in the parser's English; what is not plain stays as it is."""
    text = _normal(text)
    whole = re.sub(r"\s*(?<=[\u3400-\u9fff》])\s+(?=[\u3400-\u9fff《])", "", text.strip(" ,.!?;:~"))
    for english, pattern in COMMANDS:
        if found := pattern.fullmatch(whole):
            return english.format(t=_quoted(found["t"])) if "{t}" in english else english
    # a comma in front: a message that begins with a year is no refinement for that
    start = "also " if _ADDS.match(text) else "but " if _REFINES.match(text) else ", "
    text = _ADDS.sub("", text)
    kept: list[str] = []

    def keep(found: re.Match[str]) -> str:
        """Titles and the catalogue's own words are put aside, so that no later rule reads them."""
        kept.append(found[0])
        return f"\ue000{chr(0xE100 + len(kept) - 1)}\ue000"

    for pattern, english in _RULES:
        text = pattern.sub(lambda m, e=english: _filled(m, e), text)  # type: ignore[misc]
    text = re.sub(r"\"[^\"]+\"|《[^》]+》", keep, text)
    text = _own(text, known, keep)
    for pattern, english in (*_TAG, *_LINKS):
        text = pattern.sub(english, text)
    text = _FILLERS.sub(" ", text).replace("的", " , ").replace("《", '"').replace("》", '"')
    for n, whole in enumerate(kept):
        text = text.replace(f"\ue000{chr(0xE100 + n)}\ue000", f" {whole} ")
    read = " ".join((start + text).split())
    return read if re.search(r"\w", read) else "something"


def _normal(text: str) -> str:
    """Half-width marks, numerals as digits, hours as minutes."""
    text = unicodedata.normalize("NFKC", text).replace("。", ". ").replace("・", "·")
    text = re.sub("有没有|有无|既", " ", text)
    text = _NUMERAL.sub(lambda m: str(_value(m[0])), text)
    text = re.sub(r"(\d+)\s*个?半小时", lambda m: f"{int(m[1]) * 60 + 30}分钟", text)
    text = re.sub("半个?小时", "30分钟", text)
    text = re.sub(
        r"(\d+(?:\.\d+)?)\s*个?小时(?:零?(\d+)分钟?)?",
        lambda m: f"{round(float(m[1]) * 60) + int(m[2] or 0)}分钟",
        text,
    )
    return " ".join(text.split())


def _value(numeral: str) -> int:
    """九十 -> 90, 一百二十 -> 120, 一九九四 -> 1994."""
    if not set(numeral) & set("十百"):
        return int("".join(str(_DIGITS[c]) for c in numeral))
    total, digit = 0, 0
    for c in numeral:
        if c in "十百":
            total += (digit or 1) * (10 if c == "十" else 100)
            digit = 0
        else:
            digit = _DIGITS[c]
    return total + digit


def _filled(found: re.Match[str], english: str) -> str:
    titles = found.groupdict().get("t")
    return english.replace(r"\g<t>", _quoted(titles)) if titles else found.expand(english)


def _quoted(titles: str) -> str:
    """《A》和B -> "A" and "B"."""
    parts = re.split(rf"\s*(?:和|与|跟|以及|还有|,)\s*(?={_TITLE})", titles)
    return " and ".join('"' + p.strip('《》“”" ') + '"' for p in parts)


def _own(text: str, known: Callable[[str], bool], keep: Callable[[re.Match[str]], str]) -> str:
    """The catalogue's own Chinese tags, set apart from their neighbours."""
    found = {
        run[a:b] for run in _RUN.findall(text) for a in range(len(run)) for b in range(a + 2, min(len(run), a + 8) + 1)
    }
    tags = sorted((f for f in found if known(f)), key=len, reverse=True)
    return re.sub("|".join(map(re.escape, tags)), keep, text) if tags else text
