"""Layer 2c of a verdict, numbers: exact values of what is written in digits or words, without rounding."""

import math
import re
from fractions import Fraction

MOST_BITS = 2**18  # of an integer: 2^2024 and 2024! are written out, 9^{9^9} is not
SCALES = {"hundred": 10**2, "thousand": 10**3, "dozen": 12, "score": 20, "gross": 144, "lakh": 10**5, "crore": 10**7}
SCALES |= {f"{prefix}illion": 10 ** (3 * i + 6) for i, prefix in enumerate(("m", "b", "tr", "quadr", "quint", "sext"))}
SCALES |= {"万": 10**4, "亿": 10**8, "million": 10**6}
_ONES = "zero one two three four five six seven eight nine ten eleven twelve "
_ONES += "thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
WORDS = {word: i for i, word in enumerate(_ONES.split())}
WORDS |= {
    word: 20 + 10 * i for i, word in enumerate(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"])
}

_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(?:(?:,\d{3})+|(?: \d{3})+)(?:\.\d+)?")
_SCIENTIFIC = re.compile(r"[+-]?\d+(?:\.\d+)?[eE][+-]?\d{1,3}")
_PLAIN = re.compile(r"([+-]?) ?(?:(\d*\.?\d+|\d+\.)|(?:(\d+) )?(?:\\frac ?\{ ?(\d+) ?\} ?\{ ?(\d+) ?\}|(\d+) ?/ ?(\d+)))")
_REPEATING = re.compile(r"(-?)(\d*)\.(\d*)(?:\\overline ?\{(\d+)\}|\\dot ?\{?(\d)\}?(?:(\d*)\\dot ?\{?(\d)\}?)?|\((\d+)\))")
_TOKENS = re.compile(r"\s*(\d+\.?\d*|\.\d+|\\[a-z]+|[-+/^!(){}\[\]*])")


def number(text: str) -> Fraction | None:
    r"""A number written in digits or words, exactly; None for anything else. It may be a decimal, a fraction, a mixed number, have
    thousands separators, a repeating part, or a scale word.

    >>> number("027.50"), number("1,250"), number("5 1/2"), number("-\\frac{3}{4}"), number("0.\\overline{3}")
    (Fraction(55, 2), Fraction(1250, 1), Fraction(11, 2), Fraction(-3, 4), Fraction(1, 3))
    >>> number("1e3"), number("12 50"), number("1,25")
    (Fraction(1000, 1), None, None)
    """
    if not text.isascii() and text[-1] not in SCALES:
        return None
    head, _, scale = text.rpartition(" ")
    if not head and text[-1:] in ("万", "亿"):
        head, scale = text[:-1], text[-1]
    factor = SCALES.get(scale.lower(), SCALES.get(scale.lower().removesuffix("s"))) if head else None
    if factor is not None:
        value = number(head.strip())
        return None if value is None else value * factor
    if _GROUPED.fullmatch(text):
        text = re.sub("[, ]", "", text)
    if _SCIENTIFIC.fullmatch(text):
        return Fraction(text)
    match = _PLAIN.fullmatch(text)
    if match is None:
        return _repeating(text) if "." in text else _in_words(text)
    sign, decimal, whole, *parts = match.groups()
    if decimal is not None:
        value = Fraction(decimal)
    else:
        above, below = (int(part) for part in parts if part is not None)
        if below == 0:
            return None
        value = int(whole or 0) + Fraction(above, below)
    return -value if sign == "-" else value


def _repeating(text: str) -> Fraction | None:
    r"""`0.1\overline{6}`, `0.\dot{3}`, `0.(3)`, `0.3 repeating`, `0.333\ldots`."""
    text = re.sub(r"^(-?\d*\.)(\d) repeating$", r"\1(\2)", text)
    text = re.sub(r"^(-?\d*\.\d*?)(\d)\2{2,} ?\\ldots ?$", r"\1(\2)", text)
    match = _REPEATING.fullmatch(text)
    if match is None:
        return None
    sign, whole, fixed, over, first, middle, last, bracketed = match.groups()
    period = over or bracketed or f"{first}{middle or ''}{last or ''}"
    value = Fraction(f"{whole or 0}.{fixed or 0}") + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    return -value if sign else value


def _in_words(text: str) -> Fraction | None:
    """`seventeen`, `minus forty-two`."""
    words = text.lower().replace("-", " ").split()
    sign = words[:1] in (["minus"], ["negative"])
    values = [WORDS.get(word) for word in words[sign:]]
    total = None
    if len(values) == 1 or (len(values) == 2 and (values[0] or 0) >= 20 and 0 < (values[1] or 0) < 10):
        total = None if None in values else sum(value or 0 for value in values)
    return None if total is None else Fraction(-total if sign else total)


def arithmetic(text: str) -> Fraction | None:
    r"""The exact value of sums, products, powers, factorials and binomials of numbers; None for anything else, or if it is too big.

    >>> arithmetic("1.7 \\times 10^{1}"), arithmetic("\\frac{2^{3}+1}{3 \\cdot 2}"), arithmetic("9^{9^{9}}")
    (Fraction(17, 1), Fraction(3, 2), None)
    """
    tokens: list[str] = []
    end = 0
    text = re.sub(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])", lambda grouped: grouped[0].replace(",", ""), text)
    while match := _TOKENS.match(text, end):
        if match.start() != end or (tokens and match[0][0].isspace() and tokens[-1][-1].isdigit() and match[1][0].isdigit()):
            return None  # "17 18"
        tokens.append(match[1])
        end = match.end()
    if text[end:].strip():
        return None
    try:
        parser = _Parser(tokens)
        value = parser.sum()
        return value if parser.at == len(tokens) else None
    except (ArithmeticError, ValueError, RecursionError):
        return None


