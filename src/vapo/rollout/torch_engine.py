"""The engine without dependencies: a decode loop over a Hugging Face causal LM, on the model's device.

Prompts are left-padded, and each distinct prompt is prefilled once. Keys and values are written into a buffer allocated once. Each
request has its own random stream, so its tokens depend on its seed and not on the rest of the batch. Finished rows are dropped from
the batch when there are enough of them.
"""

import copy
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vapo.distributed.sharding import compute_buffers, device_of, is_sharded
from vapo.models.actor import Actor
from vapo.models.attention import is_packed, layer_kinds, sees_all_before
from vapo.models.export import merged_weights
from vapo.rollout.engine import check_eos, ignore
from vapo.rollout.kv_cache import BufferedCache, GroupCache
from vapo.types import Completion, Request, SamplingParams

TOP = 1024  # tokens; most nuclei have fewer, and the sort of a whole vocabulary is slow
STOP_MARGIN = 8  # tokens read before a stop string: special ones within it, and a first token that loses its blank
COMPACT_BELOW = 0.8  # drop finished rows when the share of live rows is below this: it copies the cache, so not at every step


def sample(logits_BV: Tensor, uniform_B: Tensor, sampling: SamplingParams) -> tuple[Tensor, Tensor]:
    """Samples one token per row by inverting the cumulative distribution at `uniform_B`; returns it and its log-probability.

    Args:
        logits_BV: unscaled logits.
        uniform_B: float64 in [0, 1), the row's own random number.
        sampling: temperature 0 takes the most likely token and reports its log-probability at temperature 1; top_p < 1 keeps the
            smallest set of most likely tokens whose probability reaches top_p, and reports log-probabilities within that set.
    """
    logits_BV = logits_BV.float()
    if sampling.temperature == 0:
        logprob_BV = logits_BV.log_softmax(-1)
        token_B = logits_BV.argmax(-1)
        return token_B, logprob_BV.gather(-1, token_B[:, None])[:, 0]
    probability_BV, order_BV = (logits_BV / sampling.temperature).softmax(-1), None
    if sampling.top_p < 1:
        probability_BV, order_BV = likeliest(probability_BV, sampling.top_p)
        before_BV = probability_BV.cumsum(-1) - probability_BV
        probability_BV = torch.where(before_BV < sampling.top_p, probability_BV, 0.0)
    cumulative_BV = probability_BV.cumsum(-1, dtype=torch.float64)
    total_B1 = cumulative_BV[:, -1:]
    choice_B1 = torch.searchsorted(cumulative_BV, uniform_B[:, None] * total_B1, right=True).clamp_(max=logits_BV.shape[-1] - 1)
    logprob_B1 = (probability_BV.gather(-1, choice_B1) / total_B1).log().float()
    token_B1 = choice_B1 if order_BV is None else order_BV.gather(-1, choice_B1)
    return token_B1[:, 0], logprob_B1[:, 0]


def plain_attention(model: PreTrainedModel) -> bool:
    """Whether every layer attends to all tokens before it, by torch's own attention (SDPA), so that one boolean mask serves all.

    Raises:
        ValueError: the model has layers that this engine has no cache for.
    """
    kinds = layer_kinds(model)
    if not kinds <= {"full_attention", "sliding_attention"}:
        raise ValueError(f"rollout=torch cannot generate with layers of kind {', '.join(sorted(kinds))}: set rollout=vllm")
    return sees_all_before(model)


