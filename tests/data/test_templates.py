"""Template, token ids and mask, token by token."""

from pathlib import Path

import pytest
from tests.completions import completion_of
from tests.runs import CONFIGS
from tests.tokenizers import LLAMA, QWEN, make_tokenizer

from vapo.data.templates import Template
from vapo.micro_batches import micro_batches
from vapo.rollout.collate import collate
from vapo.types import Prompt, Rollout, Status, Verdict

TEMPLATES = sorted(Path(CONFIGS, "templates").glob("*.txt"))


def make(folder, text="Q: {problem}\nA:\n", in_chat=False, **tokenizer):
    file = folder / "template.txt"
    file.write_text(text)
    return Template(make_tokenizer(**tokenizer), str(file), in_chat)


def pieces(template, problem):
    (ids,) = template.encode([template.apply(problem)])
    return template.tokenizer.convert_ids_to_tokens(list(ids))


def test_plain_text_without_bos(tmp_path):
    assert pieces(make(tmp_path, **QWEN), "1+1") == list("Q: 1+1\nA:")


def test_plain_text_gets_the_bos_of_a_model_that_has_one(tmp_path):
    assert pieces(make(tmp_path, **LLAMA), "1+1") == ["<s>", *"Q: 1+1\nA:"]


def test_a_users_turn_in_chat_format(tmp_path):
    expected = ["<|im_start|>", *"user\nQ: 1+1\nA:", "<|im_end|>", "\n", "<|im_start|>", *"assistant\n"]
    assert pieces(make(tmp_path, in_chat=True, **QWEN), "1+1") == expected


def test_a_chat_format_that_writes_the_bos_keeps_one(tmp_path):
    assert pieces(make(tmp_path, in_chat=True, **LLAMA), "x") == ["<s>", *"[Q: x\nA:]"]


def test_braces_and_markup_of_a_problem_stay_as_they_are(tmp_path):
    template = make(tmp_path, **QWEN)
    assert template.apply(r"\frac{1}{2} {problem} %s {0}") == "Q: \\frac{1}{2} {problem} %s {0}\nA:"


def test_ids_and_mask_of_a_rollout_token_by_token(tmp_path):
    """<s> Q : 7 | o k </s>: the response starts after the prompt's last token and includes the EOS, pad being the same token."""
    template = make(tmp_path, text="Q:{problem}", **LLAMA)
    tokenizer = template.tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    text = template.apply("7")
    (prompt_ids,) = template.encode([text])
    response = (*(tokenizer.convert_tokens_to_ids(c) for c in "ok"), tokenizer.eos_token_id)
    rollouts = [
        Rollout(Prompt(0, text, "7", prompt_ids), 0, completion_of(ids, -1.0), Verdict(Status.WRONG))
        for ids in (response, response[1:])
    ]
    batch = collate(rollouts)
    assert tokenizer.convert_ids_to_tokens(batch.token_N.tolist()) == [
        *("<s>", *"Q:7", *"ok", "</s>"),
        *("<s>", *"Q:7", "k", "</s>"),
    ]
    assert batch.prompt_length_B.tolist() == [4, 4] and batch.response_length_B.tolist() == [3, 2]
    (micro,) = micro_batches(batch, 1000)
    assert micro.predicts_BL.tolist() == [[False] * 3 + [True] * 3 + [False], [False] * 3 + [True] * 2 + [False] * 2]
    assert tokenizer.convert_ids_to_tokens(micro.next_token_R.tolist()) == ["o", "k", "</s>", "k", "</s>"]


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda path: path.stem)
def test_the_templates_of_the_project_have_one_place_and_ask_for_what_the_verifier_reads(file):
    text = Template(make_tokenizer(), str(file), chat=False).apply("PROBLEM")
    assert text.count("PROBLEM") == 1 and not text.endswith("\n")
    wanted = {"answer": '"Answer:', "boxed": "\\boxed{}", "gsm8k": '"####"', "plain": "PROBLEM"}
    assert wanted[file.stem] in text


def test_what_is_wrong_with_a_template_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"has 0 places {problem}; it needs exactly one"):
        make(tmp_path, text="nothing")
    with pytest.raises(ValueError, match=r"set data.source.chat to false"):
        make(tmp_path, in_chat=True)
    with pytest.raises(FileNotFoundError, match=r"no prompt template nowhere.txt"):
        Template(make_tokenizer(), "nowhere.txt", chat=False)
