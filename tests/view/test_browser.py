"""The page in a real browser: what a reader sees and does."""

import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.view.browser import Opened, chromium, file
from tests.view.logs import ROWS, row, words, write

from vapo.view.page import write_page
from vapo.view.server import server
from vapo.view.steps import Log

__all__ = ["chromium"]
BLUE, ORANGE = "var(--high)", "var(--low)"
MORE = {"ratios": [2.0, 0.5, 1.0], "entropies": [0.0, 0.5, 1.0], "old_logprobs": [-0.25, -0.5, -0.75]}


@pytest.fixture
def opened(chromium: Any, tmp_path: Path) -> Opened:
    """Two steps of one run; the second is shown."""
    run = write(write(tmp_path / "mine", [row("A8", **MORE), row("A7", "wrong", **MORE)], 3), ROWS, 12)
    return Opened(chromium, file(write_page([Log(run)], tmp_path / "page.html")))


def shown(page: Opened) -> str:
    return page.text(".tokens")


def test_it_opens_at_the_failure_and_says_where_and_whether_the_critic_saw_it(opened: Opened) -> None:
    assert opened.browser.title == "mine: rollouts" and opened.text("#at") == "12 (2 of 2)"
    assert opened.text("#summary") == "7 responses to 2 problems logged · 33 % correct · mean length 10"
    assert shown(opened) == "7-3=4;4+5=?9;9+9=?;A9<end>" and opened.text(".prompt") == "7-3+5+9:"
    outcome, finding = opened.text(".outcome"), opened.text(".finding")
    assert "✗ wrong" in outcome and "answer 9" in outcome and "expected 8" in outcome and "reward −1.00" in outcome
    assert "λ 0.900, window 10 tokens" in outcome and "problem 1, response 2 of 4" in outcome
    # V falls at the first `?`, which is repaired: not where the solution goes wrong
    assert finding.startswith("First slip at token 18: V −0.75 → −0.75, no fall. The critic did not single it out.")
    assert finding.endswith("1 slip repaired. V falls most at token 11: 0.25 → −0.75.")
    assert opened.all(".tokens .slip") == ["?"] and opened.all(".tokens .repaired") == ["?"]
    assert opened.js("return [...document.querySelectorAll('.tokens span')].findIndex((x) => x.classList.contains('slip'))") == 17
    assert opened.complaints() == []


def test_a_critic_that_sees_the_slip(opened: Opened) -> None:
    opened.press("j", "j", "j", "j", "j")
    assert shown(opened) == "1+7=?;A1<end>"
    assert "First slip at token 5: V 0.25 → −0.75, the largest fall at any of its 1 results. The critic saw it." in opened.text(
        ".finding"
    )


def test_a_critic_that_does_not_see_the_last_slip(chromium: Any, tmp_path: Path) -> None:
    """V is 0.9 throughout, so the largest fall is the reward's."""
    blind = row("7-3=4;4+5=9;9+9=7;A7", "wrong", values=[0.9] * 21)
    page = Opened(chromium, file(write_page([Log(write(tmp_path / "blind", [blind]))], tmp_path / "page.html")))
    finding = page.text(".finding")
    assert "First slip at token 17: V 0.90 → 0.90, no fall. The critic did not single it out." in finding
    assert "V falls most at the end" in finding and "which the critic did not expect" in finding


def test_a_value_that_never_falls_is_no_finding(chromium: Any, tmp_path: Path) -> None:
    rising = [i / 32 for i in range(21)]
    rows = [row("7-3=4;4+5=9;9+9=8;A8", values=rising), row("7-3=4;4+5=?;?+9=7;A7", "wrong", values=rising, reward=0.75)]
    page = Opened(chromium, file(write_page([Log(write(tmp_path / "rising", rows))], tmp_path / "page.html")))
    finding = page.text(".finding")
    assert finding == "First slip at token 11: V 0.31 → 0.34, no fall. The critic did not single it out."
    page.press("k")
    assert page.text(".finding") == "No slip is left in its steps."
    page.press("s")
    assert page.js("return panes[0].cursor") == 0 and page.complaints() == []


