import pytest
from hydra.utils import instantiate
from lightning import LightningDataModule
from tests.runs import config_for

from vapo.data.prompts import SumsPrompts
from vapo.datamodule import PromptDataModule
from vapo.types import Prompt
from vapo.verifiers.sums import SumsVerifier


class NamedSource:
    """Prompts that say which stream and place they are from."""

    benchmark_name = "named"

    def prompt(self, index, seed):
        return Prompt(index, f"{seed}/{index}", "0", (1,))

    def held_out(self, index, seed):
        return Prompt(index, f"held out/{seed}/{index}", "0", (1,))

    def benchmark(self):
        return [Prompt(0, "benchmark", "0", (1,))]

    def describe(self):
        return {}


def make(rollouts_per_step=8, group_size=2, source=None, seed=5):
    return PromptDataModule(source or NamedSource(), SumsVerifier(), rollouts_per_step, group_size, seed)


def steps(datamodule, count):
    """The prompts of `count` finished RL steps through one loader."""
    stream = iter(datamodule.train_dataloader())
    for _ in range(count):
        prompts = next(stream)
        datamodule.consume(len(prompts))
        yield prompts


def batches(datamodule, count):
    return [[prompt.index for prompt in batch] for batch in steps(datamodule, count)]


@pytest.mark.parametrize(
    ("rollouts_per_step", "group_size", "remedy"), [(40, 16, "32"), (3, 16, "16"), (0, 4, "4"), (-8, 4, "4"), (7, 2, "8")]
)
def test_rollouts_that_do_not_fill_groups_say_what_to_set(rollouts_per_step, group_size, remedy):
    message = rf"rollouts_per_step is {rollouts_per_step}, .*group size {group_size}; set it to {remedy}, or"
    with pytest.raises(ValueError, match=message):
        make(rollouts_per_step, group_size)


@pytest.mark.parametrize(("group_size", "prompts"), [(1, 8), (2, 4), (8, 1)])
def test_prompts_per_step_times_group_size_is_the_rollouts(group_size, prompts):
    datamodule = make(8, group_size)
    assert datamodule.prompts_per_step == prompts
    assert batches(datamodule, 3) == [list(range(i * prompts, (i + 1) * prompts)) for i in range(3)]


def test_batches_are_prompts_of_the_seeds_stream():
    batch = next(iter(make(seed=7).train_dataloader()))
    assert batch == [Prompt(i, f"7/{i}", "0", (1,)) for i in range(4)]


def test_a_restored_cursor_continues_exactly():
    first = make()
    seen = batches(first, 3)
    second = make()
    second.load_state_dict(first.state_dict())
    assert seen + batches(second, 2) == batches(make(), 5)


def test_ranks_with_different_problems_are_refused(monkeypatch):
    class Fixed(NamedSource):
        def fingerprint(self):
            return "mine"

    datamodule = make(source=Fixed())
    datamodule.setup("fit")
    monkeypatch.setattr("vapo.datamodule.gather_lists", lambda part: [*part, {"problems": "another's"}])
    with pytest.raises(ValueError, match="ranks have different problems"):
        datamodule.setup("fit")


def test_prompts_fetched_but_not_consumed_come_again():
    first = make()
    stream = iter(first.train_dataloader())
    assert [prompt.index for prompt in next(stream)] == [prompt.index for prompt in next(stream)] == [0, 1, 2, 3]
    first.consume(first.prompts_per_step)  # one finished step
    next(stream)  # fetched by a step that was killed
    second = make()
    second.load_state_dict(first.state_dict())
    assert batches(second, 1) == [[4, 5, 6, 7]]


def test_an_open_loader_follows_the_cursor_past_prompts_that_a_step_drew_in_addition():
    datamodule = make()
    stream = iter(datamodule.train_dataloader())
    seen = []
    for prompts in (4, 12, 4):  # the second step drew three times
        seen.append([prompt.index for prompt in next(stream)])
        datamodule.consume(prompts)
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [16, 17, 18, 19]]
    assert datamodule.state_dict() == {"cursor": 20}


def test_draws_of_a_step_follow_one_another_and_the_first_is_what_the_loader_gives():
    datamodule = make()
    datamodule.consume(8)
    assert datamodule.draw(0) == next(iter(datamodule.train_dataloader()))
    assert [prompt.index for number in range(3) for prompt in datamodule.draw(number)] == list(range(8, 20))
    assert datamodule.state_dict() == {"cursor": 8}  # only a finished step moves it


def test_lightning_keeps_the_cursor():
    assert "state_dict" in PromptDataModule.__dict__ and "load_state_dict" in PromptDataModule.__dict__
    assert isinstance(make(), LightningDataModule)
    assert len(make().train_dataloader()) >= 10**9  # no epoch ends


def test_held_out_prompts_are_another_stream_and_always_the_same():
    datamodule = make()
    held_out = datamodule.held_out(6)
    training = {prompt.text for batch in steps(datamodule, 50) for prompt in batch}
    assert len({prompt.text for prompt in held_out}) == 6
    assert not training & {prompt.text for prompt in held_out}
    datamodule.consume(40)
    assert datamodule.held_out(6) == held_out == make().held_out(6)
    assert datamodule.held_out(3) == held_out[:3]


def test_held_out_sums_share_no_problem_with_training_or_the_benchmark(tokenizer):
    datamodule = make(source=SumsPrompts(tokenizer, "{problem}:", 12, 28))
    held_out = {prompt.text for prompt in datamodule.held_out(100)}
    training = {prompt.text for batch in steps(datamodule, 100) for prompt in batch}
    benchmark = {prompt.text for prompt in datamodule.benchmark()}
    assert len(held_out) == 100 and len(training) == 400
    assert not held_out & training and not benchmark & (training | held_out)


def test_the_benchmark_is_the_sources():
    assert [prompt.text for prompt in make().benchmark()] == ["benchmark"]


def test_a_limit_scores_the_first_problems_of_the_benchmark(tmp_path):
    whole, part = (instantiate(config_for(tmp_path, *limit).data) for limit in ([], ["data.benchmark_limit=4"]))
    assert part.benchmark() == whole.benchmark()[:4] and len(whole.benchmark()) == 30
    with pytest.raises(Exception, match=r"data.benchmark_limit is 0; set it to 1 or more"):
        instantiate(config_for(tmp_path, "data.benchmark_limit=0").data)
    assert whole.longest_prompt() == max(len(prompt.token_ids) for prompt in whole.benchmark())


def test_a_source_of_files_and_the_run_share_a_verifier_and_its_processes(tmp_path):
    files = ("data=file", "data.path=train.jsonl", "data.benchmark_path=test.jsonl", "data.source.chat=false")
    datamodule = instantiate(config_for(tmp_path, *files).data)
    assert datamodule.source.verifier is datamodule.verifier
    assert instantiate(config_for(tmp_path, *files, "data.source.verifier=null").data).source.verifier is None
