"""Those fields of the algorithms that sampling and the callbacks read: part of the knob suite in test_knobs.py."""

import warnings
from dataclasses import replace
from types import SimpleNamespace

from tests.algorithms.knobs import BOTH, knob
from tests.completions import completion_of
from tests.runs import metrics, run

from vapo.algorithms import ActorCritic
from vapo.datamodule import PromptDataModule
from vapo.metrics import PhaseClock
from vapo.module import RLModule
from vapo.types import Prompt, Rollout, Status, Verdict


def collected(algorithm, frozen=False):
    """Prompts asked in each draw of a step of eight rollouts, and the rollouts that train. Every third prompt's group is mixed."""
    asked = []

    def generate(prompts, group_size, *_):
        asked.append([prompt.index for prompt in prompts])
        verdict = {True: Verdict(Status.CORRECT), False: Verdict(Status.WRONG)}
        return [
            Rollout(prompt, group, completion_of([1]), verdict[prompt.index % 3 == 0 and i == 0])
            for group, prompt in enumerate(prompts)
            for i in range(group_size)
        ]

    source = SimpleNamespace(prompt=lambda index, seed: Prompt(index, "", "", (1,)))
    datamodule = PromptDataModule(source, None, 8, algorithm.group_size, seed=0)
    parts = {"actor_frozen": frozen, "sampling": None, "rl_step": 0, "prefetch": False, "clock": PhaseClock()}
    sampler = SimpleNamespace(take_prefetched=lambda: None)
    module = SimpleNamespace(algorithm=algorithm, datamodule=datamodule, sampler=sampler, sample=generate, **parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # too few mixed groups
        return asked, RLModule.collect(module, datamodule.draw(0))


@knob(*BOTH)
def group_size(plain, batch, _):
    """Eight rollouts a step are 8 / G prompts, each asked G times, numbered in order."""
    for size in (2, 4, 8):
        asked, rollouts = collected(replace(plain, group_size=size))
        assert asked == [list(range(8 // size))]
        assert [(r.prompt.index, r.group) for r in rollouts] == [(g, g) for g in range(8 // size) for _ in range(size)]


@knob(*BOTH)
def dynamic_sampling(plain, batch, _):
    """Draws until four groups are mixed, those of prompts 0, 3, 6 and 9; but not for a critic alone."""
    asked, rollouts = collected(replace(plain, dynamic_sampling=False))
    assert (asked, [r.prompt.index for r in rollouts[::2]]) == ([[0, 1, 2, 3]], [0, 1, 2, 3])
    asked, rollouts = collected(replace(plain, dynamic_sampling=True))
    assert (asked, [r.prompt.index for r in rollouts[::2]]) == ([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]], [0, 3, 6, 9])
    assert [r.group for r in rollouts] == [0, 0, 1, 1, 2, 2, 3, 3]
    asked, rollouts = collected(replace(plain, dynamic_sampling=True), frozen=True)
    assert (asked, [r.prompt.index for r in rollouts[::2]]) == ([[0, 1, 2, 3]], [0, 1, 2, 3])


@knob(*BOTH)
def max_draws(plain, batch, _):
    """The same with fewer draws allowed."""
    for draws, prompts in ((1, [0, 3]), (2, [0, 3, 6]), (3, [0, 3, 6, 9]), (9, [0, 3, 6, 9])):
        asked, rollouts = collected(replace(plain, dynamic_sampling=True, max_draws=draws))
        assert len(asked) == min(draws, 3) and [r.prompt.index for r in rollouts[::2]] == prompts


@knob(ActorCritic)
def value_pretraining_steps(plain, batch, folder):
    """Exactly so many RL steps without an update of the actor come before the others."""
    run(folder, "scale_overrides.value_pretraining_steps=2", "module.policy_steps=1", "callbacks.aime_evaluation=null")
    frame = metrics(folder)
    assert frame["clock/policy_step"].tolist() == [0, 0, 1] and frame["clock/actor_updates"].tolist() == [0, 0, 2]