def test_problems_of_a_template_are_told_apart(chromium: Any, tmp_path: Path) -> None:
    words_before = "You solve problems.\n\nWhat is the sum of "
    rows = [row("A8", prompt=words_before + "7 and 1?"), row("A8", group=1, prompt=words_before + "70 and 1?")]
    page = Opened(chromium, file(write_page([Log(write(tmp_path / "mine", rows))], tmp_path / "page.html")))
    assert page.all(".problem .clip") == ["7 and 1?", "70 and 1?"] and page.text(".prompt") == words_before + "7 and 1?"


def test_a_step_that_cannot_be_read_leaves_the_one_before_it(opened: Opened) -> None:
    opened.js("document.getElementById('step-0-3').textContent = 'AAAA'")
    opened.press("[")
    opened.until(lambda: "step 3 cannot be read" in opened.text(".message"))
    assert opened.text("#at") == "12 (2 of 2)" and len(opened.all(".row")) == 7
    opened.press("s", "n", "p", "f", "1")
    assert shown(opened) == "7-3=4;4+5=?9;9+9=?;A9<end>" and opened.complaints() == []


def test_colours_switch_and_those_that_were_not_logged_name_the_setting(opened: Opened) -> None:
    modes = {name: i for i, name in enumerate(opened.all("#modes button"))}
    assert list(modes) == ["V", "drop in V", "advantage", "ratio", "entropy", "log-prob gap"]
    assert [c.count(BLUE) - c.count(ORANGE) for c in opened.colours()] == [1] * 11 + [-1] * 11
    assert opened.all(".ends span") == ["−1.00", "0", "1.00"]
    opened.click("#modes button", modes["drop in V"])
    assert [i for i, c in enumerate(opened.colours()) if ORANGE in c] == [10, 21]  # at the fall, and at the end: V −0.75, reward −1
    assert opened.all(".ends span")[1] == "0" and not opened.all(".ends span")[0].startswith("−")  # a fall is orange
    opened.press("3")
    assert all(ORANGE in colour for colour in opened.colours())
    before = opened.colours()
    opened.click("#modes button", modes["ratio"])  # disabled
    opened.press("5")
    assert opened.colours() == before
    setting = "set callbacks.rollout_log.ratio_and_entropy=true"
    assert opened.text("#note") == f"ratio, entropy, log-prob gap: not logged: {setting}"
    assert opened.js("return [...document.querySelectorAll('#modes button')].map((x) => x.disabled)") == [False] * 3 + [True] * 3


def test_ratio_entropy_and_gap(opened: Opened) -> None:
    opened.press("[")
    opened.until(lambda: opened.text("#at").startswith("3 "))
    assert opened.text("#note") == "" and opened.all(".row .length") == ["3", "3"]
    opened.press("4")
    assert [(BLUE in c, ORANGE in c) for c in opened.colours()] == [(True, False), (False, True), (False, False)]
    assert opened.all(".ends span") == ["0.50", "1.00", "2.00"]
    opened.press("5")
    assert [BLUE in c for c in opened.colours()] == [False, True, True] and opened.all(".ends span") == ["0", "1.00"]
    opened.press("6")
    assert [(BLUE in c, ORANGE in c) for c in opened.colours()] == [(True, False), (False, False), (False, True)]
    opened.click(".tokens span", 1)
    assert opened.text(".readout") == "token2 of 37V0.25 → 0.25drop0advantage−0.50ratio0.50entropy0.50gap0log-prob−0.50"


