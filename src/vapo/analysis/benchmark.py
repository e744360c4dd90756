"""Scores saved samples: avg@k, pass@k and maj@k with intervals over problems, and a table of the problems."""

import pandas as pd

from vapo.algorithms import avg_at_k, bootstrap_interval, maj_at_k, pass_at_k
from vapo.types import Rollout, Status


def samples_frame(rollouts: list[Rollout], first_problem: int, k: int) -> pd.DataFrame:
    """A row per sample, problem after problem: problem, sample, prompt, reference, status, answer, length (tokens, EOS included),
    finished (False: cut at the length limit), token_ids, logprobs (of the sampler)."""
    return pd.DataFrame(
        [
            {
                "problem": first_problem + i // k,
                "sample": i % k,
                "prompt": rollout.prompt.text,
                "reference": rollout.prompt.reference,
                "status": rollout.verdict.status.value,
                "answer": rollout.verdict.answer,
                "length": len(rollout.completion.token_ids),
                "finished": rollout.completion.finished,
                "token_ids": rollout.completion.token_ids,
                "logprobs": rollout.completion.logprobs,
            }
            for i, rollout in enumerate(rollouts)
        ]
    )


def problem_table(samples: pd.DataFrame) -> pd.DataFrame:
    """A row per problem: reference, samples, correct (how many), maj (score of the majority's answer), majority (that answer),
    length_mean, finished (share)."""
    rows = []
    for problem, group in samples.groupby("problem", sort=True):
        answers = [answer if isinstance(answer, str) else None for answer in group["answer"]]
        correct = (group["status"] == Status.CORRECT).tolist()
        votes = pd.Series([answer for answer in answers if answer is not None], dtype=object).mode()
        rows.append(
            {
                "problem": problem,
                "reference": group["reference"].iloc[0],
                "samples": len(group),
                "correct": sum(correct),
                "maj": maj_at_k(answers, correct),
                "majority": " or ".join(votes),
                "length_mean": group["length"].mean(),
                "finished": group["finished"].mean(),
            }
        )
    return pd.DataFrame(rows)


def summarize(samples: pd.DataFrame, k: int) -> dict[str, float]:
    """avg@k, pass@1, 2, 4, ... and k, maj@k, each with `_low95` and `_high95`; shares of statuses; mean length in tokens."""
    problems = problem_table(samples)
    per_problem = {f"avg@{k}": (problems["correct"] / problems["samples"]).tolist()}
    for tries in sorted({2**i for i in range(k.bit_length()) if 2**i <= k} | {k}):
        per_problem[f"pass@{tries}"] = [pass_at_k(k, correct, tries) for correct in problems["correct"]]
    per_problem[f"maj@{k}"] = problems["maj"].tolist()
    summary: dict[str, float] = {}
    for name, scores in per_problem.items():
        scores_P1 = [[score] for score in scores]
        summary[name] = avg_at_k(scores_P1)
        summary[f"{name}_low95"], summary[f"{name}_high95"] = bootstrap_interval(scores_P1)
    for status in Status:
        summary[f"{status}_fraction"] = float((samples["status"] == status).mean())
    summary["length_mean"] = float(samples["length"].mean())
    summary["truncated_fraction"] = float((~samples["finished"]).mean())
    return summary
