#!/bin/bash
# The studies of docs/results.md and docs/first_study.md, in pieces that resume where they were stopped: bash benchmarks/study.sh PIECE
#   safe, baselines, real                      the default runs
#   table                                      all arms in one setting that has the difficulties at once
#   when_value_pretraining, when_length_adaptive, when_clip_higher, when_group_sampling, when_chain_length,
#   when_unsolvable, when_success_is_rare, when_guesses
#                                              a technique with and without it, at four values of what it is for (when_unsolvable: one)
#   when_whole_groups                          minibatches of whole groups, at three sizes
#   main, added, fresh, extra                  the first study
# A run that fails stops no other; the script then ends with an error, after its report, which is in the sweep's folder or in OUT.
# What docs/results/ keeps is joined from several sessions: report.py docs/results/X/curves.csv FOLDER --out docs/results/X.
set -uo pipefail
piece=${1:?say which piece: the first lines of this script list them}
folder=logs/train/multiruns/study_$piece
python=${PYTHON:-.venv/bin/python}
failed=0
export OMP_NUM_THREADS=1

# Two runs at a time (JOBS=1: one), a thread each. Value pretraining is the same in most arms that have it, so a seed pays for it once.
run() {
  $python src/train.py -m "$@" threads=1 module.overlap=false hydra/launcher=joblib hydra.launcher.n_jobs="${JOBS:-2}" \
    hydra.sweep.dir="$folder" || failed=1
}
# The first study's problems, length and rate (59ee5a5); the mini scale has changed since. $PWD: a job runs in its own folder.
train() {
  run data.source.max_operands=28 module.policy_steps=12 module.actor_schedule.decay_share=0 module.actor_optimizer.lr=1e-4 \
    callbacks.aime_evaluation.every_n_steps=3 "callbacks.value_pretraining.critic_file=$PWD/$folder/${critic_file:-critic}_\${seed}.pt" "$@"
}

# Ablations at four values of one setting, the dose: when DOSE=VALUES ABLATIONS SETTINGS...
# The dose varies fastest, so that an arm finds the critic that VAPO has pretrained.
when() {
  dose=${1%%=*}
  run experiment=vapo_full seed=$seeds "${@:3}" "ablation=$2" "$1" "callbacks.value_pretraining.critic_file=$PWD/$folder/critic_\${seed}_\${$dose}.pt"
}

# A base model is made in stages; one that is done is not made again: stage FOLDER STEPS PEAK_RATE CURRICULUM SETTINGS...
stage() {
  [ -e "$1/record.json" ] && return
  $python src/pretrain.py out="$1" base.steps="$2" base.learning_rate="$3" base.curriculum="$4" reward_model.rollouts=0 "${@:5}" || exit 1
}
# The base model of chains of 6 to 40 operands: steps first, of mini's solver; then the solver of scale=chains (docs/log.md, entry 85).
# From it other rates are learned in 500 steps.
chains=$PWD/logs/models/chains
other_rates="scale=chains model.recipe.base.start=$chains/base model.recipe.base.steps=500 model.recipe.base.curriculum=0.01 \
  model.recipe.base.learning_rate=1.5e-3"
short='model.recipe.solver.direct_share=0 data.source.max_operands=12 module.policy_steps=16 callbacks.aime_evaluation.every_n_steps=8
  callbacks.credit_assignment.every_n_steps=16'
make_chains() {
  [ -e "$chains/record.json" ] && return
  local task='data.source.hard_operations=4 data.source.min_operands=6'
  stage "$chains/1" 3000 3e-3 0.5 $task data.source.max_operands=48
  stage "$chains/2" 700 1.5e-3 0.01 $task data.source.max_operands=48 base.margin=8 base.start="$chains/1/base"
  stage "$chains" 1000 2e-3 0.7 $task data.source.max_operands=44 base.start="$chains/2/base" \
    solver.gives_up=true solver.direct_share=0.1 solver.repair_rate=0 solver.slip_rate=0.4
}
# The base model of scale=composed: a solver of late slips; one that gives up; then the stated total at its place; then the rates.
composed=$PWD/logs/models/composed
make_composed() {
  [ -e "$composed/record.json" ] && return
  local task='data=sums_reveal data.source.min_operands=24 data.source.max_operands=24 solver.gives_up=true'
  stage "$composed/1" 2600 3e-3 0.5 data=sums_reveal data.source.reveal=12 solver.slip_rate=0.5
  local half='solver.slip_rate=0.5 solver.direct_share=0.1'
  stage "$composed/2" 1200 2e-3 0.7 $task data.source.reveal=12 $half base.start="$composed/1/base"
  stage "$composed/3" 500 1.5e-3 0.3 $task data.source.reveal=4 $half base.start="$composed/2/base"
  stage "$composed" 500 1.5e-3 0.01 $task data.source.reveal=4 solver.slip_rate=0.4 solver.direct_share=0.3 base.start="$composed/3/base"
}