def test_filters(opened: Opened) -> None:
    def rows() -> list[str]:
        return opened.all(".row .length")

    def toggle(name: str) -> None:
        opened.click("#verdicts button", next(i for i, text in enumerate(opened.all("#verdicts button")) if name in text))

    counts = {re.sub(r"\d+$", "", text): int(re.findall(r"\d+$", text)[0]) for text in opened.all("#verdicts button")}
    assert counts == {"✓ correct": 2, "✗ wrong": 2, "… truncated": 1, "∅ no answer": 1, "! verifier fault": 1, "first slip": 2}
    expected = {"correct": ["21", "3"], "wrong": ["22", "9"], "truncated": ["9"], "no answer": ["3"], "verifier fault": ["3"]}
    for name, lengths in expected.items():
        toggle(name)
        assert rows() == lengths, name
        toggle(name)
    toggle("first slip")
    assert rows() == ["22", "9"] and opened.text("#count") == "2 of 7 responses"
    toggle("correct")
    assert rows() == [] and opened.text(".message") == "No response passes the filters."
    opened.press("Escape")
    assert len(rows()) == 7 and opened.text("#count") == "7 responses logged"
    opened.type("#shortest", "9")
    opened.until(lambda: rows() == ["21", "22", "9", "9"])
    opened.type("#longest", "21")
    opened.until(lambda: rows() == ["21", "9", "9"])
    opened.press("Escape")
    opened.type("#search", "=?9;")
    opened.until(lambda: rows() == ["22"])
    opened.type("#search", "1+7:")  # of the problem
    opened.until(lambda: rows() == ["3", "3", "9"])


def test_a_right_answer_in_a_response_that_was_cut_counts(chromium: Any, tmp_path: Path) -> None:
    rows = [row("7-3=4;4+5", finished=False), row("7-3=4;4+5", "no_answer", finished=False)]
    page = Opened(chromium, file(write_page([Log(write(tmp_path / "cut", rows))], tmp_path / "page.html")))
    assert "50 % correct" in page.text("#summary") and "… truncated" in page.text(".outcome")
    page.press("k")
    assert "✓ correct" in page.text(".outcome") and "cut at the limit" in page.text(".outcome")


def test_a_fault_of_the_verifier_has_no_numbers(opened: Opened) -> None:
    opened.press("f", "f", "f")
    assert "! verifier timeout" in opened.text(".outcome") and "no reward, not trained on" in opened.text(".outcome")
    assert set(opened.colours()) == {""} and opened.complaints() == []


def test_keyboard(opened: Opened) -> None:
    def chosen() -> int:
        return opened.js("return state.row.number")

    assert chosen() == 1
    for keys, row_number in (("j", 2), ("k", 1), ("kk", 0), ("f", 1), ("f", 3), ("F", 1), ("n", 4), ("p", 3)):
        opened.press(*keys)
        assert chosen() == row_number, keys
    opened.press("[")
    opened.until(lambda: opened.text("#at") == "3 (1 of 2)")
    opened.press("]")
    opened.until(lambda: opened.text("#at") == "12 (2 of 2)")
    opened.press("s")
    assert opened.text(".readout").startswith("token18 of 22?")
    opened.press("ArrowRight")
    assert opened.text(".readout").startswith("token19 of 22;")
    opened.press("ArrowLeft", "ArrowLeft")
    assert opened.text(".readout").startswith("token17 of 22=")
    assert opened.all(".tokens .at") == ["="]
    opened.press("/")
    assert opened.js("return document.activeElement.id") == "search"
    opened.browser.switch_to.active_element.send_keys("jj")
    opened.until(lambda: opened.text("#count") == "0 of 7 responses")  # written, not obeyed
    opened.press("?")
    assert opened.js("return document.getElementById('keys').hidden") is False


def test_the_slider(opened: Opened) -> None:
    opened.js("const s = byId('step'); s.value = 0; s.dispatchEvent(new Event('input'))")
    opened.until(lambda: opened.text("#at") == "3 (1 of 2)")
    assert opened.text("#count") == "2 responses logged"


