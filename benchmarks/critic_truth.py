"""Critic against truth: python benchmarks/critic_truth.py <run folder> [--checkpoint step_000005.ckpt] [--out truth.csv]

Samples rollouts of the checkpoint's policy, continues each 64 times from several places, and compares the critic's value there
with the mean reward of the continuations, by place in the response. Right after value pretraining: --checkpoint base
--critic-file <the sweep's critic file>.
"""

import argparse
from pathlib import Path

import torch
from hydra.utils import instantiate
from lightning import Trainer

from vapo.analysis.critic_truth import by_place, critic_against_truth
from vapo.run.record import RESOLVED, load_config
from vapo.run.resolvers import register
from vapo.run.training import quiet_libraries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--checkpoint", default="last.ckpt", help="of the run; base is the initial networks")
    parser.add_argument("--critic-file", type=Path, help="takes the critic from here instead: one that value pretraining saved")
    parser.add_argument("--rollouts", type=int, default=60)
    parser.add_argument("--positions", type=int, default=5, help="prefixes per rollout")
    parser.add_argument("--continuations", type=int, default=64, help="per prefix")
    parser.add_argument("--out", type=Path, help="CSV with a row per prefix; default: critic_truth.csv in the run folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    register()
    quiet_libraries()
    config = load_config(arguments.run / RESOLVED)
    module, datamodule = instantiate(config.module), instantiate(config.data)
    module.trainer = Trainer(accelerator="cpu", logger=False)
    module.trainer.datamodule = datamodule
    module.configure_model()
    if arguments.checkpoint != "base":
        state = torch.load(arguments.run / "checkpoints" / arguments.checkpoint, map_location="cpu", weights_only=True)
        module.load_state_dict(state["state_dict"])
    if arguments.critic_file is not None:
        module.critic.load_state_dict(torch.load(arguments.critic_file, map_location="cpu", weights_only=True)["critic"])
    module.sampler.engine.load_weights(module.actor, 0)
    prompts = datamodule.held_out(arguments.rollouts)
    rollouts = module.sampler.sample(prompts, 1, module.sampling, 77, 0)
    frame = critic_against_truth(module, rollouts, datamodule.verifier, arguments.positions, arguments.continuations, 78)
    frame.to_csv(arguments.out or arguments.run / "critic_truth.csv", index=False, float_format="%.4g")
    print(by_place(frame).round(3).to_string())
    print(f"correlation of value and truth over {len(frame)} prefixes: {frame['value'].corr(frame['truth']):.3f}")


if __name__ == "__main__":
    main()
