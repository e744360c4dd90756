"""Layer 1 of a verdict, extraction: which part of a response is its answer."""

import re

TAIL = 4000  # only the last characters of a response are read: the final answer is there
_WORDS = "answer|respuesta|resposta|risposta|réponse|antwort|ответ|答案|答え|答|정답|답"
_BEFORE = (
    r"(?:(?:the|my|our|so|thus|hence|therefore|final|correct|numerical|short|最终|最后|正确|la|die|ta|final)[,\s*_]+|最终|最后)*"
)
_BEGINS = re.compile(
    rf"(?:^|[\n.,!?;:)}}\]$>。，！])[\s#*_>\-]*{_BEFORE}\Z", re.IGNORECASE
)  # nothing else is before it in its clause
REACH = 80  # characters that are read for it
MARKERS = {  # name -> where an answer begins
    # DAPO's rule, the text after "Answer:", in bold or not; `<answer>`; 答案：
    "answer": re.compile(rf"(?:(?:{_WORDS})[ \t*_`]*(?:[:：]|[是为])|<answer>)[*_`]*", re.IGNORECASE),
    "boxed": re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])"),  # LaTeX: the content of the braces
    "hashes": re.compile(r"####(?!#)"),  # GSM8K: the rest of the line
    "text": re.compile(r"answer\s*:", re.IGNORECASE),  # everything after the last "Answer:", as it is
    # Only where no other marker has found anything:
    "last_number": re.compile(
        r"(?<![\w.])-?(?>\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?)(?!\d|_|[^\W\d_](?![^\W\d_]))"
    ),  # also of 25kg, not of 3x
    "whole_response": re.compile(r"\A"),
}
FALLBACKS = ("last_number", "whole_response")
_TAGS = re.compile(r"<\|[^|<>]*\|>|</?s>|</?(?:answer|your answer|final answer|ans)>|^<(?=[^<>]*>$)|(?<=[^<>\s])>$", re.IGNORECASE)
_DISPLAY = re.compile(r"\s*(?:\$\$(.*?)\$\$|\\\[(.*?)\\\]|```\w*\n(.*?)```)", re.DOTALL)
_BULLET = re.compile(r"(?:[-*+•>]|\d{1,2}[.)])\s+(?=\S)")
_EMPTY = re.compile(r"[\s$*_`#<>\[\]().:：|\\-]*")  # a text of nothing but these says nothing
_BETWEEN = re.compile(r"[ \t$,;.、]*(?:(?:and|or|和|或)\b)?[ \t$]*", re.IGNORECASE)  # of boxes that are read together


def find_answer(response: str, markers: tuple[str, ...] = ("answer", "boxed", "hashes")) -> str | None:
    r"""The text after the last marker that has one, as written; None if there is none.

    A marker in the middle of a sentence ("verification of the answer: ...") and a heading ("#### Conclusion") count only if there
    is no better one. Boxes next to each other are read as a list.

    >>> find_answer("6 + 12 = 18.\n**Answer**: \\boxed{18}")
    '18'
    >>> find_answer("#### 17\nNo: #### 18 dollars")
    '18 dollars'
    >>> find_answer("\\boxed{17} Verification of the answer: 17 - 9 = 8")
    '17'
    >>> find_answer("\\boxed{18")
    """
    response = response[-TAIL:]
    found: list[tuple[bool, int, str]] = []  # (whether it is strong, where, marker)
    for name in markers:
        if name not in FALLBACKS:
            found += [
                (name != "answer" or _begins(response, match.start()), match.end(), name)
                for match in MARKERS[name].finditer(response)
            ]
    for strong in (True, False):
        weaker = []
        for was_strong, start, name in sorted(found, reverse=True)[:20]:
            if was_strong is not strong and not (was_strong and name == "hashes"):
                continue
            text = _text_at(response, start, name)
            if text and strong and name == "hashes" and not re.search(r"\d|\\", text):
                weaker.append(text)  # a heading, unless there is nothing else
            elif text:
                return text
        if weaker and not strong:
            return weaker[0]
    for name in FALLBACKS:
        if name in markers:
            matches = list(MARKERS[name].finditer(response))
            return (response.strip() if name == "whole_response" else matches[-1][0] if matches else "") or None
    return None


def _begins(response: str, at: int) -> bool:
    """Whether a sentence or a clause begins at `at`, perhaps with "so my final"."""
    before = response[max(0, at - REACH) : at]
    begins = _BEGINS.search(before if at <= REACH else f"x{before}")
    return begins is not None and not (begins[0].startswith(",") and re.search(r"verif|check|confirm|test", before, re.IGNORECASE))


def _text_at(response: str, start: int, name: str) -> str:
    """The answer that begins at `start`; empty if there is none."""
    rest = response[start:]
    if name == "text":
        return rest.strip()
    if name == "boxed":
        return _boxes(response, start)
    display = _DISPLAY.match(rest)
    lines = [line.strip() for line in rest.split("\n")]
    text = next((group for group in display.groups() if group), "") if display else lines[0] if name == "hashes" else ""
    if display and re.search(r"\w", behind := rest[display.end() :].split("\n")[0]):
        text = display[0] + behind  # $$23$$ or $$24$$
    if not text:
        said = next((i for i, line in enumerate(lines) if not _EMPTY.fullmatch(line)), None)
        if said is None or said > 3 or (name == "hashes" and said > 0):
            return ""
        text = _BULLET.sub("", lines[said], count=1) if said > 0 else lines[0]
    boxes = [match.end() for match in MARKERS["boxed"].finditer(text)]
    if boxes:
        return next(filter(None, (_boxes(text, start) for start in reversed(boxes))), "")
    text = _TAGS.sub("", text.strip()).strip()
    return "" if _EMPTY.fullmatch(text) else text


def _boxes(text: str, start: int) -> str:
    """The content of the box whose braces open at `start`, after those of the boxes right before it, with commas between them."""
    contents: list[str] = []
    last = 0
    for match in [match for match in MARKERS["boxed"].finditer(text) if match.end() <= start][-8:]:
        content, end = braced(text, match.end())
        if contents and match.start() >= last and _BETWEEN.fullmatch(text[last : match.start()]):
            contents += [content.strip()] if content.strip() not in contents else []
        else:
            contents = [content.strip()]
        last = end
        if match.end() == start:
            return "" if _EMPTY.fullmatch(content) else " , ".join(contents)
    return ""


def braced(text: str, start: int) -> tuple[str, int]:
    r"""The content of the braces that open at or after `start`, nested ones included, and where they end; without braces the word
    there (`\boxed 5`); empty if they are not closed."""
    rest = re.compile(r"\s*(\{|[^\s{}$\\]+)").match(text, start)
    if rest is None or rest[1] != "{":
        return (rest[1], rest.end()) if rest else ("", start)
    depth = 0
    for brace in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, rest.start(1)):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[rest.end(1) : brace.start()], brace.end()
    return "", start
