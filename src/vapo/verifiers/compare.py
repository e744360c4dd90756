"""Layers 2 and 3 of a verdict: forms are compared part by part; what is left are pairs of expressions, for algebra."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

from vapo.verifiers.forms import Form, read, variables

Algebra = Callable[[str, str, bool], bool]  # (expression, expression, whether they are equations "... = 0") -> equal


class NeedsAlgebra(Exception):
    """Forms and numbers do not decide this pair."""


def needs_algebra(answer: str, reference: str, equation: bool) -> bool:
    raise NeedsAlgebra


def same_answer(answer: str, reference: str, algebra: Algebra = needs_algebra) -> bool:
    r"""Whether an answer is the reference, in another form or not. What cannot be read is wrong.

    Raises:
        NeedsAlgebra: only algebra can tell, and there is none.

    >>> same_answer("$x = 0.50$", "\\frac{1}{2}"), same_answer("17 below zero", "17"), same_answer("(3, 2)", "(2, 3)")
    (True, False, False)
    """
    return equal(read(answer), read(reference), algebra)


def equal(a: Form, b: Form, algebra: Algebra) -> bool:
    """Whether two forms are the same answer, `b` being the reference."""
    if a.name and b.name and a.name != b.name:
        return _combined(a.name + b.name) and _equations(a, b, algebra)
    if b.kind != "equation" and _combined(b.name) and not a.name and a.kind != "equation":
        return False  # x + y = 5 as a reference is a line, not 5
    if {a.kind, b.kind} == {"text", "expression"}:  # ab and a \cdot b, but not ba, and no words
        return len((a if a.kind == "text" else b).text) == 2 and re.sub(r"\\cdot| ", "", a.text) == re.sub(r"\\cdot| ", "", b.text)
    if a.kind in ("unknown", "text", "based") or b.kind in ("unknown", "text", "based"):
        return a.kind == b.kind and a.text == b.text and bool(a.text)
    if "choice" in (a.kind, b.kind):
        return _choice(a, b, algebra)
    if a.kind == "chain" and b.kind != "chain":  # 9 + 8 = 17: every part must be right
        return all(equal(item, b, algebra) for item in a.items)
    if b.kind == "chain" and a.kind != "chain":
        return equal(a, b.items[-1], algebra)
    if "equation" in (a.kind, b.kind) or (a.name and b.name and {a.kind, b.kind} == {"expression"} and variables(b.text)):
        return _equations(a, b, algebra)
    if "colon" in (a.kind, b.kind):
        return _colon(a, b)
    if {a.kind, b.kind} <= {"number", "expression"}:
        return _quantity(a, b, algebra)
    if a.kind == "named" and b.kind == "bracket":  # x = 2, y = 3 for (2, 3)
        return b.text == "()" and _all(_in_order(a.items, b.name), b.items, algebra)
    if a.kind == "named" and b.kind == "list" and len({re.sub(r"_.*", "", item.name) for item in a.items}) == 1:
        return _matched(a.items, b.items, algebra)  # x_1 = 2, x_2 = 3
    if {a.kind, b.kind} == {"matrix", "bracket"}:  # a column for a tuple
        matrix, other = (a, b) if a.kind == "matrix" else (b, a)
        column = [row.items[0] for row in matrix.items if len(row.items) == 1]
        return other.text == "()" and matrix.text == "" and len(column) == len(matrix.items) and _all(column, other.items, algebra)
    if a.kind != b.kind or (a.text != b.text and a.kind != "list") or not _units_agree(a, b):
        return False
    if a.kind == "named":
        return _all(sorted(a.items, key=lambda x: x.name), sorted(b.items, key=lambda x: x.name), algebra)
    if a.kind == "list" and not (
        all(x.kind in ("text", "choice") or x.text.isalpha() for x in (*a.items, *b.items)) and "," in (a.text, b.text)
    ):
        return _matched(a.items, b.items, algebra)  # in any order, but words between commas
    return _matched(a.items, b.items, algebra) if a.kind == "union" else _all(a.items, b.items, algebra)


def _in_order(items: Sequence[Form], names: str) -> Sequence[Form]:
    """Named values in the order of "(p,m)" if the tuple has these names, else in the alphabet's, else as they are."""
    wanted, found = names.strip("()").split(","), [item.name for item in items]
    if sorted(wanted) == sorted(found):
        return sorted(items, key=lambda item: wanted.index(item.name))
    return sorted(items, key=lambda item: item.name) if all(len(name) == 1 for name in found) else items


