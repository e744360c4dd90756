"""Reading an answer in a response, and comparing numbers exactly: plain text, exact fractions, no parser."""

import re
from fractions import Fraction

MARKERS = {  # name -> where an answer begins
    "answer": re.compile(r"answer\s*:", re.IGNORECASE),  # DAPO's rule: what follows the last "Answer:", to the end of its line
    "boxed": re.compile(r"\\(?:boxed|fbox)\b"),  # LaTeX: what is inside the braces
    "hashes": re.compile(r"####"),  # GSM8K: to the end of its line
}
TAIL = 4000  # last characters of a response that are read: what was said before them is not its final answer
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_TEXT = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_DROPPED = re.compile(  # spacing, delimiters and decoration that say nothing about a value
    r"\\left(?![a-z])|\\right(?![a-z])|\\[!,;:> ]|\\\(|\\\)|\\\[|\\\]|\\\$|\$|[€£¥`]|\*\*|\^\s*\{?\s*\\circ\s*\}?|°|\\?%"
    r"|\\displaystyle|\\quad"
)
_ASSIGNED = re.compile(r"[A-Za-z]\w{0,15}\s*(?:=|\\approx)\s*(?=[^=]*$)")  # x = 5
_VALUE_WORD = re.compile(  # changes a number instead of saying what it counts
    r"\b(?:hundreds?|thousands?|[mb]illions?|trillions?|dozens?|score|half|thirds?|quarters?|pi|or|and|plus|minus|times|over|divided"
    r"|by|to|than|squared|cubed|mod|sqrt|sin|cos|tan|log|ln|exp|frac|not|infinity)\b",
    re.IGNORECASE,
)


def find_answer(response: str, markers: tuple[str, ...] = tuple(MARKERS)) -> str | None:
    r"""The text after the last marker of a response, as written; None if there is no marker, or nothing after the last.

    >>> find_answer("6 + 12 = 18.\nAnswer: \\boxed{18}")
    '18'
    >>> find_answer("#### 17\nNo: #### 18 dollars")
    '18 dollars'
    >>> find_answer("\\boxed{18")
    """
    response = response[-TAIL:]
    starts = [(match.end(), name) for name in markers for match in _last(MARKERS[name], response)]
    if not starts:
        return None
    start, name = max(starts)
    found = _braced(response, start) if name == "boxed" else response[start:].split("\n", 1)[0]
    return found.strip() or None if found is not None else None


def clean(answer: str) -> str:
    r"""An answer without what does not change its value: delimiters, thousands separators, units (percent too), `x =`.

    >>> clean("\\$1{,}250.00 per week.")
    '1250.00'
    >>> clean("$x = \\dfrac{3}{4}\\text{ cm}^2$")
    '\\frac{3}{4}'
    >>> clean("18 thousand")
    '18 thousand'
    """
    text = answer.replace("{,}", ",").replace("−", "-").replace("\u00a0", " ")
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = _DROPPED.sub("", _TEXT.sub(r" \1 ", text)).strip().strip("*").rstrip(".,;:!? ").strip()
    text = _ASSIGNED.sub("", text, count=1) if _ASSIGNED.match(text) else text
    if not re.search(r"[()\[\]{}]", text):
        text = _THOUSANDS.sub("", text)
    return _without_unit(text).strip()


def number(text: str) -> Fraction | None:
    """An integer or decimal written in digits, exactly; None for anything else.

    >>> number("027.50"), number("1/2"), number("1e3")
    (Fraction(55, 2), None, None)
    """
    return Fraction(text.strip()) if len(text) <= 1000 and _NUMBER.fullmatch(text.strip()) else None


def _last(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    found = None
    for found in pattern.finditer(text):  # noqa: B007
        pass
    return [] if found is None else [found]


def _braced(text: str, start: int) -> str | None:
    r"""What is inside the braces that open at or after `start`, nested ones included; None if they are not closed."""
    rest = re.compile(r"\s*(\{|[^\s{}$\\]+)").match(text, start)
    if rest is None:
        return None
    if rest[1] != "{":
        return rest[1]  # \boxed 5
    depth = 0
    for brace in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, rest.start(1)):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[rest.end(1) : brace.start()]
    return None


def _without_unit(text: str) -> str:
    """`18 dollars per day` -> `18`, if words that are no values follow a number or a closing brace."""
    match = re.match(r"(.*?[\d}])\s*([A-Za-z][A-Za-z .,'/^23-]*)$", text, re.DOTALL) if len(text) <= 400 else None
    if match is None:
        return text
    words = re.findall(r"[A-Za-z]+", match[2])
    single = [word for word in words if len(word) == 1 and word not in "mgshla"]
    if single or _VALUE_WORD.search(match[2]):
        return text
    return match[1]
