"""Layer 3 of a verdict, algebra: math-verify reads two expressions; they are equal if they are at random points, to 120 digits."""

import math
import random
import re
from functools import lru_cache
from typing import Any

from vapo.verifiers.expressions import variables

DIGITS, AGREE = 150, 120  # significant digits that are computed, and that must agree
POINTS, ENOUGH = 6, 3  # at which expressions with letters are compared, half of them negative; at which both must have a value
# Where a function has kinks, such as |x| or a floor, it may be another one on the far side of a kink: also at points of these sizes
# and of the sizes of its constants, of both signs, and at whole numbers.
FAR = (3, 10, 50, 300, 1000, 1e7)
CANCELLED = 1e-60  # of the value: no more is left to rounding where large terms cancel
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
    if not isinstance(parsed, sympy.Expr) or (re.search(r"\\(?:gcd|lcm)", text) and variables(text)):  # of polynomials, there
        raise UnreadableError(text)
    return parsed.subs({symbol: sympy.I for symbol in parsed.free_symbols if symbol.name == "i"}).doit()


def prepared(text: str) -> str:
    r"""The text as math-verify's parser reads it rightly.

    >>> prepared("2(3) + 0.5E"), prepared("x^{2024} - x^{10}")
    ('2\\cdot (3) + (\\frac{5}{10})\\cdot v_{91}', 'x^{p_{2024}} - x^{10}')
    """
    text = re.sub(r"(\d+(?:\.\d+)?) ?\\degree(?![a-z])", r"(\\frac{\1\\pi}{180})", text)
    text = re.sub(r"\^ ?([-+]?\d\d+|-(?:\d|[a-zA-Z])(?!\w))", r"^{\1}", text)
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
    from sympy.core.evalf import PrecisionExhausted

    b = parse_expression(reference)
    try:
        a = parse_expression(answer)
    except UnreadableError:
        return False
    letters, ratios, met = sorted(a.free_symbols | b.free_symbols, key=str), set(), 0
    more = max((len(str(abs(number))) for form in (a, b) for number in form.atoms(sympy.Integer)), default=0)  # 2^{500} + 1
    digits, slack = DIGITS + more, sympy.Float(10) ** -(AGREE + more)
    points = _points(letters, a, b)
    for at in points:
        try:
            x, y = (form.evalf(digits, subs=at) for form in (a, b))
        except (ArithmeticError, TypeError, ValueError, PrecisionExhausted):
            continue  # no value here, as far as SymPy knows
        if not (x.is_number and y.is_number) or any(value.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo) for value in (x, y)):
            continue
        if not all(part.is_Float or part.is_Integer or part.is_Rational for value in (x, y) for part in value.as_real_imag()):
            return False
        met += 1
        if equation:
            ratios.add(sympy.N(x / y, 40 + more) if y != 0 else None)
        elif abs(x - y) > (size := max(abs(x), abs(y))) * slack and (
            abs(x - y) > CANCELLED * max(size, 1) or abs(x - y) > max(_largest_term(form, at, digits) for form in (a, b)) * slack
        ):
            return False
    if met < min(ENOUGH, len(points)):
        return False
    first = next(iter(ratios), None)
    return not equation or (
        first is not None
        and first != 0
        and all(ratio is not None and abs(ratio - first) < abs(first) * sympy.Float(10) ** -(30 + more) for ratio in ratios)
    )


def _points(letters: list[Any], *forms: Any) -> list[dict[Any, Any]]:
    """The points at which expressions are compared: a value for each letter."""
    import sympy

    rng = random.Random(0)
    if not letters:
        return [{}]
    points = [
        {x: sympy.Float(rng.uniform(1, 3), DIGITS) * (-1) ** (point * rng.randrange(2)) for x in letters} for point in range(POINTS)
    ]
    if any(map(_has_kinks, forms)):
        powers = any(power.exp.free_symbols for form in forms for power in form.atoms(sympy.Pow))
        grows = powers or any(form.has(sympy.exp, sympy.factorial, sympy.gamma, sympy.binomial) for form in forms)
        largest = 10 if grows else 10**9
        constants = sorted({abs(int(c)) for form in forms for c in form.atoms(sympy.Integer) if 1 < abs(c) <= largest})[:6]
        for size in (*(size for size in FAR if size <= largest), *constants, *(c / 3 for c in constants)):
            for sign in (1, -1):
                values = [size * rng.uniform(1, 3) * (sign if x is letters[0] else rng.choice((1, -1))) for x in letters]
                points.append({x: sympy.Float(value, DIGITS) for x, value in zip(letters, values, strict=True)})
                points.append({x: sympy.Integer(round(value)) for x, value in zip(letters, values, strict=True)})
    return points


def _has_kinks(form: Any) -> bool:
    """Whether an expression has absolute values, floors and the like, or even roots of letters: (x^2)^{1/2} is |x|."""
    import sympy

    roots = (power for power in form.atoms(sympy.Pow) if power.exp.is_Rational and power.exp.q % 2 == 0 and power.base.free_symbols)
    return bool(form.atoms(sympy.Abs, sympy.floor, sympy.ceiling, sympy.Max, sympy.Min, sympy.sign)) or any(roots)


def _largest_term(form: Any, at: dict[Any, Any], digits: int) -> Any:
    """The size of the largest term that is added up in an expression: its rounding may be left where the terms cancel."""
    if form.is_Add:
        return max(_largest_term(term, at, digits) for term in form.args)
    if form.is_Mul:
        return math.prod(_largest_term(factor, at, digits) for factor in form.args)
    return abs(form.evalf(digits, subs=at))
