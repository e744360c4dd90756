"""Template, token ids and mask, token by token."""

from pathlib import Path

import pytest
from tests.completions import completion_of
from tests.runs import CONFIGS
from tests.tokenizers import CHATML, LLAMA, QWEN, make_tokenizer

from vapo.data.templates import Template
from vapo.micro_batches import micro_batches
from vapo.rollout.collate import collate
from vapo.types import Prompt, Rollout, Status, Verdict

TEMPLATES = sorted(Path(CONFIGS, "templates").iterdir())


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
    wanted = {"answer": '"Answer:', "boxed": "\\boxed{}", "gsm8k": '"####"', "plain": "PROBLEM", "few_shot": '"####"'}
    wanted["additions"] = "\nAnswer: 14\n"
    assert wanted[file.stem] in text


def test_what_is_wrong_with_a_template_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"has 0 places {problem}; it needs exactly one"):
        make(tmp_path, text="nothing")
    with pytest.raises(ValueError, match=r"set data.source.chat to false"):
        make(tmp_path, in_chat=True)
    with pytest.raises(FileNotFoundError, match=r"no prompt template nowhere.txt"):
        Template(make_tokenizer(), "nowhere.txt", chat=False)


# --- templates of turns ------------------------------------------------------------------------------------------------

FEW_SHOT = """\
- {role: system, content: Be brief.}
- {role: user, content: "Q: 1+1"}
- {role: assistant, content: "A: 2"}
- role: user
  content: |
    Q: {problem}
    A:
"""
OWN_SYSTEM = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are Qwen.<|im_end|>\n{% endif %}" + CHATML
STRIPS = CHATML.replace("{{ m['content'] }}", "{{ m['content'] | trim }}")
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
THINKING = CHATML + "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"


def make_turns(folder, text=FEW_SHOT, chat=CHATML, in_chat=True, options=None):
    file = folder / "turns.yaml"
    file.write_text(text)
    return Template(make_tokenizer(**{**QWEN, "chat": chat}), str(file), in_chat, options)


def test_turns_are_rendered_by_the_chat_format_and_the_problem_goes_into_the_last(tmp_path):
    assert make_turns(tmp_path).apply("3 {x}") == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQ: 1+1<|im_end|>\n<|im_start|>assistant\nA: 2<|im_end|>\n"
        "<|im_start|>user\nQ: 3 {x}\nA:<|im_end|>\n<|im_start|>assistant\n"
    )


def test_turns_without_a_chat_format_are_their_texts_with_a_blank_line_between(tmp_path):
    assert make_turns(tmp_path, chat=None, in_chat=False).apply("3+3") == "Be brief.\n\nQ: 1+1\n\nA: 2\n\nQ: 3+3\nA:"


def test_a_template_of_turns_is_recorded_whole_and_a_text_as_it_was(tmp_path):
    assert "Be brief." in make_turns(tmp_path).text and make(tmp_path, **QWEN).text == "Q: {problem}\nA:"


@pytest.mark.parametrize("text", ["- {role: user, content: '{problem}'}", None])
def test_a_system_prompt_of_the_chat_formats_own_is_not_silent(tmp_path, caplog, text):
    if text is None:
        make(tmp_path, text="{problem}", in_chat=True, **{**QWEN, "chat": OWN_SYSTEM})
    else:
        make_turns(tmp_path, text, OWN_SYSTEM)
    (record,) = caplog.records
    assert "'system\\nYou are Qwen.'" in record.message and "a YAML file with a system turn" in record.message
    caplog.clear()
    make_turns(tmp_path, FEW_SHOT, OWN_SYSTEM)
    assert caplog.records == []


@pytest.mark.parametrize("settings", [QWEN, LLAMA])
def test_a_chat_format_without_one_says_nothing(tmp_path, caplog, settings):
    make(tmp_path, in_chat=True, **settings)
    assert caplog.records == []


def test_what_the_chat_format_strips_is_said(tmp_path, caplog):
    make_turns(tmp_path, FEW_SHOT.replace("A: 2", " A: 2"), STRIPS)
    (record,) = caplog.records
    assert "changes or drops turn 3 of the template (assistant: ' A: 2' …)" in record.message


def test_roles_that_the_chat_format_refuses_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"refuses turns of system, user, assistant .*no system role.*change data.source.template"):
        make_turns(tmp_path, FEW_SHOT, NO_SYSTEM)


def test_options_of_the_chat_format(tmp_path):
    plain, off = (make_turns(tmp_path, chat=THINKING, options=options) for options in (None, {"enable_thinking": False}))
    assert off.apply("1") == plain.apply("1") + "<think></think>" and plain.text != off.text
    with pytest.raises(ValueError, match=r"chat_options has enable_thinkin, but this tokenizer's chat format does not read it"):
        make_turns(tmp_path, chat=CHATML, options={"enable_thinkin": False})
    with pytest.raises(ValueError, match=r"but data.source.chat is false"):
        make_turns(tmp_path, chat=THINKING, in_chat=False, options={"enable_thinking": False})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {role: user, content: x}", "has 0 places"),
        ("- {role: user, content: '{problem}'}\n- {role: assistant, content: x}", "turns of user, assistant; write system"),
        ("- {role: user, content: '{problem}'}\n- {role: user, content: '{problem}'}", "turns of user, user"),
        ("- {role: system, content: '{problem}'}\n- {role: user, content: x}", "exactly one, in its last turn"),
        ("- {role: user}", "not a list of turns"),
        ("role: user", "not a list of turns"),
        ("[", "not a list of turns"),
        ("", "not a list of turns"),
    ],
)
def test_what_is_wrong_with_turns_is_said(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        make_turns(tmp_path, text)


def test_no_prompts_have_no_ids(tmp_path):
    assert make(tmp_path, **QWEN).encode([]) == []
