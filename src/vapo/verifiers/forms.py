r"""Layer 2d of a verdict, the form: what kind of answer a text is, and its parts. Nothing is evaluated but numbers.

number      17, 3/4, 5 1/2, 35 %, 17 cm          text        yes, Alice, CAB            choice    (B), B: the median
list        2, 5 or \{2, 5\} or \pm 33           bracket     (2, 3), [0, \infty)        union     (0, 1) \cup (2, 3)
matrix      rows of entries                      colon       2:15, 1:2                  based     1011_2
equation    2x = 17                              chain       9 + 8 = 17                 expression  whatever algebra may read
row         of a matrix                          named       x = 2, y = 3               union       also x < 1 or x > 3
unknown     anything else: right only if it is written like the reference
"""

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from vapo.verifiers.arithmetic import arithmetic, number
from vapo.verifiers.expressions import GREEK, expression, variables
from vapo.verifiers.spelling import spell
from vapo.verifiers.trimming import CHANGES, enclosed, split, trimmed
from vapo.verifiers.units import CURRENCIES, UNITS, split_unit


@dataclass(frozen=True)
class Form:
    """An answer's kind and parts."""

    kind: str
    text: str  # in one spelling, without its unit
    items: tuple["Form", ...] = ()
    value: Fraction | None = None  # of a number
    unit: str = ""  # % for percent
    name: str = ""  # x of `x = 17`, or of `x \ge 3`


# Of a text that is compact. Possessive and atomic: what they cannot match they leave at once, however long it is.
_LETTER = rf"(?>(?:[a-zA-Z]|\\(?:{'|'.join(GREEK.split())})(?![a-zA-Z]))(?:_(?:\w|\{{[^{{}}]*\}}))?(?:'|\^?\{{?\\prime\}}?)*)"
_SIMPLE = re.compile(
    rf"{_LETTER}(?:\^\{{-1\}})?(?:\([^()]*\))?|[A-Z]{{2,4}}"
    rf"|m?\\(?:angle|triangle|overline|vec|hat|bar) ?\{{?(?: ?\w)++\}}?"
    rf"|\[[A-Z ]+\]|\|[A-Z]{{2}}\||\\lfloor ?[a-z]\\rfloor"
    rf"|\\(?:sin|cos|tan|arg|deg|det|Pr?) ?(?:{_LETTER}|\([^()]*\))|\((?: ?{_LETTER},?)++\)"
)
_COMBINED = re.compile(rf"(?:\\frac|[-+/{{}} \d]|\\cdot|{_LETTER})++")
_NO_TEXT = re.compile(r"[,;/+*^=]|\\(?:cdot|times|div)|(?:and|or|is(?! (?:the )?(?:correct|right)))(?![a-zA-Z])")  # behind (A)
_OTHER_CHOICE = re.compile(r"(?<![a-zA-Z])(?:\(?[A-J]\)|[A-J]:|(?:and|or|is|not|,) ?[A-J](?![a-zA-Z]))")
_MONEY = re.compile(
    rf"(-?) ?(?:(?:C|A) ?(?=dollar))?({'|'.join(CURRENCIES)})s?\.? ?(?:dollars? ?)?"
    r"([-\d.][^ ]*(?: (?:[mbtr]+illion|thousand|hundred)s?)?)"
)
_WORDS = re.compile(r"[^\W\d_][\w'.-]*(?:[ ,]+[\w'.&-]+)*")
_SEPARATORS = r"(?:;|(?<!\d),|,(?!\d{3}(?!\d)))(?: ?(?:and|or|&) )? ?| (?:and|or|&) |和|与|或"  # of a list
_RELATION = {"<": "<", ">": ">", r"\le": "<=", r"\ge": ">="}


@lru_cache(maxsize=4096)
def read(answer: str) -> Form:
    """The form of an answer or reference as it was written.

    >>> read("$x = \\\\dfrac{3}{4}$ cm").kind, read("2x = 17").kind, read("17 below zero").kind, read("(2, 3]").text
    ('number', 'equation', 'unknown', '(]')
    """
    try:
        return _read(spell(answer))
    except RecursionError:
        return Form("unknown", answer)


