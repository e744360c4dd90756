"""The running-sums source: repeated problems, stated totals, refused settings."""

import pytest

from vapo.data.prompts import SumsPrompts
from vapo.run.pretrain import ALPHABET, STATED, build_tokenizer


def source(**settings):
    return SumsPrompts(build_tokenizer(ALPHABET + STATED), "{problem}:", **{"min_operands": 18, "max_operands": 26} | settings)


def test_a_number_of_problems_repeats_the_stream_and_leaves_held_out_ones_fresh():
    few, endless = source(problems=5), source()
    texts = [few.prompt(index, 3).text for index in range(12)]
    assert texts[:5] == texts[5:10] == [endless.prompt(index, 3).text for index in range(5)]
    assert [few.prompt(index, 3).index for index in range(12)] == list(range(12))
    held_out = [few.held_out(index, 3).text for index in range(20)]
    assert len(set(held_out)) == 20 and not set(held_out) & set(texts)


def test_stated_totals_are_in_every_prompt_and_every_character_is_a_token():
    reveal = source(hard_operations=4, reveal=8)
    prompts = [reveal.prompt(index, 0) for index in range(20)] + reveal.benchmark()
    assert all(prompt.text.count("(") == 1 and len(prompt.token_ids) == len(prompt.text) for prompt in prompts)
    unknown = reveal.tokenizer.pad_token_id
    assert all(unknown not in prompt.token_ids for prompt in prompts)


def test_the_record_names_the_knobs_that_are_turned_and_no_others():
    assert set(source().describe()) == {"benchmark_name", "template", "min_operands", "max_operands"}  # as before they existed
    turned = source(hard_operations=4, reveal=None, problems=7).describe()
    assert {name: turned[name] for name in ("hard_operations", "reveal", "problems")} == {
        "hard_operations": "4",
        "reveal": "None",
        "problems": "7",
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reveal": 8}, "after None .* set data.source.hard_operations"),
        ({"hard_operations": 4, "reveal": 14}, "below min_operands .18."),
        ({"hard_operations": 4, "reveal": -5}, "below min_operands"),
        ({"problems": 0}, "data.source.problems is 0; set it to 1 or more"),
    ],
)
def test_settings_that_do_not_fit_say_what_to_set(settings, message):
    with pytest.raises(ValueError, match=message):
        source(**settings)
