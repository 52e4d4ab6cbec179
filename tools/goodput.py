#!/usr/bin/env python3
"""Goodput of precision policies: the most answers a second that keep a limit of time per output token.

    python3 tools/goodput.py --model smollm2 --trace AzureLLMInferenceTrace_conv.csv --max-tpot-ms 20 \\
        --policy "--precision 8" --policy "--max-mean-kl 0.03 --batch-mode isolated"

Plays the beginning of one trace at rising rates with `flexquant loadgen`, the policies in turns at each rate. A rate is
kept if the 99th percentile (over the answers; median of the repetitions) is within the limit. Between the last rate
that is kept before the first that is not, and that one, the rate is interpolated on the percentile.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys


def play(arguments, policy, time_scale, seed):
    command = [*shlex.split(arguments.prefix), arguments.flexquant, "loadgen", "--model", arguments.model,
               "--trace", arguments.trace, "--json", "--requests", arguments.requests, "--time-scale", time_scale,
               "--token-scale", arguments.token_scale, "--max-prompt-tokens", arguments.max_prompt_tokens,
               "--max-answer-tokens", arguments.max_answer_tokens, "--load-seed", seed, *shlex.split(policy)]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(map(str, command))}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def crossing(points, limit):
    """(rate at which the percentile reaches `limit`, whether one does) of (rate, percentile) in order."""
    last_rate, last_percentile = 0.0, None
    for rate, percentile in points:
        if percentile > limit:
            if last_percentile is None:
                return 0.0, True  # not even the lowest one
            return last_rate + (rate - last_rate) * (limit - last_percentile) / (percentile - last_percentile), True
        last_rate, last_percentile = rate, percentile
    return last_rate, False


def measure(arguments):
    """{policy: [(answers a second, 99th percentile) of each rate, medians]}; prints each rate."""
    curves = {policy: [] for policy in arguments.policy}
    print(f"{'time scale':<10} {'policy':<45} {'answers/s':>9} {'tokens/s':>8} {'TPOT p50':>8} "
          f"{'p99 ms (of each run)':>28} {'bits':>5}")
    for scale in arguments.time_scales:
        runs = {policy: [] for policy in arguments.policy}
        for repetition in range(arguments.repetitions):
            for policy in arguments.policy:
                runs[policy].append(play(arguments, policy, scale, repetition + 1))
        for policy, results in runs.items():
            percentiles = [result["time_per_output_token_ms"]["p99"] for result in results]
            rate = statistics.median(result["answers_per_second"] for result in results)
            curves[policy].append((rate, statistics.median(percentiles)))
            print(f"{scale:<10} {policy:<45} {rate:>9.2f} "
                  f"{statistics.median(result['tokens_per_second'] for result in results):>8.0f} "
                  f"{statistics.median(result['time_per_output_token_ms']['p50'] for result in results):>8.2f} "
                  f"{' '.join(f'{one:.1f}' for one in percentiles):>28} "
                  f"{statistics.median(result['mean_bits'] for result in results):>5.2f}", flush=True)
    print(results[0]["machine"])
    return curves


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="calibrated package")
    parser.add_argument("--trace", required=True, help="as loadgen's --trace")
    parser.add_argument("--policy", action="append", required=True,
                        help="loadgen's flags of one policy; repeat; the first is what others are compared with")
    parser.add_argument("--max-tpot-ms", type=float, required=True)
    parser.add_argument("--time-scales", type=float, nargs="+", default=[0.6, 0.45, 0.35, 0.27, 0.21, 0.16])
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--token-scale", type=float, default=0.4)
    parser.add_argument("--max-prompt-tokens", type=int, default=32)
    parser.add_argument("--max-answer-tokens", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--flexquant", default="build/release/bin/flexquant")
    parser.add_argument("--prefix", default="", help="put before each command, such as 'taskset -c 0,1'")
    arguments = parser.parse_args()

    baseline = None
    for policy, points in measure(arguments).items():
        rate, reached = crossing(points, arguments.max_tpot_ms)
        baseline = rate if baseline is None else baseline
        ratio = f"{rate / baseline:.2f}" if baseline else "-"
        print(f"{policy:<45} {'' if reached else 'at least '}{rate:.2f} answers/s within {arguments.max_tpot_ms:g} ms, "
              f"{ratio} of the first")


if __name__ == "__main__":
    main()
