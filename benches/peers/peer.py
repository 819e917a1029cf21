#!/usr/bin/env python3
"""llama-cpp-python measured as llama-bench measures: takes its flags, prints its JSON. compare.py calls it.

    pip install llama-cpp-python    # 0.3.36 was used; builds llama.cpp for this machine
    python peer.py -m model.gguf -p 512 -n 64 -t 2
"""

import argparse
import contextlib
import json
import os
import sys
import time

import llama_cpp as llama


def numbers(text):
    return [int(n) for n in text.split(",")]


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-m", required=True, dest="model")
    p.add_argument("-p", type=numbers, default=[512], dest="prompt")
    p.add_argument("-n", type=numbers, default=[64], dest="generate")
    p.add_argument("-d", type=int, default=0, dest="depth")
    p.add_argument("-b", type=int, default=1, dest="batch")
    p.add_argument("-t", type=numbers, default=[os.cpu_count()], dest="threads")
    p.add_argument("-r", type=int, default=1, dest="rounds")
    p.add_argument("-fa", default="auto", choices=["auto", "0", "1"], dest="flash")
    p.add_argument("-ctk", default="f16", choices=["f16", "q8_0", "q4_0"], dest="keys")
    p.add_argument("-ctv", default="f16", choices=["f16", "q8_0", "q4_0"], dest="values")
    return p.parse_args()


class Peer:
    def __init__(self, model, args, threads):
        self.args, self.threads = args, threads
        params = llama.llama_context_default_params()
        longest = args.depth + max(args.prompt + args.generate) + 1
        params.n_ctx = args.batch * longest
        params.n_seq_max = args.batch
        params.kv_unified = True
        params.n_batch, params.n_ubatch = 2048, 512
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = {"auto": -1, "0": 0, "1": 1}[args.flash]
        kinds = {"f16": llama.GGML_TYPE_F16, "q8_0": llama.GGML_TYPE_Q8_0, "q4_0": llama.GGML_TYPE_Q4_0}
        params.type_k, params.type_v = kinds[args.keys], kinds[args.values]
        self.context = llama.llama_init_from_model(model, params)
        if not self.context:
            sys.exit("llama.cpp makes no context of this kind")
        self.vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        self.batch = llama.llama_batch_init(max(2048, args.batch), 0, 1)

    def forget(self):
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)

    def decode(self, rows):
        """Rows of (sequence, position, whether logits are wanted)."""
        b = self.batch
        b.n_tokens = len(rows)
        for i, (sequence, position, wanted) in enumerate(rows):
            b.token[i] = (sequence * 7919 + position * 104729) % self.vocabulary
            b.pos[i], b.n_seq_id[i], b.logits[i] = position, 1, wanted
            b.seq_id[i][0] = sequence
        if llama.llama_decode(self.context, b):
            sys.exit("llama.cpp could not decode")

    def read(self, start, count):
        rows = [(s, p, p == start + count - 1) for s in range(self.args.batch) for p in range(start, start + count)]
        for at in range(0, len(rows), 2048):
            self.decode(rows[at:at + 2048])
        llama.llama_synchronize(self.context)

    def measure(self, prompt, generate):
        self.forget()
        if self.args.depth:
            self.read(0, self.args.depth)
        started = time.perf_counter()
        if prompt:
            self.read(self.args.depth, prompt)
        for i in range(generate):
            self.read(self.args.depth + i, 1)
        return self.args.batch * (prompt + generate) / (time.perf_counter() - started)

    def close(self):
        llama.llama_batch_free(self.batch)
        llama.llama_free(self.context)


@contextlib.contextmanager
def quiet():
    """What llama.cpp says goes nowhere."""
    silent = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(silent, None)
    yield


def main():
    args = arguments()
    with quiet():
        llama.llama_backend_init()
        model = llama.llama_model_load_from_file(args.model.encode(), llama.llama_model_default_params())
        if not model:
            sys.exit(f"llama.cpp cannot load {args.model}")
        rows = []
        for threads in args.threads:
            peer = Peer(model, args, threads)
            for prompt, generate in [(p, 0) for p in args.prompt if p] + [(0, n) for n in args.generate if n]:
                peer.measure(min(prompt, 32), min(generate, 1))
                samples = [peer.measure(prompt, generate) for _ in range(args.rounds)]
                speed = sum(samples) / len(samples)
                rows.append({"n_prompt": prompt, "n_gen": generate, "n_threads": threads, "avg_ts": speed})
            peer.close()
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
