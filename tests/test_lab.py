"""scale=lab: made and trained by the same two scripts, here with a tiny model."""

from hydra import compose, initialize_config_dir
from tests.runs import CONFIGS, config_for, metrics

from vapo.run.pretrain import pretrain
from vapo.run.resolvers import register
from vapo.run.training import train


def test_lab_pretrains_and_trains_on_a_cpu(tmp_path):
    register()
    models = tmp_path / "lab"
    small = ["model.hidden=24", "model.layers=1", "model.heads=2", "base.steps=2", "base.batch_tokens=3000", "device=cpu"]
    small += ["reward_model.rollouts=4", "reward_model.epochs=1", "reward_model.max_new_tokens=32"]
    with initialize_config_dir(config_dir=CONFIGS, version_base="1.3"):
        pretrain(compose("pretrain_lab", [*small, f"out={models}", f"paths.output_dir={tmp_path}"]))
    overrides = ["experiment=vapo_full", "scale=lab", "debug=fast", "trainer=cpu", "threads=1", f"model.path={models}/base"]
    overrides += [f"model.critic.path={models}/reward", "data.source.min_operands=30", "data.source.max_operands=150"]
    overrides += ["callbacks.aime_evaluation.k=1", "rollout.sampling.max_new_tokens=48", "module.policy_steps=1"]
    train(config_for(tmp_path / "run", *overrides))
    assert metrics(tmp_path / "run")["rl_step"].tolist() == [0, 1, 2]


def test_lab_uses_the_papers_alpha_and_mini_does_not(tmp_path):
    lab, mini = (config_for(tmp_path, "experiment=vapo_full", f"scale={scale}").algorithm for scale in ("lab", "mini"))
    assert lab.length_adaptive_alpha == 0.05 and mini.length_adaptive_alpha != 0.05