def likeliest(probability_BV: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Probabilities in descending order, and their tokens: the TOP likeliest if they reach top_p in every row, else all. Equal ones
    are in the order of their tokens either way, so that a row does not depend on the others."""
    if probability_BV.shape[-1] > TOP:
        top, token = probability_BV.topk(TOP)
        likelier = top.where(top > top[:, -1:], 0)  # than the last, which others may equal
        if bool((likelier.double().sum(-1) >= top_p).all()):
            token, order = token.sort(dim=-1)
            top, order = top.gather(-1, order).double().sort(dim=-1, descending=True, stable=True)
            return top, token.gather(-1, order)
    return probability_BV.double().sort(dim=-1, descending=True, stable=True)


def _completion(token_T: Tensor, logprob_T: Tensor, finished: bool) -> Completion:
    """Copies, not views: the engine's buffers are freed after each batch."""
    return Completion(token_T.cpu().numpy().astype(np.int32), logprob_T.cpu().numpy().astype(np.float32), finished)


class TorchEngine:
    """`Engine` that uses the actor's weights themselves, so loading them is free. It keeps a full copy of a sharded actor."""

    ranks_per_engine = 1

    def __init__(
        self,
        eos_token_ids: Sequence[int],
        max_batch: int = 1024,
        own_weights: bool = False,
        dtype: str | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        """
        Args:
            eos_token_ids: tokens that end a response.
            max_batch: most responses decoded at once; bounds the memory of the cache.
            own_weights: keep a copy of any actor, so that training can continue during generation.
            dtype: of the weights it generates with. Where the actor has another, the engine keeps a copy, which saves the casts
                that autocast makes of every weight for every token. None: the actor's.
            tokenizer: reads responses where sampling has stop strings; not needed elsewhere.
        """
        check_eos(eos_token_ids)
        if max_batch < 1:
            raise ValueError(f"rollout.engine.max_batch is {max_batch}; set it to 1 or more responses")
        self.eos_token_ids, self.max_batch, self.tokenizer = tuple(eos_token_ids), max_batch, tokenizer
        self.own_weights = own_weights
        self.weights_version = -1
        self.language_model: PreTrainedModel | None = None
        self._dtype: torch.dtype | None = None if dtype is None else getattr(torch, dtype)
        self._own: PreTrainedModel | None = None

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype or (torch.float32 if self.language_model is None else self.language_model.dtype)

    def load_weights(self, actor: Actor, version: int) -> dict[str, float]:
        if self.own_weights or is_sharded(actor) or self._dtype not in (None, actor.language_model.dtype):
            self._copy(actor.language_model)
        else:
            self.language_model = actor.language_model
        self.weights_version = version
        return {}

    @torch.no_grad()
    def _copy(self, model: PreTrainedModel) -> None:
        if self._own is None:
            config = copy.deepcopy(model.config)  # its dtype is the copy's
            if any(hasattr(layer, "base_layer") for layer in (model.get_input_embeddings(), model.get_output_embeddings())):
                config.get_text_config().tie_word_embeddings = False  # an adapter is on one of the two
            with torch.device("meta"), torch.random.fork_rng():
                self._own = type(model)._from_config(config, dtype=self._dtype or model.dtype).eval()
            self._own.to_empty(device=device_of(model))
            self._own.tie_weights()
            with torch.random.fork_rng():  # some models draw weights there
                compute_buffers(self._own)
        own = self._own.state_dict()
        for name, weight in merged_weights(model, dtype=self._own.dtype):
            own[name].copy_(weight)
        self.language_model = self._own

    def sleep(self) -> None:
        """Does nothing: the cache is freed after each batch."""

    @torch.no_grad()
    def generate(
        self, requests: Sequence[Request], sampling: SamplingParams, on_finish: Callable[[int, Completion], None] = ignore
    ) -> list[Completion]:
        if self.language_model is None:
            raise RuntimeError("generate was called before load_weights")
        was_training = self.language_model.training
        self.language_model.eval()
        completions: dict[int, Completion] = {}
        for start in range(0, len(requests), self.max_batch):
            for row, completion in self._generate(requests[start : start + self.max_batch], sampling):
                completions[start + row] = completion
                on_finish(start + row, completion)
        self.language_model.train(was_training)
        return [completions[index] for index in range(len(requests))]

    def _generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[tuple[int, Completion]]:
        """Yields each request's index and completion when it finishes."""
        model = self.language_model
        assert model is not None
        device, rows, steps = model.device, len(requests), sampling.max_new_tokens
        uniform_TB = torch.stack(
            [torch.rand(steps, generator=torch.Generator().manual_seed(r.seed), dtype=torch.float64) for r in requests], dim=1
        ).to(device)
        eos = torch.tensor(self.eos_token_ids, device=device)

        logits_BV, cache, position_B = self._prefill(model, requests, sampling)
        token_BT = torch.zeros(rows, steps, dtype=torch.long, device=device)
        logprob_BT = torch.zeros(rows, steps, device=device)
        live_B = torch.arange(rows, device=device)  # rows still in the batch, as indices of requests
        ended_B = torch.zeros(rows, dtype=torch.bool, device=device)  # of those: finished, and not dropped yet
        left = rows

        for step in range(steps):
            token_B, logprob_B = sample(logits_BV, uniform_TB[step, live_B], sampling)
            token_BT[live_B, step], logprob_BT[live_B, step] = token_B, logprob_B  # junk in ended rows: their responses are cut
            ends_B = torch.isin(token_B, eos) & ~ended_B
            if sampling.stop:
                ends_B |= self._stops(token_BT[live_B, : step + 1], sampling.stop).to(device) & ~ended_B
            ended = live_B[ends_B].tolist()  # the one wait for the device
            for row in ended:
                yield row, _completion(token_BT[row, : step + 1], logprob_BT[row, : step + 1], finished=True)
            left -= len(ended)
            if left == 0 or step == steps - 1:
                break
            ended_B |= ends_B
            if left < COMPACT_BELOW * len(live_B):
                row_B = (~ended_B).nonzero()[:, 0]
                live_B, token_B, position_B, ended_B = live_B[row_B], token_B[row_B], position_B[row_B], ended_B[row_B]
                cache.keep_rows(row_B)
            logits_BV = model(
                input_ids=token_B[:, None],
                position_ids=position_B[:, None],
                past_key_values=cache,
                use_cache=True,
                **cache.options(),
            ).logits[:, -1]
            position_B = position_B + 1

        for row in live_B[~(ended_B | ends_B)].tolist():
            yield row, _completion(token_BT[row], logprob_BT[row], finished=False)

    def _stops(self, token_BT: Tensor, stop: Sequence[str]) -> Tensor:
        """stops_B: whether the text of a response has a stop string near its end. Tokens are a byte or more, special ones aside."""
        if self.tokenizer is None:
            raise ValueError(
                "rollout.sampling.stop needs rollout.engine.tokenizer, to read responses: set it to ${module.tokenizer}"
            )
        longest = max(len(text.encode()) for text in stop)
        texts = self.tokenizer.batch_decode(token_BT[:, -longest - STOP_MARGIN :].tolist(), skip_special_tokens=True)
        return torch.tensor([any(string in text for string in stop) for text in texts])

    def _prefill(
        self, model: PreTrainedModel, requests: Sequence[Request], sampling: SamplingParams
    ) -> tuple[Tensor, BufferedCache, Tensor]:
        """Prefills each distinct prompt once; requests share it, or get a copy each where the model's attention is not ours.

        Returns:
            logits_BV of the first token, the cache, and the position of the first new token.
        """
        distinct = {prompt_ids: row for row, prompt_ids in enumerate(dict.fromkeys(r.prompt_ids for r in requests))}
        width = max(len(prompt_ids) for prompt_ids in distinct)
        token_PL = torch.zeros(len(distinct), width, dtype=torch.long)
        mask_PL = torch.zeros(len(distinct), width + sampling.max_new_tokens, dtype=torch.bool)
        for prompt_ids, row in distinct.items():
            token_PL[row, width - len(prompt_ids) :] = torch.tensor(prompt_ids)
            mask_PL[row, width - len(prompt_ids) :] = True
        token_PL, mask_PL = token_PL.to(model.device), mask_PL.to(model.device)
        position_PL = (mask_PL[:, :width].long().cumsum(-1) - 1).clamp(min=0)
        mask = mask_PL[:, :width]
        plain, on_cpu = plain_attention(model), model.device.type == "cpu"
        grouped = is_packed(model) and (model.dtype == torch.float32 or (model.dtype == torch.bfloat16 and on_cpu))
        if plain:  # a boolean mask, made once; otherwise transformers makes one for each kind of layer
            causal = torch.ones(width, width, dtype=torch.bool, device=model.device).tril()
            diagonal = torch.eye(width, dtype=torch.bool, device=model.device)  # padding sees itself: a row of no keys is NaN
            mask = ((mask[:, None] & causal) | diagonal)[:, None]
        layers, steps = model.config.get_text_config().num_hidden_layers, sampling.max_new_tokens
        cache = BufferedCache(layers, width if grouped else width + steps, plain)
        logits_PV = model(
            input_ids=token_PL,
            attention_mask=mask,
            position_ids=position_PL,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        row_B = torch.tensor([distinct[r.prompt_ids] for r in requests], device=model.device)
        if grouped:
            cache = GroupCache(cache, mask_PL[:, :width], row_B, steps)
        else:
            cache.repeat_rows(row_B, mask_PL[row_B])
        return logits_PV[row_B], cache, position_PL[row_B, -1] + 1