seeds=${SEEDS:-600,601,602,603,604} # SEEDS=600: fewer of them first
rarely='callbacks.aime_evaluation.every_n_steps=10 callbacks.credit_assignment.every_n_steps=20'
critic='no_value_pretraining,no_decoupled_gae,no_length_adaptive_gae'
policy='no_clip_higher,no_token_level_loss,no_positive_example_lm_loss,no_group_sampling'

case $piece in
  safe) # the default run, whole: 20 seeds on each instruction set that torch knows here
    for instructions in default avx2 avx512; do
      ATEN_CPU_CAPABILITY=$instructions run experiment=vapo_full "seed=range(300,320)" +instructions=$instructions # a name, read by no one
    done
    ;;
  baselines) # the default run and the four baselines; README's figure
    run experiment=vapo_full,ppo_vanilla,grpo,dapo,vc_ppo seed=400,401,402,403,404 \
      "callbacks.value_pretraining.critic_file=$PWD/$folder/critic_\${seed}.pt"
    ;;
  when_value_pretraining) # 3 RL steps of it are 48 updates, the paper's 50 read literally
    dose=algorithm.value_pretraining_steps
    $python -m benchmarks.shifted_head logs/models/shifted_reward -1 || exit 1
    run experiment=vapo_full seed=$seeds model=mini,mini_fresh_critic,mini_shifted_critic $dose=0,1,3,8 $rarely
    ;;
  when_length_adaptive) # operations from the last hard one to where a slip shows, 6 tokens each; without it lambda is 0.95, 0.99 or 1
    when data.source.reveal=1,4,8,12 none,no_length_adaptive_gae scale=late
    when data.source.reveal=1,4,8,12 no_length_adaptive_gae scale=late algorithm.actor_lambda=0.99,1
    ;;
  when_clip_higher) # 4, 16, 64 and 256 updates a step, in value pretraining too; base accuracy 0.04
    make_chains
    when module.minibatch_rollouts=64,16,4,1 none,no_clip_higher $other_rates model.recipe.solver.slip_rate=0.7 $short
    ;;
  when_group_sampling) # different problems in training; with 16 a step of either arm has them all, 16 times
    when data.source.problems=16,64,256,1024 none,no_group_sampling $rarely
    ;;
  when_unsolvable) # share of 256 problems that no response answers rightly, and no prompt says which
    when data.source.unsolvable=0.5 none,no_group_sampling data.source.problems=256 $rarely
    ;;
  when_success_is_rare) # base accuracy 0.34, 0.13, 0.04 and 0.02
    make_chains
    when model.recipe.solver.slip_rate=0.3,0.5,0.7,0.8 none,no_positive_example_lm_loss,no_clip_higher $other_rates $short
    ;;
  when_whole_groups) # 2, 4 and 8 updates a step: whole groups leave 8, 4 and 2 of its 16 prompts in each
    dose=module.minibatch_rollouts
    run experiment=vapo_full seed=$seeds $dose=128,64,32 $rarely
    run experiment=vapo_full seed=$seeds module.keep_groups=true $dose=128,64,32 $rarely
    ;;
  when_guesses) # share of solutions of 3 tokens in the base policy; the others have 140
    make_chains
    when model.recipe.solver.direct_share=0,0.3,0.6,0.9 none,no_token_level_loss $other_rates
    ;;
  when_chain_length) # decoupled GAE (pretraining with Monte-Carlo returns, with lambda 0.95, 0.95 everywhere), adaptive lambda, DAPO
    make_chains
    dose=data.source.max_operands
    task="scale=chains model.folder=$chains rollout.sampling.max_new_tokens=320"
    when $dose=6,12,24,40 none,no_decoupled_gae,no_length_adaptive_gae $task
    shared="run experiment=vapo_full seed=$seeds ablation=no_decoupled_gae algorithm.pretraining_lambda=0.95 $task $dose=6,12,24,40"
    $shared
    $shared algorithm.length_adaptive_alpha=null # 0.95 everywhere
    run experiment=dapo seed=$seeds $task $dose=6,12,24,40
    ;;
  table) # a seed after the other; the last arm has one lambda of 0.85 everywhere, in value pretraining too, so no length-adaptive GAE
    make_composed
    for seed in $(tr , ' ' <<<"${SEEDS:-710,711,712,713,714}"); do
      task="scale=composed seed=$seed"
      shared="callbacks.value_pretraining.critic_file=$PWD/$folder/critic_$seed.pt" # so that an arm finds the critic that VAPO has pretrained
      run experiment=vapo_full $task "ablation=none,$critic,$policy" "$shared"
      run $task experiment=ppo_vanilla,vc_ppo "$shared"
      run $task experiment=grpo,dapo
      run experiment=vapo_full $task ablation=no_decoupled_gae algorithm.pretraining_lambda=0.85 algorithm.length_adaptive_alpha=null
    done
    ;;
  real) # a pretrained model (docs/real.md): a run of VAPO takes an hour where a core multiplies in bfloat16
    $python -m benchmarks.smollm2 logs/models/smollm2_135m &&
      run experiment=vapo_full,ppo_vanilla,grpo scale=small_cpu seed="${SEEDS:-0,1,2}" trainer.precision="${PRECISION:-bf16-mixed}" \
        model.path="$PWD/logs/models/smollm2_135m" || failed=1
    ;;
  main)
    train experiment=vapo_full seed=10,11,12,13,14
    train experiment=ppo_vanilla seed=10,11,12,13,14
    train experiment=vapo_full ablation=$critic seed=10,11,12,13,14
    train experiment=vapo_full ablation=$policy seed=10,11,12
    train experiment=vc_ppo,grpo,dapo seed=10,11,12
    ;;
  added)
    mkdir -p "$folder"
    cp -n logs/train/multiruns/study_main/critic_1[012].pt "$folder"
    train experiment=vc_ppo algorithm.loss_aggregation=token seed=10,11,12
    train experiment=vc_ppo algorithm.positive_lm_coef=0.1 seed=10,11,12
    train experiment=vc_ppo algorithm.length_adaptive_alpha=0.4 seed=10,11,12
    train experiment=vc_ppo algorithm.group_size=16 seed=10,11,12
    train experiment=vapo_full ablation=no_value_pretraining algorithm.length_adaptive_alpha=null seed=10,11,12
    train experiment=ppo_vanilla algorithm.loss_aggregation=token seed=10,11,12
    ;;
  fresh)
    train model=mini_fresh_critic experiment=vapo_full,ppo_vanilla,vc_ppo seed=10,11,12
    train model=mini_fresh_critic experiment=vapo_full ablation=$critic,$policy seed=10,11,12
    ;;
  extra)
    mkdir -p "$folder" # what the others are compared with, from the main piece
    cp -rn logs/train/multiruns/study_main/data*experiment=vapo_full*seed=1[012] "$folder"
    train experiment=vapo_full scale_overrides.length_adaptive_alpha=0.05,0.1,0.2,0.8 seed=10,11,12
    train experiment=vapo_full algorithm.whiten_advantages=false seed=10,11,12
    train experiment=vapo_full algorithm.length_adaptive_alpha=null algorithm.critic_lambda=0.95 seed=10,11,12
    train experiment=vapo_full algorithm.length_adaptive_alpha=null algorithm.actor_lambda=1 algorithm.critic_lambda=1 seed=10,11,12
    critic_file=critic_overlong train experiment=vapo_full algorithm.overlong_buffer=20 seed=10,11,12
    train experiment=ppo_vanilla,grpo,dapo module.policy_steps=20 seed=10,11,12
    train experiment=vapo_full ablation=no_value_pretraining module.policy_steps=20 seed=10,11,12
    ;;
  *) echo "no piece $piece: the first lines of this script list them" >&2; exit 1 ;;
esac
$python src/report.py "$folder" --out "${OUT:-$folder/report}" ${dose:+--dose "$dose"} || failed=1
exit $failed
