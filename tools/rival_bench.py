"""Measures llama.cpp (through llama-cpp-python) as `flexquant bench` measures FlexQuant: same prompts, same counts.

    PYTHON tools/rival_bench.py MODEL.gguf --threads 2 [--prefill 512] [--decode 128] [--repeats 3]
    PYTHON tools/rival_bench.py MODEL.gguf --threads 2 --interactive

PYTHON has llama-cpp-python (tried: 0.3.36). Prints one JSON object with medians. With --interactive it prints
{"ready": ...}, then answers each line "prefill N", "decode N" or "decode-S N" (S sequences, N tokens each) on standard
input with {"seconds": ..., "tokens": of all together}: `flexquant bench --against MODEL.gguf --rival-python PYTHON` so
takes turns with it.
"""

import argparse
import json
import statistics
import sys
import time

import llama_cpp
import numpy as np

DECODE_PROMPT_TOKENS = 8
SEQUENCE_CONTEXT = 1024  # of each of several sequences


class Rival:
    """One sequence on llama.cpp's C interface, without the Python package's own bookkeeping."""

    def __init__(self, path, threads, context):
        llama_cpp.llama_backend_init()
        self.log = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.log, None)
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = 0
        self.model = llama_cpp.llama_load_model_from_file(path.encode(), model_params)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self.threads = threads
        self.context = self.new_context(context, 1)
        self.several = {}  # by number of sequences
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def new_context(self, tokens, sequences):
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = tokens, 512, 512, sequences
        params.n_threads = params.n_threads_batch = self.threads
        return llama_cpp.llama_new_context_with_model(self.model, params)

    def prompt(self, count):
        """The token ids `flexquant bench` uses."""
        return [(7919 * i + 13) % self.vocab_size for i in range(count)]

    def step(self, ids):
        """Appends `ids` and returns the most likely next token."""
        tokens = (llama_cpp.llama_token * len(ids))(*ids)
        status = llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(tokens, len(ids)))
        if status != 0:
            raise SystemExit(f"llama_decode failed: {status}")
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, -1), shape=(self.vocab_size,))
        return int(logits.argmax())

    def reset(self, context=None):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context or self.context), True)

    def prefill(self, count):
        self.reset()
        start = time.perf_counter()
        for begin in range(0, count, 512):
            self.step(self.prompt(count)[begin:begin + 512])
        return time.perf_counter() - start

    def decode(self, count):
        self.reset()
        token = self.step(self.prompt(DECODE_PROMPT_TOKENS))
        start = time.perf_counter()
        for _ in range(count):
            token = self.step([token])
        return time.perf_counter() - start

    def together(self, context, ids, first):
        """Appends [sequence][token] `ids` at position `first`; returns each sequence's most likely next token."""
        length = len(ids[0])
        batch = llama_cpp.llama_batch_init(len(ids) * length, 0, 1)
        batch.n_tokens = len(ids) * length
        for sequence, tokens in enumerate(ids):
            for i, token in enumerate(tokens):
                at = sequence * length + i
                batch.token[at], batch.pos[at] = token, first + i
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence
                batch.logits[at] = i + 1 == length
        status = llama_cpp.llama_decode(context, batch)
        if status != 0:
            raise SystemExit(f"llama_decode failed: {status}")
        row = lambda at: llama_cpp.llama_get_logits_ith(context, at)
        tokens = [int(np.ctypeslib.as_array(row(sequence * length + length - 1), shape=(self.vocab_size,)).argmax())
                  for sequence in range(len(ids))]
        llama_cpp.llama_batch_free(batch)
        return tokens

    def decode_together(self, sequences, count):
        if sequences not in self.several:
            self.several[sequences] = self.new_context(SEQUENCE_CONTEXT * sequences, sequences)
        context = self.several[sequences]
        self.reset(context)
        prompts = [[(token + sequence) % self.vocab_size for token in self.prompt(DECODE_PROMPT_TOKENS)]
                   for sequence in range(sequences)]
        tokens = self.together(context, prompts, 0)
        start = time.perf_counter()
        for step in range(count):
            tokens = self.together(context, [[token] for token in tokens], DECODE_PROMPT_TOKENS + step)
        return time.perf_counter() - start


def interact(rival, arguments):
    print(json.dumps({"ready": arguments.gguf, "llama_cpp_python": llama_cpp.__version__}), flush=True)
    for line in sys.stdin:
        what, count = line.split()[0], int(line.split()[1])
        what, _, sequences = what.partition("-")
        if sequences:
            seconds = rival.decode_together(int(sequences), count)
        else:
            seconds = {"prefill": rival.prefill, "decode": rival.decode}[what](count)
        print(json.dumps({"seconds": seconds, "tokens": count * int(sequences or 1)}), flush=True)


def measure(rival, arguments):
    rates = {}
    for what, run, count in (("prefill", rival.prefill, arguments.prefill), ("decode", rival.decode, arguments.decode)):
        run(count)  # warms up
        samples = [count / run(count) for _ in range(arguments.repeats)]
        rates[f"{what}_tokens_per_second"] = {"tokens": count, "median": round(statistics.median(samples), 2),
                                              "min": round(min(samples), 2), "max": round(max(samples), 2)}
    print(json.dumps({"model": arguments.gguf, "threads": arguments.threads,
                      "llama_cpp_python": llama_cpp.__version__, **rates}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--interactive", action="store_true")
    arguments = parser.parse_args()
    rival = Rival(arguments.gguf, arguments.threads, arguments.context)
    (interact if arguments.interactive else measure)(rival, arguments)


if __name__ == "__main__":
    main()
