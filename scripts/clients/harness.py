"""EleutherAI's lm-eval against a served model, and its scores against the model's own forward pass.

HellaSwag and LAMBADA run through /v1/completions with log-probabilities. Each continuation's log-probability is then
computed again from the logits that `allod logits` writes, without a server: they must agree to 1e-6 (relative to the
sum, which has rounded to f32 a token at a time). The data are local files, for the harness would download its own.

needs: lm-eval[api] 0.4.13, transformers (for the tokenizer), safetensors, numpy
usage: harness.py ALLOD MODEL_FOLDER EVAL_FOLDER [LIMIT]
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
import lm_eval
import numpy as np
from lm_eval.models.openai_completions import LocalCompletionsAPI
from lm_eval.tasks import TaskManager
from safetensors.numpy import load_file

TASKS = {
    # As the harness's own tasks of these names, but for where the data are.
    "local_hellaswag": {
        "file": "hellaswag_val_1000.jsonl",
        "output_type": "multiple_choice",
        "doc_to_text": "{{activity_label}}: {{ctx}}",
        "doc_to_target": "{{label}}",
        "doc_to_choice": "endings",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "local_lambada": {
        "file": "lambada_openai.jsonl",
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{' ' + continuation}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
}


class Recording(LocalCompletionsAPI):
    """Keeps what was asked, in ids, and what came back."""

    def _loglikelihood_tokens(self, requests, **kwargs):
        results = super()._loglikelihood_tokens(requests, **kwargs)
        self.asked = getattr(self, "asked", []) + [
            (context, continuation, score, greedy)
            for (_, context, continuation), (score, greedy) in zip(requests, results)
        ]
        return results


def write_tasks(folder, data):
    for name, task in TASKS.items():
        task = dict(task)
        path = str(data / task.pop("file"))
        task |= {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"validation": path}}}
        task |= {"validation_split": "validation", "metadata": {"version": 1}}
        (folder / f"{name}.yaml").write_text(json.dumps(task))


def own_scores(allod, model, asked, folder):
    """The same sums and greedy answers from the forward pass alone."""
    longest = max(len(context) + len(continuation) for context, continuation, _, _ in asked)
    for at in range(0, len(asked), 64):
        part = asked[at : at + 64]
        # What stands behind a text does not change what is before it.
        ids = [(c + d) + [0] * (longest - len(c) - len(d)) for c, d, _, _ in part]
        (folder / "ids.json").write_text(json.dumps(ids))
        out = folder / "logits.safetensors"
        subprocess.run([allod, "logits", model, "--ids", folder / "ids.json", "-o", out], check=True)
        for (context, continuation, _, _), logits in zip(part, load_file(out)["logits"]):
            rows = logits[len(context) - 1 : len(context) + len(continuation) - 1].astype(np.float64)
            highest = rows.max(axis=1, keepdims=True)
            logprobs = rows - highest - np.log(np.exp(rows - highest).sum(axis=1, keepdims=True))
            taken = logprobs[np.arange(len(continuation)), continuation]
            yield taken.sum(), bool((rows.argmax(axis=1) == continuation).all())


def main():
    allod, model, data = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]).resolve()
    limit = int(sys.argv[4]) if len(sys.argv) > 4 else 40
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_tasks(folder, data)
        command = [allod, "serve", f"model={model}", "--port", "0", "--data", folder / "data"]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            url = re.search(r"http://127\.0\.0\.1:\d+", server.stderr.readline())[0]
            lm = Recording(
                model="model", base_url=f"{url}/v1/completions", tokenizer=model, tokenizer_backend="huggingface", num_concurrent=4, max_length=512
            )
            tasks = TaskManager(include_path=str(folder), include_defaults=False)
            found = lm_eval.simple_evaluate(
                lm, tasks=list(TASKS), task_manager=tasks, limit=limit, bootstrap_iters=0, log_samples=False
            )
        finally:
            server.terminate()
            server.wait(timeout=60)
        for name, scores in found["results"].items():
            print(name, {k: v for k, v in scores.items() if "stderr" not in k and k != "alias"})
        worst, differ = 0.0, 0
        for (_, _, score, greedy), (own, own_greedy) in zip(lm.asked, own_scores(allod, model, lm.asked, folder)):
            worst = max(worst, abs(score - own) / max(1.0, abs(own)))
            differ += greedy != own_greedy
        print(f"{len(lm.asked)} continuations: largest relative difference {worst:.2e}, greedy differs in {differ}")
        assert lm.asked and worst <= 1e-6 and differ == 0


if __name__ == "__main__":
    main()
