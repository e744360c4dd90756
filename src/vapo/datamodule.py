"""Data module: an endless stream of prompts for group sampling, resumable from one number, the cursor."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from vapo.data.dataset_prompts import DatasetPrompts
from vapo.data.prompts import PromptSource
from vapo.distributed.ranks import gather_lists
from vapo.rollout.checks import check_groups
from vapo.types import Prompt
from vapo.verifiers.base import Verifier

ENDLESS = 10**9  # batches per "epoch": at the end of an epoch a resumed run would stop immediately


class _CursorSampler(Sampler[list[int]]):
    """Yields the `prompts_per_step` prompt indices that start at the data module's cursor. The cursor moves between batches, also
    past extra prompts that a step drew; nothing is fetched ahead, because the loader has a length."""

    def __init__(self, datamodule: "PromptDataModule") -> None:
        self.datamodule = datamodule

    def __len__(self) -> int:
        return ENDLESS

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(ENDLESS):
            yield list(self.datamodule.indices(0))


class PromptDataModule(LightningDataModule):
    """Decides how many prompts a step has and how often each is sampled; `vapo.rollout.sampler` repeats them."""

    def __init__(
        self,
        source: PromptSource,
        verifier: Verifier,
        rollouts_per_step: int,
        group_size: int,
        seed: int,
        path: str | None = None,
        benchmark_path: str | None = None,
        benchmark_limit: int | None = None,
    ) -> None:
        """
        Args:
            source: where prompts and the benchmark come from.
            verifier: judges responses to them.
            rollouts_per_step: B, responses per RL step over all ranks.
            group_size: G, responses per prompt; must divide `rollouts_per_step`. `regroup` changes it.
            seed: determines the order of the prompts.
            benchmark_limit: problems of the benchmark that are scored, the first ones, >= 1; None for all.
            path, benchmark_path: not read here; a source of files gets them by interpolation, so that `data.path=` sets them.
        """
        super().__init__()
        if benchmark_limit is not None and benchmark_limit < 1:
            raise ValueError(f"data.benchmark_limit is {benchmark_limit}; set it to 1 or more problems, or null for all")
        self.benchmark_limit = benchmark_limit
        self.source, self.verifier, self.rollouts_per_step, self.seed = source, verifier, rollouts_per_step, seed
        if isinstance(source, DatasetPrompts) and source.verifier is not None:
            source.verifier = verifier  # made from the same settings: one pool of processes
        self.configured_group_size = group_size
        self.regroup(None)
        self.cursor = 0  # prompts consumed by finished RL steps

    def regroup(self, group_size: int | None) -> None:
        """Sets the group size from the next RL step on, with the same number of responses per step; None is the configured size."""
        group_size = self.configured_group_size if group_size is None else group_size
        check_groups(self.rollouts_per_step, group_size)
        self.group_size, self.prompts_per_step = group_size, self.rollouts_per_step // group_size

    def setup(self, stage: str) -> None:
        """Raises ValueError if ranks have different problems: they would take each other's responses for those to their own."""
        prints = gather_lists([self._fingerprint])
        if any(other != prints[0] for other in prints):
            raise ValueError(
                "ranks have different problems: set PYTHONHASHSEED=0 in the environment (reasoning-gym), give all of them the same "
                "files, or raise data.verifier.timeout if a verifier read an answer on some of them only"
            )

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(_Prompts(self), batch_sampler=_CursorSampler(self), collate_fn=list, num_workers=0)

    def consume(self, prompts: int) -> None:
        """Moves the cursor: called once at the end of an RL step, so a checkpoint never counts a prompt that was only fetched."""
        self.cursor += prompts

    def indices(self, number: int) -> range:
        """Indices of the prompts of the `number`-th draw within an RL step."""
        start = self.cursor + number * self.prompts_per_step
        return range(start, start + self.prompts_per_step)

    def draw(self, number: int) -> list[Prompt]:
        """The prompts of the `number`-th draw within an RL step; draw 0 is the loader's batch."""
        return [self.source.prompt(index, self.seed) for index in self.indices(number)]

    def held_out(self, size: int) -> list[Prompt]:
        """Prompts that are never trained on, always the same."""
        return [self.source.held_out(index, self.seed) for index in range(size)]

    def benchmark(self) -> list[Prompt]:
        """The evaluation problems."""
        return self.source.benchmark()[: self.benchmark_limit]

    def longest_prompt(self) -> int:
        """Tokens of the longest prompt; of an endless source, of the benchmark's longest."""
        known = getattr(self.source, "longest_prompt", None)
        return known() if known else max(len(prompt.token_ids) for prompt in self.benchmark())

    def state_dict(self) -> dict[str, Any]:
        return {"cursor": self.cursor} | self._fingerprint

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError if the problems are not those of the run: the cursor would point to others."""
        if "problems" in state_dict and state_dict["problems"] != self._fingerprint.get("problems"):
            raise ValueError(
                "the problems, their answers or the template have changed since the checkpoint was written: put the files of "
                "data.path, data.benchmark_path and data.source.template back (reasoning-gym: its settings, and PYTHONHASHSEED=0), "
                "or start a new run from this one's export"
            )
        self.cursor = state_dict["cursor"]

    @cached_property
    def _fingerprint(self) -> dict[str, str]:
        known = getattr(self.source, "fingerprint", None)  # running sums depend on nothing but their settings
        return {"problems": known()} if known else {}


class _Prompts(Dataset[Prompt]):
    """Index -> prompt, as a map-style dataset."""

    def __init__(self, datamodule: PromptDataModule) -> None:
        self.datamodule = datamodule

    def __len__(self) -> int:
        return ENDLESS * self.datamodule.prompts_per_step

    def __getitem__(self, index: int) -> Prompt:
        return self.datamodule.source.prompt(index, self.datamodule.seed)
