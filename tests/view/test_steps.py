"""What the page gets of a log: every number, the tokens' texts, and on running sums the truth."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.view.logs import EOS, ROWS, row, unpack, words, write

from vapo.models import actor
from vapo.view.steps import END, Log


def packed(folder: Path, rows: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    return unpack(Log(write(folder, rows)).pack(1))


def texts(header: dict[str, Any], arrays: dict[str, Any]) -> list[str]:
    """Of each response."""
    ends = np.cumsum(header["rows"]["length"])[:-1]
    return ["".join(header["tokens"][i] for i in tokens) for tokens in np.split(arrays["tokens"], ends)]


def test_tokens_are_characters_and_numbers_are_those_of_the_log(tmp_path: Path) -> None:
    header, arrays = packed(tmp_path, ROWS)
    assert texts(header, arrays) == [row["response"] + END * row["finished"] for row in ROWS]
    assert [header["prompts"][i] for i in header["rows"]["prompt"]] == [row["prompt"] for row in ROWS]
    for name in ("status", "reward", "length", "finished", "reference", "answer", "group", "actor_lambda"):
        assert header["rows"][name] == [row[name] for row in ROWS], name
    for name, column in (("value", "values"), ("advantage", "advantages"), ("logprob", "sampler_logprobs")):
        expected = np.concatenate([row[column] or [np.nan] * row["length"] for row in ROWS])
        np.testing.assert_array_equal(arrays[name], expected)  # halves and quarters are exact in half precision
    assert arrays.keys() == {"tokens", "value", "advantage", "logprob"}


def test_the_truth_of_running_sums(tmp_path: Path) -> None:
    header, _ = packed(tmp_path, ROWS)
    assert header["rows"]["steps"] == [
        [[4, 0], [10, 0], [16, 0]],
        [[4, 0], [10, 2], [17, 1]],
        [],
        [[4, 0]],
        [],
        [],
        [[4, 1]],
    ]
    assert header["rows"]["reveal"] == [None] * 7


def test_a_stated_total_is_marked(tmp_path: Path) -> None:
    stated = row("7-3=5;5+5=0;0|9=1:0+9=9;A9", "wrong", prompt="7-3+5(9)+9:")  # a wrong digit, as such slips are
    header, _ = packed(tmp_path, [stated])
    assert header["rows"]["steps"] == [[[4, 1], [10, 0], [22, 0]]] and header["rows"]["reveal"] == [14]


@pytest.mark.parametrize("prompt", ["What is 7-3+5+8?", "7-3+5+9 or 1+2", "seven", "17-3+5+9:"])
def test_other_tasks_have_no_truth(prompt: str, tmp_path: Path) -> None:
    header, _ = packed(tmp_path, [row("7-3=4;A4", prompt=prompt)])
    assert header["rows"]["steps"] == header["rows"]["reveal"] == [None]


def test_what_was_logged_when_asked(tmp_path: Path) -> None:
    asked = {"ratios": [1.5, 0.5, 1.0], "entropies": [0.25] * 3, "old_logprobs": [-0.5, -0.5, -0.5 + 2**-12]}
    _, arrays = packed(tmp_path, [row("A8", **asked)])
    np.testing.assert_allclose(np.exp(arrays["log_ratio"].astype(float)), [1.5, 0.5, 1.0], rtol=1e-3)
    np.testing.assert_array_equal(arrays["entropy"], [0.25] * 3)
    np.testing.assert_array_equal(arrays["gap"], [0, 0, 2**-12])  # subtracted before rounding: half precision has 2**-11 there


def test_extreme_numbers_stay_finite(tmp_path: Path) -> None:
    _, arrays = packed(tmp_path, [row("A8", ratios=[0.0, 1e30, 1.0], values=[1e9, -1e9, 0.0])])
    assert arrays["log_ratio"].tolist() == [-65504, pytest.approx(69.06, abs=0.1), 0]
    assert arrays["value"].tolist() == [65504, -65504, 0]


def test_responses_of_a_group_stand_together(tmp_path: Path) -> None:
    """A log ends with the responses that the verifier failed on."""
    header, arrays = packed(tmp_path, [ROWS[0], ROWS[4], row("A7", "error")])
    assert header["rows"]["group"] == [0, 0, 1] and header["rows"]["status"] == ["correct", "error", "no_answer"]
    assert texts(header, arrays) == ["7-3=4;4+5=9;9+9=8;A8" + END, "A7" + END, "AA" + END]


def test_an_old_log_of_an_algorithm_without_critic(tmp_path: Path) -> None:
    old = [{name: value for name, value in row.items() if name not in ("values", "actor_lambda")} for row in ROWS[:3]]
    header, arrays = packed(tmp_path, old)
    assert header["rows"]["actor_lambda"] == [None] * 3 and arrays.keys() == {"tokens", "advantage", "logprob"}


def test_other_tokens_are_read_by_the_runs_tokenizer(tmp_path: Path) -> None:
    made = words(tmp_path, ["<unk>", "</script>", "▁ein", "\n"], 7)
    header, arrays = packed(tmp_path, [made])
    assert texts(header, arrays) == ["<unk></script> ein\n<unk></script> ein"] and header["rows"]["steps"] == [None]
    (tmp_path / "resolved.yaml").unlink()
    with pytest.raises(ValueError, match="set --tokenizer to the model"):
        Log(tmp_path).pack(1)
    assert unpack(Log(tmp_path, str(tmp_path / "model")).pack(1))[0] == header
    with pytest.raises(ValueError, match=r"no tokenizer at .*nowhere.*set --tokenizer"):
        Log(tmp_path, str(tmp_path / "nowhere")).pack(1)


def test_a_character_of_several_tokens_is_at_the_last_of_them(tmp_path: Path) -> None:
    euro = ["<0xE2>", "<0x82>", "<0xAC>"]
    made = words(tmp_path, ["a", *euro, "b"], 12)  # the second response ends within a character
    header, arrays = packed(tmp_path, [made, words(tmp_path, ["a", *euro, "b"], 8)])
    assert texts(header, arrays) == ["a€ba€ba\ufffd", "a€ba\ufffd\ufffd"]
    assert [header["tokens"][i] for i in arrays["tokens"][:5]] == ["a", "", "", "€", "b"]


def test_a_character_does_not_begin_in_one_response_and_end_in_the_next(tmp_path: Path) -> None:
    made = words(tmp_path, ["a", "<0xE2>", "<0x82>", "<0xAC>"], 2)
    header, arrays = packed(tmp_path, [made | {"token_ids": [1, 2]}, made | {"token_ids": [3, 3]}])
    assert texts(header, arrays) == ["\ufffd\ufffd"] * 2


def test_a_byte_that_belongs_to_no_character_spoils_no_other(tmp_path: Path) -> None:
    made = words(tmp_path, ["a", "<0xE2>", "<0x82>", "<0xAC>", "<0x97>"], 5)
    header, arrays = packed(tmp_path, [made | {"token_ids": [4, 1, 2, 3, 0]}])
    assert texts(header, arrays) == ["\ufffd€a"]


def test_code_of_a_tokenizer_runs_only_if_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, asked = write(tmp_path, [words(tmp_path, ["a", "bc"], 3)]), []
    original = actor.load_tokenizer
    monkeypatch.setattr(actor, "load_tokenizer", lambda *given: asked.append(given) or original(*given))
    Log(run).pack(1)
    Log(run, trust_remote_code=True).pack(1)
    assert [trusted for _, trusted in asked] == [False, True]


def test_a_token_that_stands_for_two_characters_is_no_character(tmp_path: Path) -> None:
    twice = row("A8") | {"response": "A7"}
    with pytest.raises(ValueError, match="set --tokenizer"):
        packed(tmp_path, [row("A8"), twice])
    assert EOS not in row("A8", finished=False)["token_ids"]


def test_steps_are_found_in_a_run_its_folder_or_a_file(tmp_path: Path) -> None:
    run = write(write(tmp_path / "mine", ROWS, 2), ROWS, 10)
    file = run / "rollouts" / "step_000010.parquet"
    assert list(Log(run).files()) == list(Log(run / "rollouts").files()) == [2, 10] and Log(file).files() == {10: file}
    assert Log(run).name == Log(run / "rollouts").name == "mine" and Log(file).name == "step_000010"


def test_errors_name_the_file_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no rollouts in .*every_n_steps"):
        Log(tmp_path).files()
    with pytest.raises(ValueError, match="is not a rollout log: it has no answer, finished"):
        pd.DataFrame([{"group": 1}]).to_parquet(tmp_path / "step_1.parquet")
        Log(tmp_path).pack(1)
    (tmp_path / "step_2.parquet").write_text("no")
    with pytest.raises(ValueError, match=r"step_2.parquet is not a Parquet file"):
        Log(tmp_path).pack(2)
