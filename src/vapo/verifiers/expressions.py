"""Which texts algebra may read: digits, signs, known functions and single letters. Words never become products of letters."""

import re

FUNCTIONS = "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp min max gcd lcm lim"
_OTHERS = "frac sqrt pi cdot times div binom lfloor rfloor lceil rceil sum prod int to infty degree"
SHORT_WORDS = "an|and|are|as|at|but|by|for|if|in|is|it|mod|no|not|of|off|on|or|out|per|so|the|to|up"
GREEK = "alpha beta gamma delta epsilon theta lambda mu rho sigma tau phi varphi omega"
_ALGEBRA = {f"\\{name}" for name in f"{FUNCTIONS} {GREEK} {_OTHERS}".split()}
# What a computer algebra system would try to write out: towers of numbers, large factorials, sums and products over large ranges.
_EXPLODES = re.compile(r"\^ ?\{? ?\(?[\d.]+\)? ?\^|\d{5,} ?\)? ?!|! ?\)? ?!|\\binom ?\{? ?\d{5}|\\(?:sum|prod)(?:.*\d{5}|.*\^.*\^)")


def variables(text: str) -> set[str]:
    """The letters of an expression that stand for a number to be named, without e, i and functions."""
    return {
        letter for letter in re.sub(r"\\[a-zA-Z]+", lambda m: m[0] if m[0][1:] in GREEK.split() else " ", text) if letter.isalpha()
    } - {*"ei"}


def expression(text: str) -> str:
    """The text if algebra may read it: digits, signs, known functions, single letters; empty otherwise."""
    text = re.sub(rf"(?<![a-zA-Z\\])({FUNCTIONS.replace(' ', '|')})(?![a-zA-Z])", r"\\\1", text)
    commands = set(re.findall(r"\\[a-zA-Z]+|\\.", text))
    rest = re.sub(r"\\[a-zA-Z]+", " ", text)
    bare = re.sub(r"_ ?(?:\{[^{}]*\}|\w) ?", " x ", rest)
    if (
        not commands <= _ALGEBRA
        or not rest.isascii()
        or re.search(r"\d ?_", rest)
        or re.search(r"[^\w\s.+\-/^_(){}\[\]|!,]|[a-zA-Z]{4,}|\d \d", bare)
    ):
        return ""
    if "," in rest and not re.search(r"\\(?:gcd|lcm|min|max)", text):
        return ""
    if _EXPLODES.search(text) or re.search(r"\.\d+\.|\.\.", rest):
        return ""
    if re.search(rf"[\w)}}] (?:{SHORT_WORDS}) [\w({{]", bare) or re.search(r"\d ?\\frac ?\{ ?\d+ ?\} ?\{ ?\d+ ?\}", text):
        return ""  # 5 to 3; 5\frac{3}{2}, neither a mixed number nor a product
    if re.fullmatch(r"[a-zA-Z ]{2,}", rest.strip()) and not commands:
        return ""  # a word
    if r"\infty" in commands and not re.search(r"\\(?:lim|sum|int|prod)", text):
        return ""
    if re.search(r"(?<![a-zA-Z\\])[a-zA-Z]{3,}", rest) and not re.search(r"\d|[-+/^*]|\\", text):
        return ""
    return text if re.search(r"\w", rest) or r"\pi" in commands or commands & {f"\\{name}" for name in GREEK.split()} else ""
