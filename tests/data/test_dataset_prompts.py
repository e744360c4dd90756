"""Prompts over problem sets: endless, shuffled anew in every pass, and never one of the benchmark or of those held out."""

import json
import logging

import pytest
from tests.tokenizers import make_tokenizer

from vapo.data.dataset_prompts import DatasetPrompts
from vapo.data.problem_sets import ProblemSet

TRAIN = [(f"problem {i}", str(i)) for i in range(40)]


@pytest.fixture
def make(tmp_path):
    (tmp_path / "template.txt").write_text("{problem}:")

    def build(train=TRAIN, benchmark=(("exam a", "1"), ("exam b", "2")), max_prompt_tokens=20, held_out=3):
        sets = []
        for name, pairs in (("train", train), ("exam", benchmark)):
            path = tmp_path / f"{name}.jsonl"
            path.write_text("".join(json.dumps({"problem": p, "answer": a}) + "\n" for p, a in pairs))
            sets.append(ProblemSet(name, str(path), "problem", "answer"))
        return DatasetPrompts(make_tokenizer(), *sets, str(tmp_path / "template.txt"), False, max_prompt_tokens, held_out)

    return build


def test_each_pass_asks_every_problem_once_in_another_order(make):
    source = make()
    passes = [[source.prompt(37 * k + i, 0) for i in range(37)] for k in range(3)]
    texts = [[prompt.text for prompt in prompts] for prompts in passes]
    assert len({frozenset(each) for each in texts}) == 1 and len(set(texts[0])) == 37
    assert texts[0] != texts[1] != texts[2] != texts[0]
    assert [prompt.index for prompts in passes for prompt in prompts] == list(range(111))
    assert texts[0] != [source.prompt(i, 1).text for i in range(37)]
    again = make()
    assert passes == [[again.prompt(37 * k + i, 0) for i in range(37)] for k in range(3)]


def test_a_prompt_has_text_ids_and_reference_of_its_problem(make):
    source = make()
    for i in range(37):
        prompt = source.prompt(i, 0)
        assert prompt.text == f"problem {prompt.reference}:"
        assert source.template.tokenizer.decode(prompt.token_ids) == prompt.text


def test_held_out_problems_are_the_same_for_every_seed_and_never_trained_on(make):
    source = make()
    held_out = {source.held_out(i, seed).text for i in range(20) for seed in (0, 1)}
    trained = {source.prompt(i, seed).text for i in range(200) for seed in (0, 1)}
    assert len(held_out) == 3 and len(trained) == 37 and not held_out & trained
    assert [source.held_out(i, 0).index for i in range(5)] == [0, 1, 2, 3, 4]  # so that repeated problems get other samples


def test_problems_of_the_benchmark_are_not_trained_on(make):
    source = make(benchmark=[TRAIN[5], TRAIN[6], ("exam", "1")])
    trained = {source.prompt(i, 0).text for i in range(200)} | {source.held_out(i, 0).text for i in range(20)}
    assert len(trained) == 38 and not trained & {"problem 5:", "problem 6:"}
    assert [prompt.text for prompt in source.benchmark()] == ["problem 5:", "problem 6:", "exam:"]
    assert [prompt.index for prompt in source.benchmark()] == [0, 1, 2]


def test_a_problem_of_the_benchmark_is_recognised_in_another_spelling(make):
    source = make(
        train=[*TRAIN, (" Find  $\\dfrac{1}{2}$ of\nx ", "1")],
        benchmark=[("find \\(\\frac12{} \\) of x".replace("12{}", "{1}{2}"), "1")],
        max_prompt_tokens=60,
    )
    assert not [i for i in range(200) if "rac" in source.prompt(i, 0).text]


def test_long_problems_are_dropped_and_all_that_is_left_out_is_counted(make, caplog):
    train = [*TRAIN, ("x" * 30, "1"), TRAIN[0], ("problem 1", "another"), ("exam a", "1")]
    with caplog.at_level(logging.INFO):
        source = make(train)
        trained = {source.prompt(i, 0).text for i in range(100)}
    assert len(trained) == 37 and not any("x" in text for text in trained)
    assert "train: 40 problems of 44 rows (2 duplicates, 1 too long, 1 of the benchmark)" in caplog.text
    assert "1 duplicates have another answer than the first" in caplog.text


def test_a_benchmark_keeps_all_its_problems_or_says_why_not(make):
    with pytest.raises(ValueError, match=r"exam has a prompt of 31 tokens; set data.source.max_prompt_tokens"):
        make(benchmark=[("x" * 30, "1")]).benchmark()


def test_too_little_to_train_on_is_said(make):
    with pytest.raises(ValueError, match="train has 0 problems of at most 20 tokens"):
        make(train=[("x" * 30, "1")]).prompt(0, 0)


def test_nothing_is_read_before_the_first_prompt(make, tmp_path):
    source = make()
    (tmp_path / "train.jsonl").unlink()
    assert len(source.benchmark()) == 2
    with pytest.raises(FileNotFoundError):
        source.prompt(0, 0)


def test_the_description_tells_tasks_apart_without_reading_them(make, tmp_path):
    first, longer = make(), make(max_prompt_tokens=21)
    (tmp_path / "train.jsonl").unlink()
    assert first.describe() == make().describe() != longer.describe()
