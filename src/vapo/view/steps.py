"""A logged step as compact bytes for the page: every number once, in half precision, and a table of the distinct tokens."""

import gzip
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from vapo.verifiers.sums import answer, reveal_index, trace

NEEDED = {"group", "prompt", "response", "reference", "answer", "status", "reward", "length", "finished", "token_ids"}
END = "<end>"  # shown for a token without text, where the text is one character a token
_PROBLEM = re.compile(r"(?<![\d+-])\d(?:[+-]\d)+(?:\(\d\)(?:[+-]\d)*)?(?![\d+(-])", re.ASCII)

NO_TEXT = "\ufffd"  # how tokenizers write a part of a character
BYTES = 4  # most of a character

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Log:
    """The rollout log of one run. Its files are looked up anew each time, because a run may still be writing."""

    path: Path  # a run's folder, its folder of rollouts, or one Parquet file
    tokenizer: str | None = None  # folder or hub name; None: that of the run, if it is needed
    trust_remote_code: bool = False  # runs code that comes with the tokenizer

    @property
    def name(self) -> str:
        path = self.path.resolve()
        return path.parent.name if path.name == "rollouts" else path.stem if path.is_file() else path.name

    def files(self) -> dict[int, Path]:
        """The file of each RL step, in order.

        Raises:
            ValueError: there is none.
        """
        folder = self.path / "rollouts" if (self.path / "rollouts").is_dir() else self.path
        paths = [folder] if folder.is_file() else sorted(folder.glob("step_*.parquet"))
        files = {int(number[0]) if (number := re.findall(r"\d+$", path.stem)) else 0: path for path in paths}
        if not files:
            raise ValueError(
                f"no rollouts in {self.path}: give a run's folder or a step_*.parquet of it; a run logs them every "
                "callbacks.rollout_log.every_n_steps"
            )
        return files

    def pack(self, step: int, level: int = 6) -> bytes:
        """The step as the page reads it; see `pack`."""
        file = self.files()[step]
        return pack(file, lambda: self._decode(file), level)

    def _decode(self, file: Path) -> Decode:
        """Text of tokens by the run's tokenizer."""
        config = file.parent.parent / "resolved.yaml"
        name = self.tokenizer or (yaml.safe_load(config.read_text())["model"]["path"] if config.is_file() else None)
        if name is None:
            raise ValueError(f"{file} does not say how its tokens read, and has no run beside it: set --tokenizer to the model")
        from vapo.models.actor import load_tokenizer  # here: it takes seconds, and mini's tokens are read without it

        try:
            tokenizer = load_tokenizer(name, self.trust_remote_code)
        except OSError as error:
            raise ValueError(f"no tokenizer at {name}, for {file}: set --tokenizer to a folder or hub name") from error
        anchor = tokenizer.encode("a", add_special_tokens=False)  # without a token before it, some decoders drop a token's blank
        start = len(tokenizer.decode(anchor))
        return lambda tokens: str(tokenizer.decode([*anchor, *tokens], clean_up_tokenization_spaces=False))[start:]


def pack(file: Path, decoder: Callable[[], Decode], level: int = 6) -> bytes:
    """One step, gzipped: the length of a header in 4 bytes (little-endian), the header as JSON, the per-token arrays.

    The header has `arrays` ([name, type, entries] in their order; every array starts at a multiple of 4 bytes after the header),
    `tokens` (distinct texts, into which the array `tokens` points), `prompts` (likewise) and `rows`, one list per column. Row
    column `steps` is the truth of a running sum's response, [token index, 0 right, 1 slip or 2 repaired slip] for each result,
    and null for other tasks; `reveal` the token index of the stated total. Of per-token numbers that were not logged there is no
    array; a response without them has NaN.

    Args:
        file: of the rollout log.
        decoder: makes the function that gives tokens' text; called only where a token is not one character of the response.
        level: of gzip.

    Raises:
        ValueError: the file is no rollout log.
    """
    try:
        table = pq.read_table(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} is not a Parquet file: {error}") from error
    if missing := NEEDED - set(table.column_names):
        raise ValueError(f"{file} is not a rollout log: it has no {', '.join(sorted(missing))}")
    table = table.take(pc.sort_indices(table, [("group", "ascending")]))
    rows = {name: table[name].to_pylist() for name in NEEDED - {"token_ids"}}
    lengths = np.array(rows["length"], dtype=np.int64)
    ids_R = pc.list_flatten(table["token_ids"]).to_numpy()
    distinct, index_R = np.unique(ids_R, return_inverse=True)
    texts = _characters(ids_R, lengths, rows["response"])
    truth = [sums_truth(*row) if texts else None for row in zip(rows["prompt"], rows["reference"], rows["response"], strict=True)]
    if texts:
        tokens = [texts[token] for token in distinct.tolist()]
    else:
        tokens, index_R = _decoded(distinct, index_R, lengths, decoder())
    prompts = {prompt: number for number, prompt in enumerate(dict.fromkeys(rows["prompt"]))}
    small = np.uint8 if len(tokens) <= 256 else np.uint16 if len(tokens) <= 65536 else np.uint32
    arrays = {"tokens": index_R.astype(small)} | {name: x_R.astype(np.float16) for name, x_R in _numbers(table, lengths).items()}
    del rows["response"]
    header = {
        "arrays": [[name, x_R.dtype.name, len(x_R)] for name, x_R in arrays.items()],
        "tokens": tokens,
        "prompts": list(prompts),
        "rows": rows
        | {
            "prompt": [prompts[prompt] for prompt in rows["prompt"]],
            "steps": [t and t[0] for t in truth],
            "reveal": [t and t[1] for t in truth],
            "actor_lambda": table["actor_lambda"].to_pylist() if "actor_lambda" in table.column_names else [None] * len(lengths),
        },
    }
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 4)
    parts = [len(encoded).to_bytes(4, "little"), encoded]
    for x_R in arrays.values():
        parts += [x_R.tobytes(), bytes(-x_R.nbytes % 4)]
    return gzip.compress(b"".join(parts), level, mtime=0)


