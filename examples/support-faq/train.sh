#!/bin/sh
# Train on the bundled example, as `make train` does.
#   train.sh BIN
# Every setting can be overridden from the environment.
set -eu
bin=$1
here=$(dirname "$0")

export MNRL_TRAIN_DATA="${MNRL_TRAIN_DATA-tickets=$here/train.jsonl,glossary=$here/glossary.tsv}"
export MNRL_EVAL_DATA="${MNRL_EVAL_DATA-support-faq=$here/eval}"
export MNRL_BASE_MODEL="${MNRL_BASE_MODEL-$("$here/../../scripts/base-model" "$bin")}"
export MNRL_OUTPUT="${MNRL_OUTPUT-runs}"
export MNRL_EPOCHS="${MNRL_EPOCHS-6}"
export MNRL_BATCH_SIZE="${MNRL_BATCH_SIZE-64}"
exec "$bin/mnrl-job" train
