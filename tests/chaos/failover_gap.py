"""Measures how long a stream pauses when its executor is killed, beside what computing it anew takes.

    python3 tests/chaos/failover_gap.py --model PACKAGE [--bin build/release/bin]

Two executors of one thread each on loopback; one long answer at a time, whose executor is killed in its middle. The gap
is that between the last token before and the first one after. At a fixed precision what is computed again is read in
chunks: a prompt of as many tokens, sent to an idle executor, says how long that takes. Plans that change from token to
token are computed again in runs of equal plans, which is at most what they took the first time.
"""

import argparse
import itertools
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder made by flexquant convert")
    parser.add_argument("--bin", default="build/release/bin", help="where the programs are")
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--answer-tokens", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    os.environ["FLEXQUANT_BIN"] = str(pathlib.Path(arguments.bin).resolve())
    import harness

    seeds = itertools.count(1)  # no prompt twice: it would be found in the cache

    def load(address, prompt_tokens, answer_tokens, *precision):
        folder = pathlib.Path(tempfile.mkdtemp())
        process = harness.start("flexquant", "loadgen", "--server", address, "--requests", 1, "--rate", 0,
                                "--prompt-tokens", prompt_tokens, "--answer-tokens", answer_tokens, "--json",
                                "--batch-mode", "isolated", "--load-seed", next(seeds), "--answers", folder / "answers", *precision,
                                stderr=subprocess.DEVNULL)
        return process, folder / "answers"

    def end(process, file):
        out, _ = process.communicate(timeout=300)
        answer = json.loads(file.read_text())
        assert answer["status"] == "OK", answer
        return json.loads(out), answer

    def busy(processes):
        """Which executor computes: whose CPU time grows."""
        def ticks(process):
            return sum(map(int, pathlib.Path(f"/proc/{process.pid}/stat").read_text().split()[13:15]))
        before = [ticks(process) for process in processes]
        time.sleep(0.2)
        grown = [ticks(process) - ticks_before for process, ticks_before in zip(processes, before)]
        assert max(grown) > 10, f"no executor is busy: {grown}"
        return grown.index(max(grown))

    print(f"{'plans':<10} {'gap ms, median':>15} {'largest':>8} {'computing anew, ms':>19} {'gap / that':>11}")
    for name in ("8", "4", "dynamic"):
        precision = ("--precision", name)
        gaps, again = [], []
        for _ in range(arguments.repetitions):
            with harness.server("flexquant-executor", "--model", arguments.model, "--threads", 1) as first, \
                    harness.server("flexquant-executor", "--model", arguments.model, "--threads", 1) as second, \
                    harness.server("flexquant-controller", "--model", arguments.model, "--executor", first[1],
                                   "--executor", second[1]) as (_, address):
                harness.wait_for(lambda: sum(one["ready"] for one in json.loads(
                    harness.flexquant("info", "--server", address, "--json")[1] or '{"executors": []}')["executors"]) == 2,
                    "two executors")
                figures, _ = end(*load(address, arguments.prompt_tokens, arguments.answer_tokens, *precision))
                begin = time.monotonic()
                process, file = load(address, arguments.prompt_tokens, arguments.answer_tokens, *precision)
                whole = figures["time_to_first_token_ms"]["p50"] + arguments.answer_tokens * figures["time_per_output_token_ms"]["p50"]
                time.sleep(max(0.0, 0.6 * whole / 1000 - (time.monotonic() - begin)))
                processes = [first[0], second[0]]
                victim = processes[busy(processes)]
                victim.send_signal(signal.SIGKILL)
                killed_at = time.monotonic() - begin
                _, answer = end(process, file)
                gaps.append(1000 * answer["longest_gap_s"])
                if name == "dynamic":
                    again.append(1000 * killed_at)
                else:
                    done = min(1.0, max(0.0, 1000 * killed_at - figures["time_to_first_token_ms"]["p50"]) / (
                        whole - figures["time_to_first_token_ms"]["p50"]))
                    tokens = arguments.prompt_tokens + int(done * arguments.answer_tokens)
                    figures, _ = end(*load(address, tokens, 1, *precision))
                    again.append(figures["time_to_first_token_ms"]["p50"])
        gap, anew = statistics.median(gaps), statistics.median(again)
        print(f"{name:<10} {gap:>15.0f} {max(gaps):>8.0f} {anew:>19.0f} {gap / anew:>11.2f}", flush=True)


if __name__ == "__main__":
    main()
