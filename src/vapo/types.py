"""Data types shared by all modules, and the axis suffixes of tensor names:

    P prompts of one RL step        G rollouts of one group (one prompt)
    B rollouts, P * G in a step     T response tokens, padded to the longest of the batch
    L prompt + response tokens      R response tokens of all rollouts, concatenated without padding
    V vocabulary                    N prompt and response tokens of all rollouts, concatenated without padding
    K samples of one problem in an evaluation
    S tokens of a micro-batch, what prompts share once               X slots of its attention, padding included

A policy step is an RL step in which the actor trains; in value pretraining it does not. A1 to A25 in comments are entries of
docs/vapo.md: what the paper leaves open, and what is done here. The networks are in `models/` and train in `learner.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Int32: TypeAlias = NDArray[np.int32]
Float32: TypeAlias = NDArray[np.float32]


class Status(StrEnum):
    """Outcome of a verification. CORRECT earns +1, WRONG and NO_ANSWER -1; TIMEOUT and ERROR are faults of the verifier: such a
    response is left out of training."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    TIMEOUT = "timeout"
    ERROR = "error"


FAULTS = (Status.TIMEOUT, Status.ERROR)


@dataclass(frozen=True)
class Verdict:
    """A status, and the answer extracted from the response (None if there was none), for majority votes and tables."""

    status: Status
    answer: str | None = None


@dataclass(frozen=True)
class Prompt:
    """One problem as a tokenized prompt."""

    index: int  # position in the endless, seeded stream of problems; part of the sampling seed
    text: str  # prompt text, template applied
    reference: str  # the answer the verifier compares with
    token_ids: tuple[int, ...]  # `text` tokenized, length >= 1
    key: str = ""  # what was asked, without the chat format, which may hold the date; empty: the text


@dataclass(frozen=True)
class SamplingParams:
    """Sampling settings: temperature 0 is greedy; top_p is in (0, 1]; max_new_tokens counts the EOS.

    A response ends, finished, with the token that completes the first of the `stop` strings in its text without special tokens. The
    token and the string stay.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 1024
    stop: Sequence[str] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"sampling temperature is {self.temperature}; set it to 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"sampling top_p is {self.top_p}; set it in (0, 1]; 1 samples the whole distribution")
        if self.max_new_tokens < 1:
            raise ValueError(f"sampling max_new_tokens is {self.max_new_tokens}; set it to 1 or more")
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise ValueError(
                f"sampling stop is {self.stop!r}; set it to a list of strings that are not empty, such as ['Question:']"
            )
        object.__setattr__(self, "stop", tuple(self.stop))  # a list from a configuration has no hash


@dataclass(frozen=True)
class Request:
    """One response to generate. Equal seeds give equal tokens, whatever else is in the batch."""

    prompt_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True, eq=False)
class Completion:
    """An engine's reply to a request: token ids as sampled, never re-tokenized. Equal only to itself, as arrays are."""

    token_ids: Int32  # the EOS is kept when one was sampled
    logprobs: Float32  # log-probability of each token under the distribution sampled from (at its temperature)
    finished: bool  # False: cut at max_new_tokens, without EOS or stop string


@dataclass(frozen=True)
class Rollout:
    """A completion with its place in a group and its verdict. `Sampler.decode` gives its text."""

    prompt: Prompt
    group: int  # 0 .. P-1 within one RL step: the number of its prompt
    completion: Completion
    verdict: Verdict

    @property
    def correct(self) -> bool:
        return self.verdict.status is Status.CORRECT

    @property
    def judged(self) -> bool:
        """Whether the verifier came to a verdict. A response without one has no reward, and is not trained on."""
        return self.verdict.status not in FAULTS


@dataclass(frozen=True)
class Batch:
    """Rollouts of one RL step, ragged: flat tokens and lengths. Padding appears only in a `MicroBatch`."""

    token_N: Tensor  # int32: prompt then response, rollout after rollout
    prompt_length_B: Tensor
    response_length_B: Tensor  # >= 1, EOS included
    group_B: Tensor
    correct_B: Tensor  # bool, the verifier's verdict
    truncated_B: Tensor  # bool, cut at the length limit
    sampler_logprob_R: Tensor  # from the engine, at the sampling temperature
    old_logprob_R: Tensor | None = None  # from the actor before the step's first update; the engine's if prefetched
    reference_logprob_R: Tensor | None = None  # from the initial policy
    value_R: Tensor | None = None  # critic's value of the state before each token, before the step's first update
    advantage_R: Tensor | None = None
    target_R: Tensor | None = None  # regression target of the critic

    def __len__(self) -> int:
        return len(self.response_length_B)

    @property
    def total_length_B(self) -> Tensor:
        """Prompt and response tokens."""
        return self.prompt_length_B + self.response_length_B

    @property
    def mask_BT(self) -> Tensor:
        """True on response tokens, left-aligned; T is the longest response."""
        return torch.arange(int(self.response_length_B.max())) < self.response_length_B[:, None]

    def select(self, index_B: Tensor) -> "Batch":
        """The rollouts `index_B`, in that order."""
        spans = {}
        for axis, length_B in (("R", self.response_length_B), ("N", self.total_length_B)):
            end_B = length_B.cumsum(0)
            spans[axis] = list(zip((end_B - length_B)[index_B].tolist(), end_B[index_B].tolist(), strict=True))
        chosen: dict[str, Any] = {}
        for name in (entry.name for entry in fields(self)):
            value, axis = getattr(self, name), name[-1]
            if value is not None:
                chosen[name] = value[index_B] if axis == "B" else torch.cat([value[start:end] for start, end in spans[axis]])
        return Batch(**chosen)

    def replace(self, **changes: Tensor) -> "Batch":
        """A copy with some fields set."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Packed:
    """The tokens of a micro-batch in one row, without padding: what all prompts begin with, the rest of each distinct prompt, then
    the responses. Attention alone is over padded rows, in blocks of rollouts of similar length."""

    blocks: tuple[tuple[int, int], ...]  # (B, L) of each block of rollouts
    token_S: Tensor
    position_S: Tensor  # in prompt and response
    predicts_R: Tensor  # where in S the token before each response token is
    index_X: Tensor  # of all slots, block after block: where in S their tokens are, 0 in the padding
    slot_S: Tensor  # where in X each token is: the first place, for a prompt that several rollouts share


@dataclass(frozen=True)
class MicroBatch:
    """Rollouts for one forward pass, padded and packed. Row i is rollout `index_B[i]` of the batch it was cut from."""

    index_B: Tensor
    part: Batch  # these rollouts, ragged
    packed: Packed
    token_BL: Tensor  # right-padded: causal attention then needs no mask
    predicts_BL: Tensor  # bool, True where the next token is a response token: logits and values are read there
    next_token_R: Tensor  # the response tokens, in the order of predicts_BL's True entries
    mask_BT: Tensor

    def pad(self, x_R: Tensor) -> Tensor:
        """Flat response tokens -> `x_BT`, 0 in the padding; keeps the gradient."""
        return torch.zeros(self.mask_BT.shape, dtype=x_R.dtype, device=x_R.device).masked_scatter(self.mask_BT, x_R)

    def padded(self, name: str) -> Tensor:
        """Field `name` of `part`, such as `advantage_R`, padded to BT on this micro-batch's device."""
        x_R = getattr(self.part, name)
        assert x_R is not None, f"the batch has no {name} yet"
        return self.pad(x_R.to(self.mask_BT.device))