def _numbers(table: pa.Table, lengths: Ints) -> dict[str, Floats]:
    """The per-token numbers that were logged, under the page's names. Differences are taken before they are rounded."""

    def flat(name: str) -> Floats | None:
        if name not in table.column_names:
            return None
        x_R = np.full(lengths.sum(), np.nan, dtype=np.float32)
        x_R[np.repeat(table[name].is_valid().to_numpy(), lengths)] = pc.list_flatten(table[name]).to_numpy()
        return x_R

    sampler, old, ratio = flat("sampler_logprobs"), flat("old_logprobs"), flat("ratios")
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        named = {
            "value": flat("values"),
            "advantage": flat("advantages"),
            "log_ratio": None if ratio is None else np.log(ratio),
            "entropy": flat("entropies"),
            "gap": None if old is None or sampler is None else old - sampler,
            "logprob": sampler,
        }
    return {name: np.clip(x_R, -65504, 65504) for name, x_R in named.items() if x_R is not None and not np.isnan(x_R).all()}


def _characters(ids_R: NDArray[Any], lengths: Ints, responses: Sequence[str]) -> dict[int, str] | None:
    """The text of each token id if a token is a character throughout, but for a last one without text; else None."""
    silent = lengths - [len(response) for response in responses]
    if ((silent < 0) | (silent > 1)).any():
        return None
    speaks = np.ones(len(ids_R), dtype=bool)
    speaks[lengths.cumsum()[silent == 1] - 1] = False
    codes = np.frombuffer("".join(responses).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    pairs = np.unique(np.stack([ids_R[speaks].astype(np.int64), codes.astype(np.int64)]), axis=1).T.tolist()
    texts = {token: chr(code) for token, code in pairs}
    return {int(token): END for token in np.unique(ids_R)} | texts if len(texts) == len(pairs) else None


def _decoded(distinct: NDArray[Any], index_R: NDArray[Any], lengths: Ints, decode: Decode) -> tuple[list[str], NDArray[Any]]:
    """The tokens' texts, and which of them is where. Where a character is written with several tokens, none of which is text of its
    own, the last of them gets the character and the others nothing."""
    texts = [decode([token]) for token in distinct.tolist()]
    broken = np.array([NO_TEXT in text for text in texts])
    joined: dict[str, int] = {}  # further texts, and their places after the others
    broken_R, response_R, index_R = broken[index_R], np.repeat(np.arange(len(lengths)), lengths), index_R.copy()
    done = 0
    for start in np.flatnonzero(broken_R).tolist():
        for end in range(start + 2, start + BYTES + 1) if start >= done else ():
            if end > len(index_R) or not broken_R[end - 1] or response_R[end - 1] != response_R[start]:
                break
            whole = decode(distinct[index_R[start:end]].tolist())
            if NO_TEXT not in whole:
                parts = [*[""] * (end - start - 1), whole]
                index_R[start:end] = [joined.setdefault(text, len(texts) + len(joined)) for text in parts]
                done = end
                break
    return [*texts, *joined], index_R


def sums_truth(prompt: str, reference: str, response: str) -> tuple[list[tuple[int, int]], int | None] | None:
    """[token index, kind] of each result in a running sum's response, and the stated total's index; None for other tasks."""
    problems = _PROBLEM.findall(prompt)
    if len(problems) != 1 or str(answer(problems[0])) != reference:
        return None
    steps = trace(problems[0], response)
    return [(step.result_index, 0 if step.right else 2 if step.repaired else 1) for step in steps], reveal_index(response)