def test_a_step_that_is_read_late_does_not_replace_the_one_asked_for_after_it(opened: Opened) -> None:
    opened.js("""
        const [step, written] = state.runs[0].steps[0], real = load(0, step, written);
        let release;
        cache.set(`0-${step}-${written}`, new Promise((done) => { release = () => real.then(done); }));
        const late = go(0);
        return go(1).then(() => { release(); return late; });
    """)
    assert opened.text("#at") == "12 (2 of 2)" and opened.text("#count") == "7 responses logged"


def test_every_half_precision_number_is_read_exactly(opened: Opened) -> None:
    read = np.array(opened.js("return [...HALF].map((x) => Number.isFinite(x) ? x : x === x ? (x > 0 ? 1e9 : -1e9) : -1e10)"))
    exact = np.arange(65536, dtype=np.uint16).view(np.float16).astype(float)
    np.testing.assert_array_equal(read, np.where(np.isnan(exact), -1e10, np.clip(exact, -1e9, 1e9)))


def test_the_chart_follows_the_pointer(opened: Opened) -> None:
    """Its window is as wide as λ's: 10 of its 22 tokens from the cursor on."""
    opened.js("panes[0].pin(3)")
    inner = opened.js("return panes[0].chart.inner")
    widths = opened.js("return [...document.querySelectorAll('.chart .window')].map((x) => parseFloat(x.style.width))")
    assert widths == [pytest.approx(inner * 10 / 22, abs=0.1)]
    box = opened.js("const b = document.querySelector('.chart').getBoundingClientRect(); return [b.left, b.top]")
    x = box[0] + opened.js("return panes[0].chart.x(20.5)")
    opened.js(
        "document.querySelector('.chart').dispatchEvent(new MouseEvent('click', {clientX: arguments[0], clientY: arguments[1]}))",
        x,
        box[1] + 20,
    )
    assert opened.text(".readout").startswith("token21 of 22")
    assert opened.js("return panes[0].chart.canvas.getContext('2d').getImageData(70, 20, 400, 100).data.some((x) => x)")


def test_two_runs_side_by_side(chromium: Any, tmp_path: Path) -> None:
    one = write(write(tmp_path / "one", ROWS, 1), ROWS, 2)
    values = {"values": [-0.25, -0.25, -0.25], "advantages": [4.0, 4.0, 4.0]}
    two = write(
        tmp_path / "two", [row("A8", prompt="0+1:"), *(row("A8", group=1, **values), row("A3", "wrong", group=1, **values))], 2
    )
    page = Opened(chromium, file(write_page([Log(one), Log(two)], tmp_path / "page.html")))
    assert page.all("h2") == ["one", "two"]
    assert page.all(".tokens") == ["7-3=4;4+5=?9;9+9=?;A9<end>", "A3<end>"]  # second response to the same problem
    assert all(ORANGE in colour for colour in page.colours(1))
    page.press("3")
    assert page.all(".ends span") == ["−4.00", "0", "4.00"]  # one scale for both
    page.click(".pane:nth-child(2) .place button", 1)
    assert page.all(".tokens")[1] == "A8<end>"
    page.press("n")
    assert page.text(".message").strip() == "This run logged no response to this problem at this step."
    page.press("[")
    page.until(lambda: page.text(".message").strip() == "This run logged no step 1.")
    assert page.complaints() == []


