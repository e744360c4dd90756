"""Layer 3 of a verdict, algebra: math-verify reads two expressions; they are equal if they are at random points, to 120 digits."""

import random
import re
from functools import lru_cache
from typing import Any

DIGITS, AGREE = 150, 120  # significant digits that are computed, and that must agree
POINTS = 6  # at which expressions with variables are compared, half of them negative
MOST_CHARACTERS = 600  # of an expression
CACHED = 1000  # expressions
# A command, with the _ of those below which an expression stands; a capital, and its index; an index.
_CAPITAL = re.compile(r"\\(?:(?:log|lim|sum|prod|int|max|min) ?_|[a-zA-Z]+)|([A-Z])(?: ?_ ?\{([^{}]*)\})?|_ ?\{([^{}]*)\}")


class UnreadableError(ValueError):
    """Not an expression that math-verify reads whole."""


@lru_cache(maxsize=CACHED)
def parse_expression(text: str) -> Any:
    """An expression of `vapo.verifiers.forms` as a SymPy object. Decimals become fractions, capitals stay
    capitals, and powers and factorials that are too big to be written out become letters of their own.

    Raises:
        UnreadableError: it cannot be parsed.
    """
    import sympy
    from latex2sympy2_extended import latex2sympy  # the parser alone: math_verify.parse also looks for pieces that it can read

    try:
        parsed = latex2sympy(prepared(text), normalization_config=None)
    except Exception as error:  # whatever its grammar and SymPy raise
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError):
                raise MemoryError(text) from error
            cause = cause.__cause__ or cause.__context__
        raise UnreadableError(text) from error
    if not isinstance(parsed, sympy.Expr):
        raise UnreadableError(text)
    return parsed.subs({symbol: sympy.I for symbol in parsed.free_symbols if symbol.name == "i"}).doit()


def prepared(text: str) -> str:
    r"""The text as math-verify's parser reads it rightly.

    >>> prepared("2(3) + 0.5E"), prepared("x^{2024} - x^{10}")
    ('2\\cdot (3) + (\\frac{5}{10})\\cdot v_{91}', 'x^{p_{2024}} - x^{10}')
    """
    text = re.sub(r"(\d+(?:\.\d+)?) ?\\degree(?![a-z])", r"(\\frac{\1\\pi}{180})", text)
    text = re.sub(r"\^ ?([-+]?\d\d+)", r"^{\1}", text)
    text = re.sub(r"\^ ?\{? ?(\d{4,}) ?\}?", r"^{p_{\1}}", text)
    text = re.sub(r"(\d{4,}) ?!", r"q_{\1}", text)
    text = re.sub(r"(\d*)\.(\d+)", lambda m: rf"(\frac{{{int(m[1] + m[2])}}}{{{10 ** len(m[2])}}})", text)
    text = _CAPITAL.sub(_capital, re.sub(r"_ ?(\w)", r"_{\1}", text))
    text = re.sub(r"(?<![\w\\^_])((?:\d+)|(?<![a-zA-Z\\])[a-eh-zA-Z](?:_\{9[01]\})?) ?(?=\()", r"\1\\cdot ", text)
    return re.sub(r"\) ?(?=[(\w\\])(?!\\(?:cdot|times|div|to|rfloor|rceil))", r")\\cdot ", text)


def _capital(match: re.Match[str]) -> str:
    """A capital, also in an index, as a small letter with another index, since math-verify would make it small; a command as it
    is. E becomes a v: an e with an index is not read."""
    letter, index, alone = match.groups()
    if letter is None and alone is None:
        return match[0]
    inner = re.sub("[A-Z]", lambda capital: capital[0].lower() + "90", index or alone or "")
    return ("_{" if letter is None else "v_{91" if letter == "E" else f"{letter.lower()}_{{90") + inner + "}"


def equal_expressions(answer: str, reference: str, equation: bool = False) -> bool:
    r"""Whether two expressions have the same value, for all values of their letters.

    Args:
        equation: they are the left sides of equations "... = 0", which are the same if one is a multiple of the other.

    Raises:
        UnreadableError: the reference cannot be parsed; the problem set is wrong, not the response.
    """
    import sympy

    b = parse_expression(reference)
    try:
        a = parse_expression(answer)
    except UnreadableError:
        return False
    if len(answer) > MOST_CHARACTERS:
        return False
    letters = sorted(a.free_symbols | b.free_symbols, key=str)
    rng, ratios, met = random.Random(0), set(), 0
    for point in range(POINTS if letters else 1):
        at = {x: sympy.Float(rng.uniform(1, 3), DIGITS) * (-1) ** (point * rng.randrange(2)) for x in letters}
        x, y = (form.evalf(DIGITS, subs=at) for form in (a, b))
        if not (x.is_number and y.is_number) or any(value.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo) for value in (x, y)):
            continue
        if not all(part.is_Float or part.is_Integer or part.is_Rational for value in (x, y) for part in value.as_real_imag()):
            return False
        met += 1
        if equation:
            ratios.add(sympy.N(x / y, 40) if y != 0 else None)
        elif abs(x - y) > abs(y) * sympy.Float(10) ** -AGREE + sympy.Float(10) ** -(AGREE + 15):
            return False
    if equation:
        first = next(iter(ratios), None)
        return (
            first is not None
            and first != 0
            and all(ratio is not None and abs(ratio - first) < abs(first) * 10**-30 for ratio in ratios)
        )
    return met >= min(3, POINTS if letters else 1)
