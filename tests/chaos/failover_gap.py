"""Measures how long a stream pauses when its executor is killed, beside what computing it anew takes.

    python3 tests/chaos/failover_gap.py --model PACKAGE [--bin build/release/bin]

Two executors of one thread each on loopback; one long answer at a time, whose executor is killed in its middle. The gap
is that between the last token before and the first one after. At a fixed precision what is computed again is read in
chunks: a prompt of as many tokens, sent to an idle executor, says how long that takes. Plans that change from token to
token are computed again in runs of equal plans, which is at most what they took the first time.
"""

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli"))
import harness  # noqa: E402

SEEDS = itertools.count(1)  # no prompt twice: it would be found in the cache


class Answer:
    """One request on its way."""

    def __init__(self, address, prompt_tokens, answer_tokens, precision):
        self.file = harness.new_folder() / "answers"
        self.process = harness.start(
            "flexquant", "loadgen", "--server", address, "--requests", 1, "--rate", 0, "--prompt-tokens", prompt_tokens,
            "--answer-tokens", answer_tokens, "--json", "--batch-mode", "isolated", "--load-seed", next(SEEDS),
            "--answers", self.file, "--precision", precision, stderr=subprocess.DEVNULL)

    def end(self):
        """(ms to the first token, ms a token after it, longest gap in ms)."""
        out, _ = self.process.communicate(timeout=300)
        answer = json.loads(self.file.read_text())
        assert answer["status"] == "OK", answer
        figures = json.loads(out)
        return (figures["time_to_first_token_ms"]["p50"], figures["time_per_output_token_ms"]["p50"],
                1000 * answer["longest_gap_s"])


@contextlib.contextmanager
def fleet(model):
    """(processes of two executors, address of a controller that has both)."""
    with contextlib.ExitStack() as stack:
        executors = [stack.enter_context(harness.server("flexquant-executor", "--model", model, "--threads", 1))
                     for _ in range(2)]
        _, address = stack.enter_context(harness.server(
            "flexquant-controller", "--model", model,
            *(flag for _, executor in executors for flag in ("--executor", executor))))

        def both_ready():
            status, out, _ = harness.flexquant("info", "--server", address, "--json")
            return status == 0 and sum(one["ready"] for one in json.loads(out)["executors"]) == 2
        harness.wait_for(both_ready, "two executors")
        yield [process for process, _ in executors], address


def busiest(processes):
    """The one whose CPU time grows most; one must."""
    def ticks(process):
        return sum(map(int, pathlib.Path(f"/proc/{process.pid}/stat").read_text().split()[13:15]))
    before = [ticks(process) for process in processes]
    time.sleep(0.2)
    grown = [ticks(process) - earlier for process, earlier in zip(processes, before)]
    assert max(grown) > 4, f"no executor is busy: {grown}"
    return processes[grown.index(max(grown))]


def measure(model, prompt_tokens, answer_tokens, precision):
    """(gap, computing anew) of one killed executor, in ms."""
    with fleet(model) as (processes, address):
        first_ms, token_ms, _ = Answer(address, prompt_tokens, answer_tokens, precision).end()
        whole = first_ms + answer_tokens * token_ms
        begin = time.monotonic()
        answer = Answer(address, prompt_tokens, answer_tokens, precision)
        time.sleep(0.6 * whole / 1000)
        busiest(processes).send_signal(signal.SIGKILL)
        killed_ms = 1000 * (time.monotonic() - begin)
        _, _, gap = answer.end()
        if precision == "dynamic":
            return gap, killed_ms
        done = min(answer_tokens, max(0, int((killed_ms - first_ms) / token_ms)))
        anew, _, _ = Answer(address, prompt_tokens + done, 1, precision).end()
        return gap, anew


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder made by flexquant convert")
    parser.add_argument("--bin", default="build/release/bin", help="where the programs are")
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--answer-tokens", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    harness.BIN = pathlib.Path(arguments.bin).resolve()
    print(f"{'plans':<10} {'gap ms, median':>15} {'largest':>8} {'computing anew, ms':>19} {'gap / that':>11}")
    for precision in ("8", "4", "dynamic"):
        pairs = [measure(arguments.model, arguments.prompt_tokens, arguments.answer_tokens, precision)
                 for _ in range(arguments.repetitions)]
        gaps = [gap for gap, _ in pairs]
        gap, anew = statistics.median(gaps), statistics.median(one for _, one in pairs)
        print(f"{precision:<10} {gap:>15.0f} {max(gaps):>8.0f} {anew:>19.0f} {gap / anew:>11.2f}", flush=True)
    print(f"{os.cpu_count()} logical processors")


if __name__ == "__main__":
    main()
