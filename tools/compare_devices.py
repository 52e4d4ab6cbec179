#!/usr/bin/env python3
"""Greedy answers of two backends, token by token, through a controller and an executor process for each.

Logits of two backends differ a little: sums have another order, and a prompt's activations are rounded to 8 or 15 bits
on a CPU, to fp16 on a GPU. A last bit can move a later activation to the next of its 8-bit values, so differences grow
to the error that 8-bit activations have anyway. Where two answers to a prompt part, the tokens should be nearly tied:
their log-probabilities on the first backend at most --tolerance nats apart. Compare two instruction sets of the CPU
(--devices cpu/avx2,cpu/portable) to see how far a model's own rounding goes.

Prints a line a width, the differences of log-probabilities before the answers part, and each parting. Exits with 1 if
two tokens were farther apart.

  compare_devices.py --bin build/bundle/bin --model smollm2 --prompts mt_bench.jsonl --devices cpu,cuda
"""

import argparse
import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile
import time


def wait_for_port(path, process, limit=120):
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"{process.args[0]} ended with {process.returncode} before it served")
        if path.exists() and path.read_text().strip():
            return path.read_text().strip()
        time.sleep(0.02)
    raise SystemExit(f"{process.args[0]} did not serve within {limit} s")


@contextlib.contextmanager
def program(command):
    process = subprocess.Popen([str(x) for x in command])
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


@contextlib.contextmanager
def service(options, device, folder):
    """Address of a controller in front of an executor on `device`."""
    ports = [folder / name for name in ("executor", "controller")]
    common = ["--model", options.model, "--listen", "127.0.0.1:0", "--log-level", "warn"]
    device, _, isa = device.partition("/")
    executor = [options.bin / "flexquant-executor", *common, "--device", device, "--port-file", ports[0]]
    executor += ["--isa", isa] if isa else []
    with program(executor) as process:
        address = f"127.0.0.1:{wait_for_port(ports[0], process)}"
        controller = [options.bin / "flexquant-controller", *common, "--executor", address, "--port-file", ports[1]]
        with program(controller) as front:
            yield f"127.0.0.1:{wait_for_port(ports[1], front)}"


def answer(options, server, prompt, bits):
    command = [options.bin / "flexquant", "generate", "--server", server, "--prompt", prompt, "--precision", bits]
    command += ["--max-tokens", options.tokens, "--batch-mode", "isolated", "--ignore-eos"]
    command += ["--json", "--token-info", "--top-logprobs", "20"]
    done = subprocess.run([str(x) for x in command], stdout=subprocess.PIPE, timeout=300, check=False)
    if done.returncode != 0:
        raise SystemExit(f"flexquant generate ended with {done.returncode} for {prompt[:60]!r}")
    return json.loads(done.stdout)["tokens"]


def compare(first, second):
    """(equal tokens, differences of log-probabilities, gap where they part or None)."""
    differences = []
    for at, (a, b) in enumerate(zip(first, second)):
        if a["id"] != b["id"]:
            other = [x["logprob"] for x in a["top_logprobs"] if x["id"] == b["id"]]
            return at, differences, a["logprob"] - other[0] if other else float("inf")
        differences.append(abs(a["logprob"] - b["logprob"]))
    if len(first) != len(second):
        raise SystemExit(f"answers have {len(first)} and {len(second)} tokens")
    return len(first), differences, None


def run_width(options, servers, prompts, bits):
    differences, partings, equal, total = [], [], 0, 0
    for number, prompt in enumerate(prompts):
        first, second = (answer(options, server, prompt, bits) for server in servers)
        same, differ, gap = compare(first, second)
        differences += differ
        equal += same
        total += len(first)
        if gap is not None:
            partings.append((number, same, gap, first[same]["id"], second[same]["id"]))
    differences.sort()
    mean = sum(differences) / max(1, len(differences))
    high = differences[int(0.99 * (len(differences) - 1))] if differences else 0.0
    print(
        f"{bits} bits: {len(prompts) - len(partings)} of {len(prompts)} answers equal, {equal} of {total} tokens "
        f"before any parting; log-probabilities differ by {mean:.4f} on average, {high:.4f} at the 99th percentile"
    )
    for number, at, gap, a, b in partings:
        verdict = "near-tie" if gap <= options.tolerance else "NOT a near-tie"
        print(f"  prompt {number}, token {at}: {a} or {b}, {gap:.4f} nats apart: {verdict}")
    sys.stdout.flush()
    return all(gap <= options.tolerance for _, _, gap, _, _ in partings)


def read_prompts(options):
    if options.prompts.suffix == ".jsonl":
        lines = options.prompts.read_text(encoding="utf-8").splitlines()
        prompts = [json.loads(line)["turns"][0] for line in lines]
    else:
        prompts = [line for line in options.prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(prompts) < options.count:
        raise SystemExit(f"{options.prompts} has {len(prompts)} prompts, --count asks for {options.count}")
    return prompts[: options.count]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="folder of the programs")
    parser.add_argument("--model", required=True, help="folder made by flexquant convert")
    parser.add_argument("--prompts", type=pathlib.Path, required=True, help="a prompt a line, or .jsonl with `turns`")
    parser.add_argument("--count", type=int, default=20, help="prompts to use [20]")
    parser.add_argument("--tokens", type=int, default=48, help="tokens an answer [48]")
    parser.add_argument("--widths", default="3,4,5,6,8", help="bits to compare at [3,4,5,6,8]")
    parser.add_argument("--devices", default="cpu,cuda", help="two of DEVICE or DEVICE/ISA [cpu,cuda]")
    parser.add_argument("--tolerance", type=float, default=1.0, help="nats between nearly tied tokens [1]")
    options = parser.parse_args()
    options.bin = options.bin.resolve()
    devices = options.devices.split(",")
    if len(devices) != 2:
        parser.error(f"--devices takes two, not {options.devices!r}")
    prompts = read_prompts(options)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        servers = []
        for number, device in enumerate(devices):
            ports = pathlib.Path(folder) / str(number)
            ports.mkdir()
            servers.append(stack.enter_context(service(options, device, ports)))
        good = [run_width(options, servers, prompts, bits) for bits in options.widths.split(",")]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
