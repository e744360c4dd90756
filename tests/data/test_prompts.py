"""The running-sums source: repeated problems, stated totals, refused settings."""

from dataclasses import replace

import pytest

from vapo.data.prompts import SumsPrompts
from vapo.run.pretrain import ALPHABET, STATED, build_tokenizer
from vapo.types import Status
from vapo.verifiers.sums import SumsVerifier


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


def test_a_share_of_the_problems_has_no_answer_always_the_same_and_none_of_the_benchmark():
    some, all_ = source(unsolvable=0.3, problems=50), source(problems=50)
    drawn = [some.prompt(index, 3) for index in range(100)]
    assert [prompt.reference == "-" for prompt in drawn[:50]] == [prompt.reference == "-" for prompt in drawn[50:]]
    for prompt, other in zip(drawn, [all_.prompt(index, 3) for index in range(100)], strict=True):
        assert prompt == other or prompt == replace(other, reference="-")
    endless = source(unsolvable=0.3)
    for prompts in ([endless.prompt(index, 3) for index in range(1000)], [endless.held_out(index, 3) for index in range(1000)]):
        assert 0.25 < sum(prompt.reference == "-" for prompt in prompts) / 1000 < 0.35
    assert some.benchmark() == all_.benchmark()
    assert all(SumsVerifier()(f"A{digit}", "-").status is Status.WRONG for digit in range(10))


def test_the_record_names_the_knobs_that_are_turned_and_no_others():
    assert set(source().describe()) == {"benchmark_name", "template", "min_operands", "max_operands"}  # as before they existed
    knobs = {"hard_operations": 4, "reveal": None, "problems": 7, "unsolvable": 0.5}
    turned = source(**knobs).describe()
    assert {name: turned[name] for name in knobs} == {name: str(value) for name, value in knobs.items()}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reveal": 8}, "after None .* set data.source.hard_operations"),
        ({"hard_operations": 4, "reveal": 14}, "below min_operands .18."),
        ({"hard_operations": 4, "reveal": -5}, "below min_operands"),
        ({"problems": 0}, "data.source.problems is 0; set it to 1 or more"),
        ({"unsolvable": 1.0}, "data.source.unsolvable is 1.0; set it to 0"),
    ],
)
def test_settings_that_do_not_fit_say_what_to_set(settings, message):
    with pytest.raises(ValueError, match=message):
        source(**settings)
