#!/usr/bin/env python3
"""Goodput of precision policies: the most answers a second at which the 99th percentile of time per output token keeps a
limit. Plays one trace at rising rates, the policies in turns at each rate, with `flexquant loadgen`.

    python3 tools/goodput.py --model smollm2 --trace AzureLLMInferenceTrace_conv.csv --max-tpot-ms 12 \\
        --policy "--precision 8" --policy "--max-mean-kl 0.03 --batch-mode isolated"

Between the last rate that keeps the limit and the first that does not the rate is interpolated on the percentile.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys


def play(arguments, policy, time_scale, seed):
    command = [arguments.flexquant, "loadgen", "--model", arguments.model, "--trace", arguments.trace, "--json",
               "--requests", arguments.requests, "--time-scale", time_scale, "--token-scale", arguments.token_scale,
               "--max-prompt-tokens", arguments.max_prompt_tokens, "--max-answer-tokens", arguments.max_answer_tokens,
               "--load-seed", seed, "--max-tpot-ms", arguments.max_tpot_ms, *shlex.split(policy)]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(map(str, command))}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def crossing(points, limit):
    """The rate at which the percentile reaches `limit`, of (rate, percentile) in order; and whether it was reached."""
    previous = (0.0, 0.0)
    for rate, percentile in points:
        if percentile > limit:
            low, high = previous, (rate, percentile)
            if low[1] == 0.0:
                return 0.0, True  # not even at the lowest rate
            return low[0] + (high[0] - low[0]) * (limit - low[1]) / (high[1] - low[1]), True
        previous = (rate, percentile)
    return previous[0], False


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="calibrated package")
    parser.add_argument("--trace", required=True, help="as loadgen's --trace")
    parser.add_argument("--policy", action="append", required=True, help="loadgen's flags of one policy; the first is the baseline")
    parser.add_argument("--max-tpot-ms", type=float, required=True)
    parser.add_argument("--time-scales", type=float, nargs="+", default=[1.2, 0.9, 0.7, 0.55, 0.45, 0.37, 0.3, 0.25, 0.2])
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--token-scale", type=float, default=0.2)
    parser.add_argument("--max-prompt-tokens", type=int, default=64)
    parser.add_argument("--max-answer-tokens", type=int, default=96)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--flexquant", default="build/release/bin/flexquant")
    arguments = parser.parse_args()

    curves = {policy: [[] for _ in range(arguments.repetitions)] for policy in arguments.policy}
    over = dict.fromkeys(arguments.policy, 0)
    for scale in arguments.time_scales:
        for repetition in range(arguments.repetitions):
            for policy in arguments.policy:
                if over[policy] >= 2 * arguments.repetitions:
                    continue  # twice beyond the limit: higher rates say nothing more
                result = play(arguments, policy, scale, repetition + 1)
                percentile = result["time_per_output_token_ms"]["p99"]
                curves[policy][repetition].append((result["answers_per_second"], percentile))
                over[policy] += percentile > arguments.max_tpot_ms
                print(f"time scale {scale:<5} {policy:<45} {result['answers_per_second']:6.2f} answers/s  "
                      f"{result['tokens_per_second']:6.0f} tokens/s  TPOT p50 {result['time_per_output_token_ms']['p50']:6.2f} "
                      f"p99 {percentile:6.2f} ms  {result['mean_bits']:.2f} bits", flush=True)
    print(result["machine"])
    baseline = None
    for policy in arguments.policy:
        found = [crossing(curve, arguments.max_tpot_ms) for curve in curves[policy]]
        rates = [rate for rate, _ in found]
        middle = statistics.median(rates)
        baseline = middle if baseline is None else baseline
        ratio = f"{middle / baseline:.2f}" if baseline else "-"
        print(f"{policy:<45} {middle:6.2f} answers/s ({min(rates):.2f} to {max(rates):.2f})  {ratio}"
              + ("" if all(reached for _, reached in found) else "  at least: the limit was not reached"))


if __name__ == "__main__":
    main()
