"""Rollout logs written by hand: a running sum, and a made-up task whose tokens are words."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

CODES = {character: 10 + i for i, character in enumerate("0123456789+-=;?A|:()")}
EOS = 1
SUM = "7-3+5+9:"  # 7-3=4, 4+5=9, 9+9=8


def row(
    response: str, status: str = "correct", group: int = 0, prompt: str = SUM, finished: bool = True, **columns: Any
) -> dict[str, Any]:
    """One logged response to a running sum; a token a character. V falls by 1 after the first `?`."""
    ids = [CODES[character] for character in response] + [EOS] * finished
    slip = response.find("?") if "?" in response else len(ids)
    fault = status in ("timeout", "error")
    values = [0.25 if i <= slip else -0.75 for i in range(len(ids))]
    return {
        "rl_step": 1,
        "group": group,
        "prompt": prompt,
        "response": response,
        "reference": "8",
        "answer": response[-1] if status in ("correct", "wrong") else None,
        "status": status,
        "reward": None if fault else 1.0 if status == "correct" else -1.0,
        "length": len(ids),
        "finished": finished,
        "actor_lambda": None if fault else 0.9,
        "token_ids": ids,
        "sampler_logprobs": [-0.5] * len(ids),
        "values": None if fault else values,
        "advantages": None if fault else [0.5 if status == "correct" else -0.5] * len(ids),
    } | columns


ROWS = [
    row("7-3=4;4+5=9;9+9=8;A8"),
    row("7-3=4;4+5=?9;9+9=?;A9", "wrong"),  # the first slip is repaired, the second is not
    row("A8"),
    row("7-3=4;4+5", "no_answer", finished=False),
    row("AA", "no_answer", group=1, prompt="1+7:"),
    row("A8", "timeout", group=1, prompt="1+7:"),
    row("1+7=?;A1", "wrong", group=1, prompt="1+7:"),
]


def write(folder: Path, rows: list[dict[str, Any]], step: int = 1) -> Path:
    """`folder`, a run's, with one more step in it."""
    (folder / "rollouts").mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(folder / "rollouts" / f"step_{step:06d}.parquet", index=False)
    return folder


def words(folder: Path, texts: list[str], length: int, status: str = "wrong") -> dict[str, Any]:
    """A response of `length` tokens that repeats `texts`; the run in `folder` gets a tokenizer that knows them."""
    tokenizer = Tokenizer(models.WordLevel({text: i for i, text in enumerate(texts)}, texts[0]))
    # as in SentencePiece: ▁ is a blank, and the first one of a text is dropped; <0xE2> is a byte
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    model = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    model.save_pretrained(folder / "model")
    (folder / "model" / "config.json").write_text('{"model_type": "mistral"}')
    (folder / "resolved.yaml").write_text(f"model:\n  path: {folder}/model\n")
    ids = [i % len(texts) for i in range(length)]
    made = row("A8", status, prompt="What is it?") | {
        "response": " ".join(texts[i] for i in ids),
        "length": length,
        "token_ids": ids,
    }
    wave = np.sin(np.arange(length) / 50).astype(np.float32)
    return made | {"values": wave, "advantages": wave, "sampler_logprobs": -np.abs(wave)}


def unpack(packed: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and arrays of a packed step, as the page reads them."""
    data = gzip.decompress(packed)
    offset = 4 + int.from_bytes(data[:4], "little")
    header, arrays = json.loads(data[4:offset]), {}
    for name, kind, entries in header["arrays"]:
        assert offset % 4 == 0
        arrays[name] = np.frombuffer(data, kind, entries, offset)
        offset += -(-arrays[name].nbytes // 4) * 4
    assert offset == len(data)
    return header, arrays
