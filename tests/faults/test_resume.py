"""A resume that fails changes nothing on disk; a folder has one writer; a resumed run reads the data that it was trained on."""

import multiprocessing
from pathlib import Path

import pytest
from tests.runs import metrics, resume, run

from vapo.run.launching import locked

FAST = ("module.policy_steps=1", "callbacks.aime_evaluation=null", "callbacks.export_hf=null")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run(folder, *FAST)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.lora.rank=2", r"other networks .*base_layer.weight is missing in the checkpoint and \[\d+, \d+\] here"),
        ("model.path={other}", r"actor\.language_model\.\S+ is \[\d+, \d+\] in the checkpoint and \[\d+, \d+\] here"),
        ("data.rollouts_per_step=12", "minibatch_rollouts"),
        ("module.keep_groups=true module.minibatch_rollouts=2", "minibatch_rollouts is 2 and cuts groups of 4"),
        ("module.policy_steps=many", "policy_steps is many"),
    ],
)
def test_a_resume_that_fails_changes_nothing_on_disk(change: str, message: str, finished: Path, other: Path) -> None:
    before = content(finished)
    with pytest.raises(ValueError, match=message):
        resume(finished, "module.policy_steps=2", *change.format(other=other).split())
    assert content(finished) == before
    resume(finished)  # as it was: nothing is left to do
    assert metrics(finished)["rl_step"].max() == 2


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mini model with half the feed-forward width."""
    from tests.runs import config_for
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("other")
    base = config_for(folder).model.path
    config = AutoConfig.from_pretrained(base)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    config.intermediate_size //= 2
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def hold(folder: Path, held: "multiprocessing.synchronize.Event", over: "multiprocessing.synchronize.Event") -> None:
    with locked(folder):
        held.set()
        over.wait(600)


def test_the_second_of_two_launches_in_one_folder_refuses_and_touches_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, over = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(tmp_path, held, over))
    holder.start()
    try:
        assert held.wait(600)
        with pytest.raises(ValueError, match=rf"another process is writing to {tmp_path}: wait .* hydra.run.dir"):
            run(tmp_path, *FAST)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    finally:
        over.set()
        holder.join()
    run(tmp_path, *FAST)  # the lock went with its holder
    with pytest.raises(ValueError, match="holds a run already"):
        run(tmp_path, *FAST)
