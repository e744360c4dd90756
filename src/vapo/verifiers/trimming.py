"""Layer 2b of a verdict, trimming: an answer without what surrounds it, and its parts."""

import re

from vapo.verifiers.arithmetic import WORDS, number
from vapo.verifiers.units import split_unit

_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|.", re.DOTALL)
_OPENS = ("(", "[", "{", r"\{", r"\lfloor", r"\lceil", r"\begin")
_CLOSES = (")", "]", "}", r"\}", r"\rfloor", r"\rceil", r"\end")
# Words that take back, weaken or change what stands before them: a remark with one of these is no mere remark.
CHANGES = re.compile(
    r"(?<![a-z])(?:not|no|nor|never|or|but|maybe|perhaps|possibly|either|neither|unless|if|except|wrong|incorrect|mistake|wait|actually|however"
    r"|instead|between|below|above|under|over|least|most|more|less|than|minus|negative|plus|times|base|mod|modulo|pmod|remainder|point"
    r"|twice|double|triple|squared|cubed|reciprocal|opposite|inverse|(?:square|cube|third|quarter|fifth|tenth) of"
    r"|square root|cube root|doubled|tripled|increased|decreased|divided|multiplied|reduced|log|ln|logarithm|sorry|should"
    r"|rejected|discarded|excluded"
    r"|half|hundreds?|thousands?|\w*illions?|dozens?|lakhs?|crores?|tens|tenths?|percent|rather|guess|unclear|unknown|whether|nobody|nothing|none|cannot|hardly|doubt|unlikely|suppose|assume|estimated?|false|to|and)(?![a-z])|n't|\?",
    re.IGNORECASE,
)
# Behind an answer these change or contradict it too.
_ALSO = re.compile(
    r"(?<![a-z])(?:factorial|roots?|divide|multipl\w+|subtract\w*|add(?:ed|ing)?|repeating|recurring|binary|octal|hex\w*|reject\w*"
    r"|extraneous|bounds?|off by|impossible|invalid|contradict\w*|answer|result|final(?:ly)?|"
    + "|".join(word for word in WORDS if word != "one")
    + r")(?![a-z])",
    re.IGNORECASE,
)
_TAKES_BACK = re.compile(  # of both, those that are not said in a mere reason for the answer
    r"(?<![a-z])(?:or|but|maybe|perhaps|possibly|either|wrong|incorrect|mistake|wait|actually|however|instead|rather|sorry|should"
    r"|guess|unclear|doubt|unlikely|false|answer|result|below|final)(?![a-z])|\?",
    re.IGNORECASE,
)
_REASON = re.compile(
    r"(?:,| -|;|\.)? (?:(?P<why>since|because|see|where)(?![a-z])|(?:using|which|so(?: that)?|hence|thus|therefore|for a total"
    r"|in total|in all|altogether"
    r"|obtained|i think|and we are done)(?![a-z])|by (?=the |our |\w+ing |\w+'s|inspection|symmetry|definition|induction)"
    r"|from (?=the |our |above|part|step)"
    r"|(?:is|are) (?:the (?:only|smallest|largest|least|greatest|maximum|minimum|total"
    r"|final|required|correct)|left|needed|possible)(?![a-z])"
    r"|as (?=the |we |it |is |that |a |\w+ed(?![a-z])|above|before)).*$|(?:, |,? \()?(?:(?P<why_zh>因为|由于)|即可).*$",
    re.IGNORECASE | re.DOTALL,
)
_REMARK = re.compile(r"^(.*[^\s,])(?:,? |(?=\([^()]*[^\x00-\x7f]))\(([^()]*(?:\([^()]*\)[^()]*)*)\)$", re.DOTALL)
_LEAD = re.compile(
    r"^(?:(?:so|thus|hence|therefore|and|finally),? |(?:the |my |our )?(?:final |correct )?"
    r"(?:answer|result|option|choice)(?: is| was|:|：|=) ?"
    r"|(?:about|approximately|approx\.?|roughly|exactly|simply|just|only|either|both|a total of|equals?|option|choice) "
    r"|\\approx ?|= ?|: ?"
    r"|(?:最终)?(?:答案|结果)?(?:是|为|:) ?|共有? ?|约 ?|选 ?)(?=\S)",
    re.IGNORECASE,
)
_PROSE = re.compile(  # a sentence that ends in the answer
    r"^(?:(?:[Ss]o|[Tt]hus|[Hh]ence|[Tt]herefore),? )?([A-Z][a-z]*\b.*|(?:the|this|that|it|there|our|we|he|she|they) .*|it|there)"
    r" (?:is|are|was|were|equals|be|gets?|has|have|had|needs?|takes?|costs?|earns?|makes?|pays?|spends?|saves?) ([^:]+)$"
)
_LABEL = re.compile(r"^([^\W\d_]{2,}(?: [^\W\d_]+)*): ?(\S.*)$")  # Total: 17