def shown(form: Form, most: int) -> str:
    """A form in words: one text for equal answers, as far as that shows without algebra; numbers are without their units. Numbers
    of more than `most` digits stay as they were written.

    >>> shown(read("(0.5, \\\\frac{6}{3}]"), 9), shown(read("3, 1 and 2"), 9), shown(read("x = 2, y = 3"), 9)
    ('(1/2, 2]', '1, 2, 3', 'x = 2, y = 3')
    """
    if form.value is not None and max(abs(form.value.numerator), form.value.denominator) < 10**most:
        return str(form.value)
    if not form.items or form.kind in ("choice", "equation"):
        return form.text
    parts = [shown(item, most) for item in form.items]
    if form.kind == "list" and all(item.value is not None for item in form.items):
        parts.sort()
    if form.kind == "named":
        parts = sorted(f"{item.name} = {part}" for item, part in zip(form.items, parts, strict=True))
    between = {"union": " or ", "colon": ":", "row": " & ", "matrix": "; ", "chain": " = "}.get(form.kind, ", ")
    start, end = (form.text[0], form.text[1]) if form.kind == "bracket" else ("", f" {form.unit}".rstrip())
    return f"{start}{between.join(parts)}{end}"


def compact(text: str) -> str:
    """Without the blanks that say nothing: all but those between words and between numbers."""
    return re.sub(r"(?<![a-zA-Z0-9.]) | (?![a-zA-Z0-9.])|(?<=[a-zA-Z]) (?=\d)", "", text)


def _read(text: str) -> Form:
    text = trimmed(text)
    plain = compact(text)
    unknown = Form("unknown", plain)
    if not text:
        return unknown
    if choice := re.fullmatch(r"\(([A-J])\)[.:]? ?(.*)|([A-J])(?:[):.] ?| - )(\S.*)", text):
        letter, rest = choice[1] or choice[3], choice[2] or choice[4] or ""
        if _NO_TEXT.match(rest) or _OTHER_CHOICE.search(rest):
            return _listed(text) or unknown  # several choices, or a formula
        minus = text[1:4] == " - " and expression(rest)  # C - x^2 is a difference, B - the median a choice
        if not minus and (not rest or not re.match(r"[^(]*\)", rest)):
            return Form("choice", letter, (_read(rest),) if rest else ())
    if matrix := re.fullmatch(r"\\begin\{((?:[pbvBV]|small)?matrix|array)\}(?: ?\{[clr| ]+\})?(.*)\\end\{\1\}", text, re.DOTALL):
        rows = [row for row in split(matrix[2].strip(), r"\\cr(?![a-z])") if row]
        kind = "|" if matrix[1][0] in "vV" else ""
        return Form("matrix", kind, tuple(Form("row", "", tuple(_read(entry) for entry in split(row, "&"))) for row in rows))
    if (value := number(text)) is not None:
        return Form("number", plain, value=value)
    if money := _MONEY.fullmatch(text):
        amount, currency = _read(money[1] + money[3]), UNITS.get(money[2], "dollar")
        return replace(amount, unit=currency) if amount.unit in ("", currency) else unknown
    return _listed(text) or _related(text) or _bracketed(text) or _quantity(text) or unknown


def _listed(text: str) -> Form | None:
    """A list: parts between commas, semicolons, and, or; `a \\pm b`; None if it is not one."""
    if len(re.findall(r"\\pm(?![a-z])", text)) == 1 and not re.search(r"[,;]|\\(?:sum|prod|int|lim|cup)(?![a-z])", text):
        both = (("+", "-"), ("-", "+"))
        return Form("list", "", tuple(_read(re.sub(r"\\mp(?![a-z])", b, re.sub(r"\\pm(?![a-z])", a, text))) for a, b in both))
    same = split(text, r",? ?(?:or equivalently|equivalently|i\.e\.|that is|which equals|即),? ")
    if len(same) == 2 and all(same):
        return Form("chain", "", tuple(map(_read, same)))
    joined = " and " if len(split(text, r" and | & |和|与")) > 1 else " or " if len(split(text, r" or |或")) > 1 else ","
    parts = split(text, _SEPARATORS)
    if len(parts) < 2 or not all(parts):
        return None
    if re.fullmatch(r"\\?(?:lim|gcd|lcm|max|min).*", text) and len(split(text, ",")) == 1:
        return None
    items = _flat(parts)
    names = [item.name for item in items]
    if any(item.kind == "bracket" and re.fullmatch(_LETTER, item.name) for item in items):  # inequalities
        if joined == " or " and len({*names, ""}) <= 2:
            return Form("union", "", tuple(replace(item, name="") for item in items), name=names[0])
        return Form("unknown", compact(text))
    if names[0] and not any(names[1:]):  # n = 1, 5, 7
        return Form("list", joined, (replace(items[0], name=""), *items[1:]), name=names[0])
    if len(set(names)) == 1:
        return Form("list", joined, tuple(replace(item, name="") for item in items), name=names[0])
    return Form("named", "", items) if all(names) and len(set(names)) == len(names) else Form("list", joined, items)


