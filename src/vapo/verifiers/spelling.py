"""Layer 2a of a verdict, spelling: one way of writing for what is written in many ways, without a change of meaning."""

import re
import unicodedata
from collections.abc import Callable

from vapo.verifiers.extraction import braced

_GREEK = "alpha beta gamma delta theta lambda mu pi rho sigma tau phi omega"
_SYMBOLS = {
    **{"−": "-", "–": "-", "—": "-", "﹣": "-", "×": r"\times ", "÷": r"\div ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*"},
    **{"∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm "},
    **{"∪": r"\cup ", "∈": r"\in ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "∓": r"\mp ", "°": r"\degree ", "→": r"\to "},
    **{"。": ".", "，": ",", "、": ",", "‘": "'", "’": "'", "“": '"', "”": '"', "′": r"\prime ", "″": r"\prime\prime "},
    **{"{,}": ",", "{:}": ":", "℃": r"\degree C", "℉": r"\degree F", "º": r"\degree ", "˚": r"\degree ", r"\checkmark": ""},
    **{"€": " euro ", "£": " pound ", "￡": " pound ", "¥": " yen ", "￥": " yen ", "₹": " rupee ", "¢": " cent "},
    **{r"\$": " dollar ", r"\pounds": " pound ", r"\euro": " euro "},
    **{"⟨": r"\langle ", "⟩": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "∠": r"\angle "},
    **{letter: f"\\{name} " for letter, name in zip("αβγδθλμπρστφω", _GREEK.split(), strict=True)},
}
_LONG = {"m": "meter", "g": "gram", "s": "second", "h": "hour", "d": "day", "l": "liter", "L": "liter", "K": "kelvin"}
_CROSSES = "❌✗✘✖❎"  # not the answer; other pictures say nothing
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
    (r"\\varepsilon(?![a-z])", r"\\epsilon"),
    (r"\{([^{}]*)\\choose(?![a-z])([^{}]*)\}", r"\\binom{\1}{\2}"),
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
    (r"\\(frac|binom) ?(\d) ?(\d)(?!\d)", r"\\\1{\2}{\3}"),
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
_ARGUMENTS = {"frac": 2, "binom": 2, "sqrt": 1}  # of commands; an argument without braces is one character or command
_COMMAND = re.compile(rf"\\({'|'.join(_ARGUMENTS)})(?![a-zA-Z]) ?(?:(?<=sqrt)\[[^\[\]]*\]|(?<=sqrt )\[[^\[\]]*\])?")
_BRACES = re.compile(r" ?(?:\[[^\[\]]*\])?(?=\{)")  # that open behind a command, perhaps with an index in brackets before them
_ARGUMENT = re.compile(r" ?(\{|\\[a-zA-Z]+|[a-zA-Z]|\d(?!\d))")


def _braced(text: str) -> str:
    r"""Braces around the arguments of fractions, binomials and roots that have none.

    >>> _braced("\\frac{\\sqrt{3}}2 + \\sqrt[3]x + \\sqrt\\frac1\\pi")
    '\\frac{\\sqrt{3}}{2} + \\sqrt[3]{x} + \\sqrt{\\frac{1}{\\pi}}'
    """
    for command in reversed(list(_COMMAND.finditer(text))):  # from the right, so that arguments are whole when they are read
        written, end = text[: command.end()].rstrip(), command.end()
        for _ in range(_ARGUMENTS[command[1]]):
            argument = _ARGUMENT.match(text, end)
            stop = _end_of_argument(text, argument) if argument else end
            if argument is None or stop <= argument.start(1):
                break  # there is none, or its brace is not closed
            whole = text[argument.start(1) : stop]
            written, end = written + (whole if whole[0] == "{" else f"{{{whole}}}"), stop
        text = written + text[end:]
    return text


def _end_of_argument(text: str, argument: re.Match[str]) -> int:
    """Where an argument ends: braces at their partner, a command behind its own arguments, which have braces."""
    groups, end = (1, argument.start(1)) if argument[1] == "{" else (_ARGUMENTS.get(argument[1][1:], 0), argument.end())
    for _ in range(groups):
        opened = _BRACES.match(text, end)
        if opened is None:
            break
        _, end = braced(text, opened.end())
    return end


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
    text = "".join(c for c in text if unicodedata.category(c) not in ("So", "Cf", "Mn") or c in _CROSSES)
    if r"\begin" in text:
        text = re.sub(r"\\\\(?:\[[^\]]*(?:pt|ex|em|mm)\])?", r" \\cr ", text)  # the end of a row: not "\\" and "\ "
    else:
        text = re.sub(r"\\\\(?=[a-zA-Z])", r"\\", text)
    for pattern, new in _REPLACED:
        text = pattern.sub(new, text)
    for _ in range(4):  # nested styles
        text = _STYLED.sub(r" \1 ", text)
    return _BLANKS.sub(" ", _braced(_SWITCH.sub(" ", text))).strip()