def _combined(name: str) -> bool:
    """Whether it is a combination of letters, such as x + y, and not x_1 or f(2)."""
    return re.search(r"[-+/{\d]", re.sub(r"_ ?(?:\w|\{\w*\})|(?<=[a-zA-Z])\((?:\d+|[a-zA-Z])\)", "", name)) is not None


def _all(a: Sequence[Form], b: Sequence[Form], algebra: Algebra) -> bool:
    return len(a) == len(b) and all(equal(x, y, algebra) for x, y in zip(a, b, strict=True))


def _matched(a: Sequence[Form], b: Sequence[Form], algebra: Algebra) -> bool:
    """Each of `a` is another one of `b`, in any order."""
    if len(a) != len(b):
        return False
    left = list(b)
    for x in a:
        partner = next((i for i, y in enumerate(left) if equal(x, y, algebra)), None)
        if partner is None:
            return False
        del left[partner]
    return True


def _choice(a: Form, b: Form, algebra: Algebra) -> bool:
    """(B), B and `(B) 24` for B; `(B) 24` for 24; two letters must agree, and what stands behind both of them too."""
    if a.kind == b.kind == "choice":
        return a.text == b.text and (not (a.items and b.items) or equal(a.items[0], b.items[0], algebra))
    choice, other = (a, b) if a.kind == "choice" else (b, a)
    if re.fullmatch("[A-Z]", other.text):
        return other.text == choice.text
    return bool(choice.items) and equal(choice.items[0], other, algebra)


def _equations(a: Form, b: Form, algebra: Algebra) -> bool:
    """Equations are the same if one is a multiple of the other. `y = 2x` is an equation beside another equation."""
    if b.kind == "number" and not _combined(b.name):
        return False  # 2x = 10 is not yet x = 5
    sides = []
    for form in (a, b):
        if form.kind == "equation":
            if len(form.items) != 2 or any(side.text == "?" for side in form.items):
                return a.kind == b.kind and a.text == b.text
            sides.append(f"{form.items[0].text}-({form.items[1].text})")
        elif form.name and form.kind in ("number", "expression"):
            sides.append(f"{form.name}-({form.text})")
        else:
            return False
    if a.kind == b.kind == "expression" and a.name == b.name:
        return algebra(a.text, b.text, False)
    return (a.kind == b.kind == "equation" and a.text == b.text) or algebra(sides[0], sides[1], True)


def _colon(a: Form, b: Form) -> bool:
    """Times and ratios part by part; 1:2 is also 1/2."""
    if a.kind == b.kind:
        return [x.value for x in a.items] == [x.value for x in b.items] and (a.unit == b.unit or "" in (a.unit, b.unit))
    ratio, other = (a, b) if a.kind == "colon" else (b, a)
    above, below = ([x.value or Fraction(0) for x in ratio.items] + [Fraction(0)])[:2]
    return (
        len(ratio.items) == 2
        and other.kind == "number"
        and not ratio.unit
        and below != 0
        and (above / below).denominator != 1  # 1:2 is 1/2, but 8:4 is not 2
        and other.value == above / below
    )


def _quantity(a: Form, b: Form, algebra: Algebra) -> bool:
    """Numbers exactly; expressions by their text, else by algebra. Units must agree where both have one."""
    if "%" in (a.unit, b.unit):
        return _percent(a, b)
    if not _units_agree(a, b):
        return False
    if "degree" in (a.unit, b.unit) and r"\pi" in a.text + b.text:  # 90 degrees are \pi/2
        a, b = (replace(x, text=rf"{x.text}\degree") if x.unit == "degree" else x for x in (a, b))
    elif a.value is not None and b.value is not None:
        return a.value == b.value
    return a.text.replace(" ", "") == b.text.replace(" ", "") or algebra(a.text, b.text, False)


def _units_agree(a: Form, b: Form) -> bool:
    return a.unit == b.unit or "" in (a.unit, b.unit) or {a.unit, b.unit} in ({"degree", "celsius"}, {"degree", "fahrenheit"})


def _percent(a: Form, b: Form) -> bool:
    """A percentage is its value (35 % is 0.35, for numbers below 10), and the plain number of percents (35 % is 35, from 1 on), as
    the answers of word problems are written."""
    if a.value is None or b.value is None:
        return a.unit == b.unit and a.text == b.text
    if a.unit == b.unit:
        return a.value == b.value
    percent, plain = (a.value, b.value) if a.unit == "%" else (b.value, a.value)
    if (b if a.unit == "%" else a).unit:
        return False
    return (percent == plain and abs(plain) >= 1) or (percent == 100 * plain and abs(plain) < 10)