class _Parser:
    """Recursive descent; ValueError where the text is no arithmetic."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at = tokens, 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        token = self.peek()
        if token and token in wanted:
            self.at += 1
            return token
        return ""

    def sum(self) -> Fraction:
        value = self.product()
        while sign := self.take("+", "-"):
            value = value + self.product() if sign == "+" else value - self.product()
        return value

    def product(self) -> Fraction:
        start, value = self.at, self.signed()
        literal = self.tokens[self.at - 1].isdigit() and self.at - start <= 2  # a whole number, with a sign or without
        while True:
            if self.take("\\cdot", "\\times"):
                value *= self.signed()
            elif self.take("/", "\\div"):
                value /= self.signed()
            elif self.peek() in ("(", "\\binom"):
                value *= self.power()
            elif self.peek() == "\\frac":
                part = self.power()
                if not literal or not 0 < part < 1:
                    raise ValueError("a mixed number or a product?")
                value = value + part if value >= 0 else value - part
            else:
                return value
            literal = False

    def signed(self) -> Fraction:
        sign = self.take("+", "-")
        return -self.signed() if sign == "-" else self.signed() if sign else self.power()

    def power(self) -> Fraction:
        value = self.factorial()
        if self.take("^"):
            exponent = self.group() if self.peek() == "{" else self.signed()
            if exponent.denominator != 1:
                raise ValueError("a root")
            bits = max(value.numerator.bit_length(), value.denominator.bit_length())
            if bits > 1 and bits * abs(exponent) > MOST_BITS:
                raise ValueError("too big")
            if abs(value) == 1:
                exponent %= 2
            value = Fraction(value ** int(exponent))
        return value

    def factorial(self) -> Fraction:
        value = self.atom()
        if self.take("!"):
            if value.denominator != 1 or not 0 <= value <= 5000 or self.peek() == "!":
                raise ValueError("no factorial, or too big")
            value = Fraction(math.factorial(int(value)))
        return value

    def atom(self) -> Fraction:
        if self.take("\\frac"):
            return self.group() / self.group()
        if self.take("\\binom"):
            above, below = self.group(), self.group()
            if not (above.denominator == below.denominator == 1 and 0 <= below <= above <= 5000):
                raise ValueError("no binomial, or too big")
            return Fraction(math.comb(int(above), int(below)))
        if self.peek() in ("(", "{"):
            return self.group()
        token = self.peek()
        if not token or not (token[0].isdigit() or token[0] == "."):
            raise ValueError("not a number")
        self.at += 1
        return Fraction(token)

    def group(self) -> Fraction:
        opened = self.take("(", "{")
        if not opened:
            raise ValueError("no group")
        value = self.sum()
        if not self.take({"(": ")", "{": "}"}[opened]):
            raise ValueError("not closed")
        return value
