#!/usr/bin/env bash
# Makes the default model in the folder where it is called: the texts, a model from nothing (pretrained/), and what its last
# steps make of it (tuned/).
#
#     make.sh ALLOD tinystories.txt
#
# ALLOD is a release build. Stopped, the same command goes on.
set -euo pipefail
allod=$(realpath "$1") source=$(realpath "$2") here=$(dirname "$(realpath "$0")")

test -e wishes.jsonl || python3 "$here/stories.py" "$source" .
cp "$here/chat_template.jinja" "$here/tune.toml" .

pretrain=(--data stories.txt --eval held-out.txt --bos --init fan-in --lr 7e-3 --adam-lr 3e-3 --weight-decay 0.7
    --scheduler constant --steps 2600 --batch 4 --seed 1 --template chat_template.jinja)
test -e pretrained/manifest.json || "$allod" pretrain "${pretrain[@]}" -o pretrained --resume --save-every 50 --eval-every 300 \
    --name allod-stories \
    --meta "general.author=the Allod developers" \
    --meta general.version=2 \
    --meta "general.description=A very small story model: writes short English stories in the manner of TinyStories, from their first words or loosely, from a wish ('A story about a brave cat.'). It knows a small child's words and nothing of the world: it cannot answer questions, follow instructions, hold a conversation, use tools or write in other languages, and it loses its thread and contradicts itself. It is there so that a fresh offline machine has a model to try and test with." \
    --meta general.size_label=2.4M \
    --meta "general.license=MIT OR Apache-2.0" \
    --meta general.dataset.count=1 \
    --meta general.dataset.0.name=TinyStories \
    --meta "general.dataset.0.author=Ronen Eldan and Yuanzhi Li" \
    --meta "general.dataset.0.description=A 4 MB lower-cased sample of short stories written by GPT-3.5 and GPT-4, under CDLA-Sharing-1.0. Capitals were put back by rule, broken characters repaired, stories cut off in mid-sentence left out." \
    --meta general.dataset.0.url=https://arxiv.org/abs/2305.07759 \
    --meta general.dataset.0.repo_url=https://huggingface.co/datasets/roneneldan/TinyStories \
    --meta general.dataset.0.license=CDLA-Sharing-1.0 \
    --meta "general.dataset.0.sha256=$(sha256sum "$source" | cut -d ' ' -f 1)" \
    --meta 'general.tags=["text-generation","stories","tiny"]' \
    --meta 'general.languages=["en"]' \
    --meta general.sampling.temp=0.6 \
    --meta general.sampling.top_k=40 \
    --meta general.sampling.top_p=0.95 \
    --meta general.sampling.min_p=0.05 \
    --meta general.sampling.penalty_last_n=64 \
    --meta general.sampling.penalty_repeat=1.1 \
    --meta allod.training.script=scripts/default_model/make.sh \
    --meta "allod.training.pretrain=allod pretrain ${pretrain[*]}" \
    --meta "allod.training.tune=allod tune --config tune.toml"
"$allod" tune --config tune.toml --resume
