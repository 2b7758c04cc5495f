"""Messages that are commands: more, why, "I loved TITLE"; and how a refinement of the wish before begins."""

from __future__ import annotations

import re

_MUCH = r"(?:really |absolutely |also |just |quite |so |very |totally )*"
_GOOD = "great|good|amazing|awesome|excellent|fantastic|brilliant|wonderful|perfect|lovely|superb|a masterpiece|fun"
_BAD = (
    "terrible|awful|bad|boring|horrible|dreadful|disappointing|overrated|a waste of time|rubbish|crap|stupid|"
    "not (?:so |that |very )?(?:good|great|for me|my thing|my taste)"
)
_T = r"(?P<title>.+?)"
_SURE = r"(?P<sure>)"
"""Marks patterns after which a title must follow, so that an unknown one is asked about."""
_FAVOURITE = r"(?:all[- ]time )?favou?rites?(?: \w+)?"
_IS = "(?:is|was|are|were)"
_MORE = (
    r"(?:(?:ok|okay|yes|and),? )?(?:(?:can you |could you |please )?(?:show|give|tell|recommend) me )?"
    r"(?:some |a few |any |yet |\d+ )?(?:more|others?|next|another(?: one)?|different ones|something else)"
    r"(?: ones| of (?:them|those|these))?(?: please)?",
    r"what else(?: is there| have you got| do you have)?",
    r"more like (?:this|that|these|those|it|them)|anything else|keep going|go on|continue|the next ones?",
)
_YES = (
    r"(?:yes|yeah|yep|sure|ok|okay|right|exactly|please do|do (?:it|so)|(?:yes,? )?drop (?:it|that))(?:,? please)?",
)
_RESET = (
    r"(?:please )?(?:reset|start (?:over|again|afresh|from scratch)|(?:forget|clear) (?:that|it|this|everything|all)"
    r"(?: of (?:that|it))?|never mind|new (?:conversation|chat|search))(?: please)?",
)
_WHY = (
    r"(?:why\b|how come\b|explain\b|what makes you (?:say|think|recommend|suggest)\b)\s*"
    r"(?:(?:did|do|would|are) you \w+ |(?:that|this|one)\b ?|is |should i \w+ |i would (?:like|love|enjoy) |not )*"
    rf"{_T}?",
)
_DISLIKE = (
    rf"(?:i |we )?{_MUCH}(?:hated?|disliked?|d(?:id|o)(?:n't| not) (?:really )?(?:like|enjoy|care for)|can't stand)\s+"
    rf"{_SURE}{_T}",
    rf"{_T} {_IS} {_MUCH}(?:{_BAD})",
)
_LIKE = (
    rf"(?:i|we) {_MUCH}(?:loved?|liked?|enjoy(?:ed)?|adored?)\s+{_SURE}{_T}(?: (?:a lot|very much|so much))?",
    rf"{_MUCH}(?:loved|liked|enjoyed|adored?)\s+{_SURE}{_T}",
    rf"{_T} {_IS} {_MUCH}(?:{_GOOD}|(?:one|some) of my {_FAVOURITE}|my {_FAVOURITE})",
    rf"my {_FAVOURITE} {_IS} {_T}",
)
_SEEN = (
    rf"(?:i|we)(?:'ve| have)?(?: already| just)? (?:seen|saw|watched|read|own|know|bought|played) {_T}"
    r"(?: (?:already|before|last \w+|yesterday|twice|recently))?",
    rf"(?:already |just )(?:seen|saw|watched|read|own|bought|played) {_T}",
)
COMMANDS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (intent, re.compile(pattern, re.IGNORECASE))
    for intent, patterns in (
        ("more", _MORE),
        ("yes", _YES),
        ("no", (r"no|nope|nah|no,? (?:thanks|thank you|don't|do not)",)),
        ("reset", _RESET),
        ("why", _WHY),
        ("dislike", _DISLIKE),
        ("like", _LIKE),
        ("seen", _SEEN),
    )
    for pattern in patterns
)
"""(intent, pattern of the whole message), tried in this order; group `title` names items."""

REFINES = re.compile(
    r"^\s*(?:ok(?:ay)?,? |yes,? |hmm?,? )?(?:(?P<adds>and\b(?! what| how)|but also|also|only|plus|with\b)|"
    r"(?P<instead>instead|(?:no,? |or )?rather)|"
    r"but|not|nothing|no|without|or|from|before|after|under|over|less|even|maybe|preferably|make (?:it|them|that)|"
    r"(?:and )?(?:what|how) about|shorter|longer|older|newer|more recent|"
    r"something (?:else )?(?:a bit |much |more )?(?:older|newer|shorter|longer|recent))\b",
    re.IGNORECASE,
)
"""How a message begins that goes on from the wish before. Group `adds`: its filters hold beside those; `instead`: what
it says of a field is said in place of what was said."""