def test_a_narrow_window(opened: Opened) -> None:
    opened.browser.set_window_size(500, 800)  # the narrowest that it goes without a window
    opened.js("return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert opened.js("return innerWidth") <= 760
    assert opened.js("return document.documentElement.scrollWidth <= innerWidth")
    tops = opened.js("return ['#list', '.tokens', '.chart'].map((s) => document.querySelector(s).getBoundingClientRect().top)")
    assert tops == sorted(tops)  # one below the other


MARKUP = ["<script>window.ran = 1</script>", "</script>", "<img src=x onerror='window.ran = 1'>", "<b>bold</b>", "\n"]


def test_markup_in_a_response_is_text(chromium: Any, tmp_path: Path) -> None:
    hostile = words(tmp_path, MARKUP, 10)
    hostile |= {"prompt": MARKUP[0], "reference": MARKUP[2], "answer": MARKUP[0]}
    page = Opened(chromium, file(write_page([Log(write(tmp_path, [hostile]))], tmp_path / "page.html")))
    assert shown(page) == "".join(MARKUP * 2).replace("\n", "↵\n")
    assert MARKUP[0] in page.text(".prompt") and MARKUP[0] in page.text(".problem") and MARKUP[2] in page.text(".outcome")
    page.press("/", "Escape", "j", "2", "?")
    assert page.js("return window.ran === undefined && document.querySelectorAll('img, b.bold').length === 0")
    assert page.complaints() == []
    page.js("const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s)")
    assert page.js("return window.ran") is None  # not even if it got into the document
    assert "Content Security Policy" in "".join(page.complaints())


def test_a_response_of_20000_tokens(chromium: Any, tmp_path: Path) -> None:
    texts = ["the ", "answer ", "is ", "not ", "clear ", "so ", "wait.\n", "7"]
    run = write(tmp_path, [words(tmp_path, texts, 20_000), words(tmp_path, texts, 50, "correct")])
    page = Opened(chromium, file(write_page([Log(run)], tmp_path / "page.html")))
    assert "20000 tokens" in page.text(".outcome") and len(shown(page)) == sum(map(len, texts)) * 2500 + 2500  # and a ↵ a line

    def elements() -> int:
        return int(page.js("return document.querySelectorAll('.tokens span').length"))

    assert 0 < elements() < 6000  # those in sight and near it, whatever the length
    page.js("panes[0].pin(19990, true)")
    page.until(lambda: page.text(".readout").startswith("token19991 of 20000"))
    assert page.all(".tokens .at") == [texts[19990 % 8].replace("\n", "↵\n")]
    box = page.js(
        "const [a, b] = ['.tokens .at', '.tokens'].map((s) => document.querySelector(s).getBoundingClientRect());"
        "return a.top >= b.top && a.bottom <= b.bottom"
    )
    assert box is True
    page.js("panes[0].pin(0, true)")
    page.until(lambda: page.js("return panes[0].chunks.at(-1).children.length === 0 && panes[0].chunks[0].children.length > 0"))
    page.press("2", "j", "k", "3")
    assert page.complaints() == []


def test_only_rows_in_sight_are_in_the_document(chromium: Any, tmp_path: Path) -> None:
    rows = [
        row("A8" if i % 3 else "A7", "correct" if i % 3 else "wrong", group=i // 16, prompt=f"{i // 16 % 10}+8:")
        for i in range(2000)
    ]
    page = Opened(chromium, file(write_page([Log(write(tmp_path, rows))], tmp_path / "page.html")))
    assert page.text("#count") == "2000 responses logged" and 10 < len(page.all("#rows > *")) < 100
    page.js("choose(list.rows[1999])")
    assert "chosen" in page.js("return document.querySelector('#rows').lastElementChild.className")


def test_it_follows_a_run_that_is_served(chromium: Any, tmp_path: Path) -> None:
    log = Log(write(tmp_path / "live", ROWS, 1))
    with server([log], 0) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        try:
            page = Opened(chromium, f"http://127.0.0.1:{served.server_port}/")
            assert page.text("#at") == "1" and shown(page).startswith("7-3=4;4+5=?9")
            write(log.path, [row("A7", "wrong")], 2)
            page.until(lambda: page.text("#at") == "2 (2 of 2)" and shown(page) == "A7<end>")
            page.click("#follow")
            write(log.path, ROWS, 3)
            page.until(lambda: page.js("return byId('step').max") == "2")
            assert page.text("#at").startswith("2 ")
        finally:
            served.shutdown()
            thread.join()