def _token(text: str, at: int) -> str:
    match = _TOKEN.match(text, at)
    assert match is not None
    return match[0]


def split(text: str, separators: str) -> list[str]:
    """The parts of `text` between matches of `separators` outside of all brackets; a separator is kept as a part of its own if the
    pattern has a group."""
    depth, parts, start, at, pattern = 0, [], 0, 0, re.compile(separators, re.IGNORECASE)
    while at < len(text):
        if depth <= 0 and (found := pattern.match(text, at)) and found.end() > at:
            parts += [text[start:at].strip(), *(group for group in found.groups() if group)]
            start = at = found.end()
            continue
        token = _token(text, at)
        depth += (token in _OPENS) - (token in _CLOSES)
        at += len(token)
    return [*parts, text[start:].strip()]


def enclosed(text: str) -> str | None:
    """What is between a bracket at the start and its partner at the end; None if they are not partners."""
    depth, at, first = 0, 0, _TOKEN.match(text)
    if first is None or first[0] not in _OPENS[:4]:
        return None
    while at < len(text):
        token = _token(text, at)
        depth += (token in _OPENS) - (token in _CLOSES)
        at += len(token)
        if depth == 0:
            return text[len(first[0]) : -len(token)].strip() if at == len(text) else None
    return None


def _says_nothing(text: str) -> bool:
    """Whether a text behind an answer leaves the answer as it is: without numbers and words that change one."""
    return not re.search(r"\d", text) and not CHANGES.search(text) and not _ALSO.search(text)


def _explains(reason: re.Match[str], answer: str) -> bool:
    """Whether it takes nothing back. Only "because" and the like may name other numbers, or an equation that ends in the answer."""
    if reason["why"] or reason["why_zh"]:
        return not _TAKES_BACK.search(reason[0])
    return _says_nothing(re.sub(r" (?:above|below)(?![a-z])", "", reason[0])) or _computes(reason[0], answer)


def _computes(text: str, answer: str) -> bool:
    """Whether a text behind an answer is a computation of it, 5 + 12 = 17, or says it again: seventeen."""
    last = number(text.rpartition("=")[2].strip())
    return last is not None and last == number(answer.strip()) and not _TAKES_BACK.search(text)


def _without_remark(text: str, answer: str, remark: str) -> str:
    """`17 (apples that are left)` without what is in brackets, `17 (cm)` as 17 cm; other texts as they are."""
    remark = remark.strip()
    if ((reason := _REASON.match(f" {remark}")) and _explains(reason, answer)) or _computes(remark, answer):
        return answer
    if re.search(r"[\d})]$", answer) and split_unit(f"{answer} {remark}")[1]:
        return f"{answer} {remark}"
    words = re.search(r"[^\W\d_]{3,}", remark) and re.fullmatch(r"[^\W_][\w\s.'%-]*", remark)
    return answer if words and _says_nothing(remark) else text


def trimmed(text: str) -> str:
    """Without what surrounds an answer: quotes, stops, braces, lead-ins, remarks and reasons."""
    for _ in range(6):
        before = text
        text = text.strip(' *_`"').rstrip(" .,;:?~")
        text = text[1:-1] if text[:1] == text[-1:] == "'" else text
        if text.endswith("}") and text.count("}") > text.count("{"):
            text = text[:-1]  # \boxed{Answer: 18}
        while text.startswith("{") and text[1:2] != "," and (inside := enclosed(text)):
            text = inside
        if lead := _LEAD.match(text):
            text = text[lead.end() :]
        if remark := _REMARK.match(text):
            text = _without_remark(text, *remark.groups())
        if (sentence := re.match(r"(.*?[\d)}a-z%])[.!] +(?=[A-Z][a-z]* [a-z])(.*)$", text)) and _says_nothing(sentence[2]):
            text = sentence[1]
        if (reason := _REASON.search(text, 1)) and _explains(reason, text[: reason.start()]):
            text = text[: reason.start()]
        if (prose := _PROSE.match(text) or _LABEL.match(text)) and not CHANGES.search(prose[1]):
            text = prose[2]
        if text == before:
            break
    return text
