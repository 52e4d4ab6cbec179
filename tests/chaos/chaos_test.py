"""Streams under faults: every answer ends complete and equal to the undisturbed one, or with a status from the table.

Real processes on loopback: a controller and three executors, one of them behind a proxy, serve a replayed trace while a
seeded schedule kills, stops, cuts, delays and restarts them. Each class of fault has a test of its own; `test_all`
mixes them for FLEXQUANT_CHAOS_SECONDS (default 60).
"""

import contextlib
import json
import os
import pathlib
import random
import signal
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli"))
import harness  # noqa: E402
from proxy import Proxy  # noqa: E402

SECONDS = float(os.environ.get("FLEXQUANT_CHAOS_SECONDS", "60"))
SEED = int(os.environ.get("FLEXQUANT_CHAOS_SEED", "1"))
# What a request may end with instead of its answer, beside CANCELLED by its own client: docs/reliability.md.
REFUSALS = {"UNAVAILABLE", "RESOURCE_EXHAUSTED"}
# Isolated, so that what a stream says depends on nothing but its request; plans that change from token to token.
REQUEST = ("--batch-mode", "isolated", "--precision", "dynamic", "--temperature", "0.8")


class Executor:
    """An executor at a fixed address that can be killed and started again."""

    def __init__(self, model):
        self.model = model
        self.address = f"127.0.0.1:{harness.free_port()}"
        self.stack = None
        self.process = None

    def start(self):
        self.stack = contextlib.ExitStack()
        self.process, _ = self.stack.enter_context(
            harness.server("flexquant-executor", "--model", self.model, "--threads", 1, listen=self.address))

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
        self.stack.close()

    def restart_after(self, signal_number):
        self.process.send_signal(signal_number)
        self.process.wait(harness.LIMIT)
        self.stop()
        self.start()


class Fleet:
    """Three executors, the last one behind a proxy, and a controller."""

    FLAGS = ("--step-timeout", "1", "--failover-seconds", "30", "--drain-seconds", "10")

    def __init__(self, model, *flags):
        self.model = model
        self.flags = flags
        self.executors = [Executor(model) for _ in range(3)]
        self.address = f"127.0.0.1:{harness.free_port()}"
        self.controller_stack = None
        self.controller = None
        self.proxy = None

    def __enter__(self):
        for executor in self.executors:
            executor.start()
        self.proxy = Proxy(self.executors[2].address)
        self.start_controller()
        return self

    def __exit__(self, *_):
        self.controller_stack.close()
        self.proxy.close()
        for executor in self.executors:
            executor.stop()

    def start_controller(self):
        addresses = [self.executors[0].address, self.executors[1].address, self.proxy.address]
        self.controller_stack = contextlib.ExitStack()
        self.controller, _ = self.controller_stack.enter_context(
            harness.server("flexquant-controller", "--model", self.model,
                           *(flag for address in addresses for flag in ("--executor", address)), *self.FLAGS,
                           *self.flags, listen=self.address))

    def wait_ready(self, executors=3):
        """Until so many executors are ready."""
        def ready():
            status, out, _ = harness.flexquant("info", "--server", self.address, "--json")
            return status == 0 and sum(one["ready"] for one in json.loads(out)["executors"]) >= executors
        harness.wait_for(ready, f"{executors} executors", limit=60)

    # The faults.
    def kill_executor(self, choice):
        self.executors[choice.randrange(3)].restart_after(signal.SIGKILL)

    def terminate_executor(self, choice):
        self.executors[choice.randrange(3)].restart_after(signal.SIGTERM)

    def freeze_executor(self, choice):
        process = self.executors[choice.randrange(3)].process
        process.send_signal(signal.SIGSTOP)
        time.sleep(choice.uniform(0.2, 2.5))
        process.send_signal(signal.SIGCONT)

    def cut_connection(self, _):
        self.proxy.cut()

    def hold_connection(self, choice):
        self.proxy.hold()
        time.sleep(choice.uniform(0.2, 2.5))
        self.proxy.go_on()

    def delay_connection(self, choice):
        self.proxy.delay(choice.uniform(0.001, 0.02))
        time.sleep(1)
        self.proxy.delay(0)

    def kill_controller(self, _):
        self.controller.send_signal(signal.SIGKILL)
        self.controller.wait(harness.LIMIT)
        self.controller_stack.close()
        self.start_controller()

    def usage(self):
        """(open descriptors, resident kB) of each process that serves."""
        figures = {}
        for name, process in [("controller", self.controller),
                              *((f"executor {i}", one.process) for i, one in enumerate(self.executors))]:
            folder = pathlib.Path(f"/proc/{process.pid}")
            pages = int((folder / "statm").read_text().split()[1])
            resident = pages * os.sysconf("SC_PAGE_SIZE") // 1024
            figures[name, process.pid] = len(list((folder / "fd").iterdir())), resident
        return figures


class Load:
    """Runs loadgen; what it sent is the same for the same seed."""

    def __init__(self, address, seed, *flags, requests=64, time_scale=0.3):
        self.folder = harness.new_folder()
        self.file = self.folder / "answers.jsonl"
        trace = ()
        conversation = harness.DATA / "traces/azure2023/AzureLLMInferenceTrace_conv.csv"
        if conversation.exists():
            trace = ("--trace", conversation, "--time-scale", time_scale, "--token-scale", "0.7",
                     "--max-prompt-tokens", 200, "--max-answer-tokens", 250)
        self.process = harness.start("flexquant", "loadgen", "--server", address, "--requests", requests,
                                     "--load-seed", seed, "--answers", self.file, *trace, *REQUEST, *flags)

    def running(self):
        return self.process.poll() is None

    def answers(self):
        status, _, err = harness.finish(self.process, limit=180)
        if status != 0:
            raise AssertionError(err)
        return [json.loads(line) for line in self.file.read_text().splitlines()]


class ChaosTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = harness.stories(reference=False)
        cls.undisturbed = {}

    def expected(self, fleet, seed, *flags):
        """What the requests of this seed say without faults."""
        if (seed, flags) not in self.undisturbed:
            fleet.wait_ready()
            answers = Load(fleet.address, seed, *flags).answers()
            self.assertEqual({answer["status"] for answer in answers}, {"OK"})
            self.undisturbed[seed, flags] = [answer["token_ids"] for answer in answers]
        return self.undisturbed[seed, flags]

    def check(self, answers, expected, refusals=frozenset()):
        """Counts of what became of the requests; fails for one that is neither whole nor refused as it may be."""
        outcomes = {}
        for answer, whole in zip(answers, expected, strict=True):
            tokens, status = answer["token_ids"], answer["status"]
            outcomes[status] = outcomes.get(status, 0) + 1
            if status == "OK":
                self.assertEqual(tokens, whole, answer["index"])
            elif answer["cancelled"]:
                self.assertEqual(tokens, whole[:len(tokens)], answer["index"])
            else:
                self.assertIn(status, refusals, answer)
                self.assertEqual(tokens, [], f"a stream was lost midway: {answer}")
        return outcomes

    def disturb(self, faults, refusals=frozenset(), seed=1, pause=(0.2, 0.8)):
        """One load under these faults, in turns, as long as it runs."""
        choice = random.Random(SEED * 1000 + seed)
        with Fleet(self.model) as fleet:
            expected = self.expected(fleet, seed)
            fleet.wait_ready()
            load = Load(fleet.address, seed)
            count = 0
            while load.running():
                time.sleep(choice.uniform(*pause))
                if load.running():
                    faults[count % len(faults)](fleet, choice)
                    count += 1
            answers = load.answers()
            outcomes = self.check(answers, expected, refusals)
            self.assertGreater(count, 2, "the load was over before it was disturbed")
            gap = max(answer["longest_gap_s"] for answer in answers)
            print(f"{self.id().rsplit('.', 1)[-1]}: {count} faults, {outcomes}, longest gap in a stream {gap:.2f} s",
                  flush=True)

    def test_executors_killed(self):
        self.disturb([Fleet.kill_executor])

    def test_executors_terminated(self):
        self.disturb([Fleet.terminate_executor])

    def test_executors_frozen(self):
        self.disturb([Fleet.freeze_executor])

    def test_connections_cut_held_and_delayed(self):
        self.disturb([Fleet.cut_connection, Fleet.hold_connection, Fleet.delay_connection])

    def test_controller_killed(self):
        # Requests that come while there is no controller are refused; streams that had begun go on.
        self.disturb([Fleet.kill_controller], refusals={"UNAVAILABLE"}, pause=(1.0, 2.0))

    def test_third_cancelled(self):
        with Fleet(self.model) as fleet:
            expected = self.expected(fleet, 1)
            outcomes = self.check(Load(fleet.address, 1, "--cancel-share", "0.33").answers(), expected)
            self.assertGreater(outcomes["CANCELLED"], 5)
            self.assertGreater(outcomes["OK"], 20)

    def test_full_queue(self):
        with Fleet(self.model, "--max-queued", "4") as fleet:
            expected = self.expected(fleet, 1)
            fleet.wait_ready()
            # All at once: the executors take some, four wait, the rest is refused.
            answers = Load(fleet.address, 1, time_scale=0).answers()
            outcomes = self.check(answers, expected, {"RESOURCE_EXHAUSTED"})
            self.assertGreater(outcomes.get("OK", 0), 3)

    def test_all(self):
        faults = [Fleet.kill_executor, Fleet.freeze_executor, Fleet.cut_connection, Fleet.hold_connection,
                  Fleet.delay_connection, Fleet.terminate_executor, Fleet.kill_controller]
        choice = random.Random(SEED)
        end = time.monotonic() + SECONDS
        with Fleet(self.model) as fleet:
            expected = [self.expected(fleet, seed) for seed in (1, 2)]
            usage = []
            totals = {}
            count = 0
            round_number = 0
            while time.monotonic() < end or round_number < 2:
                seed = round_number % 2 + 1
                fleet.wait_ready()
                load = Load(fleet.address, seed, "--cancel-share", "0.33")
                while load.running():
                    time.sleep(choice.uniform(0.3, 1.2))
                    choice.choice(faults)(fleet, choice)
                    count += 1
                for status, number in self.check(load.answers(), expected[seed - 1], REFUSALS).items():
                    totals[status] = totals.get(status, 0) + number
                round_number += 1
                fleet.wait_ready()
                usage.append(fleet.usage())
            print(f"test_all: {round_number} rounds, {count} faults, {totals}", flush=True)
            self.assertGreater(totals["OK"], 30 * round_number)
            self.check_usage(usage)

    def check_usage(self, usage):
        """Processes that lived through several rounds hold no more descriptors than at first."""
        first = {}
        for figures in usage:
            for key, (descriptors, _) in figures.items():
                first.setdefault(key, descriptors)
                self.assertLess(descriptors, first[key] + 20, (key, usage))


if __name__ == "__main__":
    unittest.main(verbosity=2)