def _flat(parts: list[str]) -> tuple[Form, ...]:
    r"""The parts of a list; `\pm 1` is two of them."""
    forms = map(_read, parts)
    return tuple(item for form in forms for item in (form.items if _is_plus_minus(form) else (form,)))


def _is_plus_minus(form: Form) -> bool:
    r"""Whether it is `\pm a`, and not `x = \pm a`."""
    return (form.kind, form.text) == ("list", "") and not any(x.name for x in (form, *form.items))


def _related(text: str) -> Form | None:
    """`x = 17`, `17 = x`, `9 + 8 = 17`, `x^2 = 17`, `x \\ge 3`, `x \\in S`; None if there is no relation."""
    belongs = split(text, r"\\in(?![a-z])")
    if len(belongs) == 2 and re.fullmatch(_LETTER, compact(belongs[0])):
        return replace(_read(belongs[1]), name=compact(belongs[0]))
    parts = split(text, r"(<|>|\\le(?![a-z])|\\ge(?![a-z]))")
    if len(parts) > 1:
        return _interval(parts) or Form("unknown", compact(text))
    rounded = split(text, r"\\approx(?![a-z])|≒")
    if len(rounded) == 2 and all(rounded):
        return _read(rounded[1]) if _is_name(rounded[0]) else _read(rounded[0])
    sides = [side for side in split(text, r"(?<![!<>])=") if side]
    if len(sides) < 2:
        return None
    name = ""
    shorter = len(sides) == 2 and _is_name(sides[1]) and len(sides[1]) < len(sides[0]) and "(" not in sides[0]  # m + n = x
    if _is_name(sides[0]) and not shorter:
        name, sides = compact(sides[0]), sides[1:]
    elif len(sides) == 2 and _is_name(sides[1]):
        name, sides = compact(sides[1]), sides[:1]
    if len(sides) == 1:
        return replace(_read(sides[0]), name=name)
    if any(variables(side) for side in sides) and not name:
        return Form("equation", compact(text), tuple(Form("expression", expression(side) or "?") for side in sides))
    return Form("chain", compact(text), tuple(map(_read, sides)), name=name)


def _is_name(text: str) -> bool:
    """Whether a side of an equation is what was asked for, and not a step on the way: a letter, f(2), m + n, [ABC], words."""
    plain = compact(text)
    if _SIMPLE.fullmatch(plain):
        return plain not in ("e", "i")
    letters = {token for token in re.findall(r"\\?[a-zA-Z]+", re.sub(r"\\frac|\\cdot", " ", text)) if token}
    letters = {x for token in letters for x in ([token] if token[0] == "\\" else token)}
    if _COMBINED.fullmatch(plain) and not CHANGES.search(text):  # m + n, but not log x
        terms = re.split(r"[-+]", text)
        return (
            len(letters) >= 2
            and all(re.search(r"[a-z]", term, re.I) for term in terms)
            and (len(terms) > 1 or not text[0].isdigit())
        )
    return bool(_WORDS.fullmatch(text)) and bool(re.search(r"[^\W\d_]{3,}", text)) and not CHANGES.search(text)


def _interval(parts: list[str]) -> Form | None:
    """`x \\ge 3` or `1 < x \\le 5` as the interval it is."""
    signs = [_RELATION[sign] for sign in parts[1::2]]
    values = parts[::2]
    if len({sign[0] for sign in signs}) != 1 or len(signs) > 2 or not all(values):
        return None
    if signs[0][0] == ">":
        signs, values = [sign.replace(">", "<") for sign in signs[::-1]], values[::-1]
    infinity = Form("text", r"\infty")
    at = [i for i, value in enumerate(values) if re.fullmatch(_LETTER, compact(value))]
    if len(at) != 1 or (len(values) == 3 and at != [1]):
        return None
    bounds = [_read(value) for i, value in enumerate(values) if i != at[0]]
    if len(values) == 2:
        bounds, signs = (
            ([replace(infinity, text=r"-\infty"), *bounds], ["<", *signs]) if at == [0] else ([*bounds, infinity], [*signs, "<"])
        )
    kind = ("[" if signs[0] == "<=" else "(") + ("]" if signs[1] == "<=" else ")")
    return Form("bracket", kind, tuple(bounds), name=compact(values[at[0]]))


