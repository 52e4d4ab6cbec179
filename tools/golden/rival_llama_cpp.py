"""Runs llama.cpp (through llama-cpp-python) on SmolLM2: makes its files, measures its speed, checks the golden.

    python3 -m venv ENV && ENV/bin/pip install llama-cpp-python==0.3.36       # compiles llama.cpp: minutes
    ENV/bin/python tools/golden/rival_llama_cpp.py quantize SmolLM2-135M-Instruct.Q4_1.gguf FOLDER
    ENV/bin/python tools/golden/rival_llama_cpp.py bench FOLDER/smollm2-q8_0.gguf [--threads 2]
    ENV/bin/python tools/golden/rival_llama_cpp.py check FOLDER/smollm2-f16.gguf tests/golden/smollm2_logits.json
"""

import argparse
import ctypes
import json
import pathlib
import statistics
import time

import llama_cpp
import numpy as np

FILE_TYPES = {
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "f16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16,
}


class Runner:
    """One sequence on llama.cpp's C interface, greedy, without the Python package's own bookkeeping."""

    def __init__(self, path, threads, context=2048):
        llama_cpp.llama_backend_init()
        self.quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.quiet, None)
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = 0
        self.model = llama_cpp.llama_load_model_from_file(str(path).encode(), model_params)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, 512, 512
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_new_context_with_model(self.model, params)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def reset(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def step(self, ids):
        """Appends `ids` and returns the logits [vocab] after the last of them; valid until the next step."""
        tokens = (llama_cpp.llama_token * len(ids))(*ids)
        status = llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(tokens, len(ids)))
        if status != 0:
            raise SystemExit(f"llama_decode failed: {status}")
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, -1), shape=(self.vocab_size,))


def quantize(arguments):
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, file_type in FILE_TYPES.items():
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.allow_requantize, params.nthread = file_type, True, 2
        target = arguments.folder / f"smollm2-{name}.gguf"
        status = llama_cpp.llama_model_quantize(str(arguments.gguf).encode(), str(target).encode(),
                                                ctypes.byref(params))
        if status != 0:
            raise SystemExit(f"llama_model_quantize failed on {name}: {status}")
        print(f"{target}: {target.stat().st_size} bytes")


def bench(arguments):
    runner = Runner(arguments.gguf, arguments.threads)
    prompt = [(7919 * i + 13) % runner.vocab_size for i in range(512)]
    prefill, decode = [], []
    for repeat in range(arguments.repeats + 1):
        runner.reset()
        start = time.perf_counter()
        token = int(runner.step(prompt).argmax())
        middle = time.perf_counter()
        runner.reset()
        token = int(runner.step(prompt[:8]).argmax())
        decode_start = time.perf_counter()
        for _ in range(arguments.tokens):
            token = int(runner.step([token]).argmax())
        end = time.perf_counter()
        if repeat > 0:  # the first warms up
            prefill.append(len(prompt) / (middle - start))
            decode.append(arguments.tokens / (end - decode_start))
    print(json.dumps({"model": arguments.gguf.name, "threads": arguments.threads,
                      "llama_cpp_python": llama_cpp.__version__,
                      "prefill_512_tokens_per_second": {"median": round(statistics.median(prefill), 1),
                                                        "best": round(max(prefill), 1)},
                      "decode_tokens_per_second": {"median": round(statistics.median(decode), 1),
                                                   "best": round(max(decode), 1)}}))


def check(arguments):
    runner = Runner(arguments.gguf, arguments.threads)
    for prompt in json.loads(arguments.golden.read_text(encoding="utf-8"))["prompts"]:
        runner.reset()
        logits = runner.step(prompt["ids"]).copy()
        wanted = np.array(prompt["last"]["sampled"] + prompt["last"]["top"])
        error = logits[wanted[:, 0].astype(int)] - wanted[:, 1]
        greedy, token = [], int(logits.argmax())
        for _ in prompt["greedy"]:
            greedy.append(token)
            token = int(runner.step([token]).argmax())
        same = next((i for i, pair in enumerate(zip(greedy, prompt["greedy"])) if pair[0] != pair[1]), len(greedy))
        relative = np.sqrt(np.mean(error ** 2)) / prompt["last"]["rms"]
        print(f"{prompt['name']}: largest logit error {np.abs(error).max():.4f}, relative to the logits' rms "
              f"{relative:.2e}; greedy tokens equal: {same} of {len(greedy)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("quantize", help="make Q8_0, Q4_0 and F16 files")
    command.add_argument("gguf", type=pathlib.Path)
    command.add_argument("folder", type=pathlib.Path)
    command.set_defaults(run=quantize)
    command = commands.add_parser("bench", help="measure prefill of 512 tokens and decode")
    command.add_argument("gguf", type=pathlib.Path)
    command.add_argument("--threads", type=int, default=2)
    command.add_argument("--tokens", type=int, default=128)
    command.add_argument("--repeats", type=int, default=3)
    command.set_defaults(run=bench)
    command = commands.add_parser("check", help="compare with a golden of tests/golden")
    command.add_argument("gguf", type=pathlib.Path)
    command.add_argument("golden", type=pathlib.Path)
    command.add_argument("--threads", type=int, default=2)
    command.set_defaults(run=check)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
