"""Layer 2a of a verdict, spelling: one way of writing for what is written in many ways, without a change of meaning."""

import re
import unicodedata
from collections.abc import Callable

_GREEK = "alpha beta gamma delta theta lambda mu pi rho sigma tau phi omega"
_SYMBOLS = {
    **{"−": "-", "–": "-", "—": "-", "﹣": "-", "×": r"\times ", "÷": r"\div ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*"},
    **{"∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm "},
    **{"∪": r"\cup ", "∈": r"\in ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "∓": r"\mp ", "°": r"\degree ", "→": r"\to "},
    **{"。": ".", "，": ",", "、": ",", "‘": "'", "’": "'", "“": '"', "”": '"', "′": r"\prime ", "{,}": ",", "″": r"\prime\prime "},
    **{"€": " euro ", "£": " pound ", "¥": " yen ", "₹": " rupee ", r"\$": " dollar ", r"\pounds": " pound ", r"\euro": " euro "},
    **{"⟨": r"\langle ", "⟩": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "∠": r"\angle "},
    **{letter: f"\\{name} " for letter, name in zip("αβγδθλμπρστφω", _GREEK.split(), strict=True)},
}
_LONG = {"m": "meter", "g": "gram", "s": "second", "h": "hour", "d": "day", "l": "liter", "L": "liter"}
_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "₀₁₂₃₄₅₆₇₈₉"
_STYLE = (  # commands that change how their argument looks and not what it is
    r"text|textbf|textit|textrm|textsf|texttt|textnormal|mathrm|mathbf|mathit|mathsf|mathtt|mbox|hbox|underline|operatorname\*?|unit"
    r"|bm|boldsymbol|emph|boxed|fbox|rm|bf|it|si|ensuremath|mathop|pmb"
)
_REPLACEMENTS: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [  # in this order
    (r"\\\\(?=[()\[\]]|boxed|fbox)", r"\\"),  # a backslash that was escaped twice
    (r"\\(?:[dtc]frac|sfrac)(?![a-z])", r"\\frac"),
    (r"\\bigcup(?![a-z])", r"\\cup"),
    (r"\\[dt]binom(?![a-z])", r"\\binom"),
    (r"\\(?:leqslant|leq|le)(?![a-z])", r"\\le"),
    (r"\\(?:geqslant|geq|ge)(?![a-z])", r"\\ge"),
    (r"\\(?:neq|ne)(?![a-z])", r"\\ne"),
    (r"\\lt(?![a-z])", "<"),
    (r"\\gt(?![a-z])", ">"),
    (r"\\(?:varnothing)(?![a-z])", r"\\emptyset"),
    (r"\\(?:R|reals)(?![a-zA-Z])", r"\\mathbb{R}"),
    (r"\\(?:lvert|rvert|vert|mid)(?![a-z])", "|"),
    (r"\\(?:lbrace|rbrace)(?![a-z])", lambda m: r"\{" if "l" in m[0] else r"\}"),
    (r"(?:\^ ?\{? ?\\(?:circ|degree)(?![a-z]) ?\}?|\\(?:degree|textdegree)(?![a-z]))", r"\\degree "),
    (r"\^ ?\{? ?\\degree ?\}?", r"\\degree "),
    (r"(?<=\d)(?:\\,|[\u2009\u202f])(?=\d{3}(?!\d))", ","),  # 1\,234
    (r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z])\.?", ""),
    (
        r"\\(?:displaystyle|textstyle|limits|nolimits|bfseries|itshape|tiny|small|normalsize|[lL]arge|LARGE|[hH]uge|centering)(?![a-zA-Z])",
        " ",
    ),
    (r"\\(?:color|textcolor|colorbox) ?\{[^{}]*\}", " "),
    (r"\\[()]|\\[\[\]](?!\d+(?:pt|ex|em|mm))", " "),
    (r"\$", ""),
    (r"\\(?:!|hspace\{[^{}]*\})", ""),
    (r"\\(?:[,;:> ]|(?:quad|qquad|enspace|thinspace)(?![a-z]))|~", " "),
    (r"\\%", "%"),
    (r"\\#", "#"),
    (r"\\&", " and "),
    (r"\\_", "_"),
    (r"\\(?:ldots|dots|cdots|dotsc)(?![a-z])|…|\.{3,}", r"\\ldots "),
    (r"\*\*([^*]+)\*\*", r"\1"),
    (r"(?<!\*)\*(?!\*)", r"\\cdot "),
    (r"\\frac ?(\d) ?(\d)(?!\d)", r"\\frac{\1}{\2}"),
    (r"\\frac ?(\d) ?(?=\{)", r"\\frac{\1}"),
    (r"(\\frac ?\{[^{}]*\}) ?(\d)", r"\1{\2}"),
    (r"(?:√|\\sqrt) ?(\d+|[a-zA-Z])", r"\\sqrt{\1}"),
    (r"√ ?\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"(?<![a-zA-Z\\])sqrt ?\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"(?<![a-zA-Z\\])(?:pi|PI|Pi)(?![a-zA-Z])", r"\\pi "),
    (r"(?<![a-zA-Z\\])(?:infinity|inf|oo)(?![a-zA-Z])", r"\\infty "),
    (r"<=", r"\\le "),
    (r">=", r"\\ge "),
    (r"!=", r"\\ne "),
    (  # in a text they are units, elsewhere variables
        rf"(?<=[\w}})]) ?\\(?:text|textrm|mathrm|mbox) ?\{{ ?((?:[{''.join(_LONG)}](?![a-zA-Z])|[ /^\d])+)\}}",
        lambda m: " " + re.sub("[a-zA-Z]", lambda letter: _LONG[letter[0]], m[1]),
    ),
    (r"\\(?:lang|rang)(?:le)?(?![a-z])", lambda m: "(" if "l" in m[0][:2] else ")"),
]
_REPLACED = [(re.compile(pattern), new) for pattern, new in _REPLACEMENTS]
_STYLED = re.compile(rf"\\(?:{_STYLE})(?![a-zA-Z]) ?\{{([^{{}}]*)\}}")
_SWITCH = re.compile(rf"\\(?:{_STYLE})(?![a-zA-Z])")
_BLANKS = re.compile(r"\s+")