def _bracketed(text: str) -> Form | None:
    """Unions, sets, tuples and intervals; brackets around a single answer are dropped. None if it is none of them."""
    united = split(text, r"\\cup(?![a-z])")
    if len(united) > 1:
        return Form("union", "", tuple(map(_read, united)))
    if re.fullmatch(r"[A-Z] ?\(.*,.*\)", text):
        return replace(_read(text[1:].strip()), name=text[0])  # A(1, 2), a point
    inside = enclosed(text)
    if inside is None:
        return None
    if text.startswith(r"\{"):
        parts = [part for part in split(inside, r"[,;]") if part]
        items = _flat(parts)
        return (
            items[0]
            if len(items) == 1
            else Form("list", "set", items)
            if not re.search(r"\||:|\\(?:in|mid)(?![a-z])", inside)
            else None
        )
    parts = split(inside, r"[,;]")
    if len(parts) > 1 and all(parts) and text[0] in "([":
        return Form("bracket", text[0] + text[-1], tuple(map(_read, parts)))
    return _read(inside) if len(parts) == 1 and text[0] + text[-1] in ("()", "[]") and inside else None


def _cardinal(text: str) -> str:
    """17 for 17th; other texts, such as 17nd, as they are."""
    ordinal = re.fullmatch(r"(\d+)[ ^{]*(st|nd|rd|th) ?\}?", text)
    if ordinal is None:
        return text
    tens, ones = ordinal[1][-2:-1], ordinal[1][-1]
    right = "th" if tens == "1" else {"1": "st", "2": "nd", "3": "rd"}.get(ones, "th")
    return ordinal[1] if ordinal[2] == right else text


def _quantity(text: str) -> Form | None:
    """Percentages, units, currencies, times and ratios, numbers in a base, infinities, words, expressions."""
    plain = compact(text)
    if percent := re.fullmatch(r"([^%]*[^%\s]) ?(?:%|per ?cents?|percents?|pct|百分之)", text):
        body = _read(percent[1])
        return replace(body, unit="%") if body.kind in ("number", "expression") and not body.unit else None
    if scaled := re.fullmatch(r"百分之 ?(.+)", text):
        return replace(_read(scaled[1]), unit="%")
    if clock := re.fullmatch(r"(\d+(?: ?: ?\d+)+) ?([ap]\.? ?m\.?)?", text, re.IGNORECASE):
        items = tuple(Form("number", part, value=Fraction(part)) for part in re.split(" ?: ?", clock[1]))
        return Form("colon", "", items, unit=(clock[2] or "").lower().replace(".", "").replace(" ", ""))
    if based := re.fullmatch(r"([0-9A-F]+) ?_ ?(?:\{ ?)?(\d+)(?: ?\})?", text):
        return Form("based", f"{based[1].lstrip('0')}_{based[2]}")
    if re.fullmatch(r"[+-]? ?\\infty", text):
        return Form("text", plain.removeprefix("+"))
    if text in (r"\mathbb{R}", r"\mathbb{ R }", r"\mathbb R") or re.fullmatch(
        r"(?:the set of )?all real(?: number)?s?|实数集?|全体实数", text, re.I
    ):
        return Form("bracket", "()", (Form("text", r"-\infty"), Form("text", r"\infty")))
    if text == r"\emptyset" or re.fullmatch(
        r"(?:no|there (?:is|are) no) (?:real )?solutions?|the empty set|empty set|无解|空集", text, re.I
    ):
        return Form("list", "set")
    amount, unit = split_unit(text)
    if amount != text and not (unit == "degree" and re.search(r"\\(?:sin|cos|tan|cot|sec|csc)|degree", amount)):
        return (
            replace(form, unit=form.unit or unit)
            if (form := _read(amount)).kind in ("number", "expression", "list", "chain")
            else None
        )
    if (value := arithmetic(_cardinal(text))) is not None:
        return Form("number", plain, value=value)
    if readable := expression(text):
        return Form("expression", readable)
    if _WORDS.fullmatch(text):
        words = re.sub(r"[.\"]|(?<=[^\W\d_]{3})['-]|['-](?=[^\W\d_]{3})", "", plain)  # not of x'
        words = words.replace(" ", "") if max(map(len, words.split())) == 1 else words  # a b is ab
        return Form("text", words.casefold() if len(words) > 2 or words.lower() == "no" else words)
    return None
