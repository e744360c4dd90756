"""Extracts answers from responses, and compares numbers exactly: plain text, exact fractions, no parser."""

import re
from fractions import Fraction

MARKERS = {  # name -> where an answer begins
    "answer": re.compile(r"answer\s*:[\s*]*", re.IGNORECASE),  # DAPO's rule: the rest of the line after "Answer:"
    "boxed": re.compile(r"\\(?:boxed|fbox)\b"),  # LaTeX: the content of the braces
    "hashes": re.compile(r"####"),  # GSM8K: the rest of the line
    "text": re.compile(r"answer\s*:", re.IGNORECASE),  # everything after "Answer:"
}
TAIL = 4000  # only the last characters of a response are read: the final answer is there
MOST_CHARACTERS = 400  # maximum length of a mathematical answer; a longer one is not read

_SPELLING = {"{,}": ",", "−": "-", "–": "-", "\u00a0": " ", "²": "^2", "³": "^3", "\\dfrac": "\\frac", "\\tfrac": "\\frac"}
_SPACE = re.compile(r"\\[;:> ]|\\quad|~|\s+")
_SILENT = re.compile(r"\\[!,]|\\left(?![a-z])|\\right(?![a-z])|\\displaystyle|\\[()\[\]]|\\?\$|\\?%|[€£¥`]")
_DEGREES = re.compile(r"(?:\^ ?\{? ?\\circ ?\}?|°) ?(?:\\(?:text|mathrm) ?\{ ?)?[CF]?\}?$")
_TEXT = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox|underline|operatorname) ?\{([^{}]*)\}")
_LEAD = re.compile(
    r"(?:\([A-E]\) ?(?=\S)|(?:so |thus |hence )?(?:the )?(?:final |correct )?answer(?: is|:) ?"
    r"|(?:approximately|about|\\approx|≈|=) ?|[A-Za-z]\w{0,15} ?(?:=|\\approx) ?(?=[^=]*$))",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"([+-]?)(?:(\d*\.?\d+|\d+\.)|(?:(\d+) )?(?:\\frac ?\{ ?(\d+) ?\} ?\{ ?(\d+) ?\}|(\d+) ?/ ?(\d+)))")
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_POWER = r"(?: ?\^ ?\{? ?[23] ?\}?)?"
_SHORT_UNIT = r"(?:[kcm]m|[km]g|m[lL]|ft|in|lbs?|oz|mi|yd|hrs?|mph)(?![A-Za-z])"
_UNIT = re.compile(  # a short unit, or after a space a one-letter unit or a word; then more of them
    rf"(?: ?{_SHORT_UNIT}| \(?(?:[mgshlL]|[A-Za-z]{{3,}})(?![A-Za-z])){_POWER}(?:(?: ?/ ?| )[A-Za-z]+{_POWER})*\)?"
)
_VALUE_WORD = re.compile(  # words that change a number instead of naming its unit
    r"\b(?:hundred\w*|thousand\w*|[mb]illion\w*|trillion\w*|dozens?|score|tens|lakhs?|crores?|half|halves|thirds?|quarters?|fourths?|fifths?"
    r"|sixths?|sevenths?|eighths?|ninths?|tenths?|\w+ths|pi|or|and|plus|minus|times|over|divided|by|than|squared|cubed|mod|modulo"
    r"|remainder|choose|factorial|sqrt|sin|cos|tan|log|exp|frac|not|infinity|less|more|least|most)\b",
    re.IGNORECASE,
)


def find_answer(response: str, markers: tuple[str, ...] = ("answer", "boxed", "hashes")) -> str | None:
    r"""The text after the last marker that has one, as written; None if there is none.

    >>> find_answer("6 + 12 = 18.\nAnswer: \\boxed{18}")
    '18'
    >>> find_answer("#### 17\nNo: #### 18 dollars")
    '18 dollars'
    >>> find_answer("\\boxed{18")
    """
    response = response[-TAIL:]
    starts = sorted((match.end(), name) for name in markers for match in MARKERS[name].finditer(response))
    for start, name in starts[:-20:-1]:  # latest first; a few may be empty
        if name == "boxed":
            found = _braced(response, start)
        else:
            found = response[start:] if name == "text" else response[start:].split("\n", 1)[0]
        if found is not None and found.strip():
            return found.strip()
    return None


def clean(answer: str) -> str:
    r"""Removes from an answer what does not change its value: delimiters, thousands separators, units (percent too), lead-ins.

    >>> clean("\\$1{,}250.00 per week.")
    '1250.00'
    >>> clean("$x = \\dfrac{3}{4}\\text{ cm}^2$")
    '\\frac{3}{4}'
    >>> clean("18 thousand")
    '18 thousand'
    """
    text = answer
    for written, meant in _SPELLING.items():
        text = text.replace(written, meant)
    text = _SPACE.sub(" ", _SILENT.sub("", text)).strip(" *").rstrip(" .,;:?")
    if text.endswith("}") and text.count("}") > text.count("{"):
        text = text[:-1]  # \boxed{Answer: 18}
    text = _DEGREES.sub("", text)
    for _ in range(2):  # \text{(C) } \mathbf{18}
        text = _unbraced(" ".join(_TEXT.sub(r" \1 ", text).split()))
    for _ in range(3):  # the answer is (C) x = 18
        text = text[match.end() :] if (match := _LEAD.match(text)) and match.end() < len(text) else text
    text = _without_unit(text)
    return text.replace(",", "") if _GROUPED.fullmatch(text) else text


def number(text: str) -> Fraction | None:
    r"""An integer, decimal, fraction or mixed number written in digits, exactly; None for anything else.

    >>> number("027.50"), number("1/2"), number("5 1/2"), number("-\\frac{3}{4}"), number("1e3")
    (Fraction(55, 2), Fraction(1, 2), Fraction(11, 2), Fraction(-3, 4), None)
    """
    match = _NUMBER.fullmatch(text) if len(text) <= MOST_CHARACTERS and text.isascii() else None
    if match is None:
        return None
    sign, decimal, whole, *parts = match.groups()
    if decimal is not None:
        value = Fraction(decimal)
    else:
        above, below = (int(part) for part in parts if part is not None)
        if below == 0:
            return None
        value = int(whole or 0) + Fraction(above, below)
    return -value if sign == "-" else value


def _braced(text: str, start: int) -> str | None:
    r"""The content of the braces that open at or after `start`, nested ones included; None if they are not closed."""
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


def _unbraced(text: str) -> str:
    """`{18}` -> `18`."""
    while text.startswith("{") and _braced(text, 0) == text[1:-1]:
        text = text[1:-1].strip()
    return text


def _without_unit(text: str) -> str:
    """`18 dollars per day` -> `18`, if the text after the last digit, brace or pi is a unit."""
    for match in re.finditer(r"\d|\}|\\pi\b", text):
        unit = text[match.end() :]
        if unit.strip() and _UNIT.fullmatch(unit) and not _VALUE_WORD.search(unit):
            return text[: match.end()]
    return text
