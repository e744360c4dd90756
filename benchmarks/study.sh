#!/bin/bash
# The study of docs/results.md, in pieces that go on where they were stopped: bash benchmarks/study.sh main|fresh|extra
set -euo pipefail
piece=${1:?say which piece: main, fresh or extra}
folder=logs/train/multiruns/study_$piece
python=.venv/bin/python
export OMP_NUM_THREADS=1

# Two runs at a time, a thread each. Value pretraining is the same in every arm that has it, so a seed pays for it once.
train() {
  $python src/train.py -m "$@" threads=1 hydra/launcher=joblib hydra.launcher.n_jobs=2 hydra.sweep.dir="$folder" \
    "callbacks.value_pretraining.critic_file=$PWD/$folder/critic_\${seed}.pt"
}

critic='no_value_pretraining,no_decoupled_gae,no_length_adaptive_gae'
policy='no_clip_higher,no_token_level_loss,no_positive_example_lm_loss,no_group_sampling'

case $piece in
  main)
    train experiment=vapo_full seed=10,11,12,13,14
    train experiment=ppo_vanilla seed=10,11,12,13,14
    train experiment=vapo_full ablation=$critic seed=10,11,12,13,14
    train experiment=vapo_full ablation=$policy seed=10,11,12
    train experiment=vc_ppo,grpo,dapo seed=10,11,12
    ;;
  fresh)
    train model=mini_fresh_critic experiment=vapo_full,ppo_vanilla,vc_ppo seed=10,11,12
    train model=mini_fresh_critic experiment=vapo_full ablation=$critic,$policy seed=10,11,12
    ;;
  extra)
    train experiment=vapo_full at_scale.length_adaptive_alpha=0.05,0.1,0.2,0.8 seed=10,11,12
    train experiment=vapo_full algorithm.whiten_advantages=false seed=10,11,12
    train experiment=vapo_full algorithm.length_adaptive_alpha=null algorithm.critic_lambda=0.95 seed=10,11,12
    train experiment=vapo_full algorithm.length_adaptive_alpha=null algorithm.actor_lambda=1 algorithm.critic_lambda=1 seed=10,11,12
    train experiment=vapo_full algorithm.overlong_buffer=20 seed=10,11,12
    train experiment=ppo_vanilla,grpo,dapo module.policy_steps=20 seed=10,11,12
    ;;
  *) echo "no piece $piece: main, fresh or extra" >&2; exit 1 ;;
esac
$python src/report.py "$folder" --out docs/results/"$piece"