def spell(text: str) -> str:
    r"""One spelling of an answer: ASCII and a small LaTeX, without styles, delimiters and sizes. Words keep blanks around them.

    >>> spell("$\\left(\\dfrac12,\\,\\textbf{√3}\\right)$")
    '(\\frac{1}{2}, {\\sqrt{3}})'
    >>> spell("17 ㎝²"), spell("48\\text{ cm}^2")
    ('17 cm^{2}', '48 cm ^2')
    """
    text = text.strip(" *_`")
    for symbol, written in _SYMBOLS.items():
        text = text.replace(symbol, written)
    text = re.sub(f"[{_RAISED}]+", lambda m: "^{" + unicodedata.normalize("NFKC", m[0]).replace("−", "-") + "}", text)
    text = re.sub(f"[{_LOWERED}]+", lambda m: "_{" + unicodedata.normalize("NFKC", m[0]) + "}", text)
    text = re.sub("[½⅓⅔¼¾⅕⅙⅛⅜⅝⅞]", lambda m: " " + unicodedata.normalize("NFKC", m[0]).replace("⁄", "/"), text)
    text = unicodedata.normalize("NFKC", text)
    text = "".join(c for c in text if unicodedata.category(c) not in ("So", "Cf", "Mn"))
    if r"\begin" in text:
        text = re.sub(r"\\\\(?:\[[^\]]*(?:pt|ex|em|mm)\])?", r" \\cr ", text)  # the end of a row: not "\\" and "\ "
    else:
        text = re.sub(r"\\\\(?=[a-zA-Z])", r"\\", text)
    for pattern, new in _REPLACED:
        text = pattern.sub(new, text)
    for _ in range(4):  # nested styles
        text = _STYLED.sub(r" \1 ", text)
    return _BLANKS.sub(" ", _SWITCH.sub(" ", text)).strip()
