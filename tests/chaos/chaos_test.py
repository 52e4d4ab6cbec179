"""Streams under faults: every answer ends complete and equal to the undisturbed one, or with a status from the table.

Real processes on loopback: a controller and three executors, one of them behind a proxy, serve a replayed trace while a
seeded schedule kills, stops, cuts, delays and restarts them. Each class of fault has a test of its own; `test_all`
mixes them for FLEXQUANT_CHAOS_SECONDS (default 300).
"""

import os
import pathlib
import random
import signal
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli"))
import harness  # noqa: E402
from fleet import Certificates, Fleet, Load  # noqa: E402
from proxy import Proxy  # noqa: E402

SECONDS = float(os.environ.get("FLEXQUANT_CHAOS_SECONDS", "300"))
SEED = int(os.environ.get("FLEXQUANT_CHAOS_SEED", "1"))
PING_SECONDS = 20  # transport/keepalive.h: within this time a peer that is silent is given up
# What a request may end with instead of its answer, beside CANCELLED by its own client: docs/reliability.md.
REFUSALS = {"UNAVAILABLE", "RESOURCE_EXHAUSTED"}


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

    def test_one_drained_and_one_killed(self):
        # Neither comes back: the third one ends what they had, however slow the machine is.
        with Fleet(self.model, step_timeout=60) as fleet:
            expected = self.expected(fleet, 1)
            fleet.wait_ready()
            load = Load(fleet.address, 1)
            time.sleep(1)
            fleet.executors[0].end(signal.SIGTERM)
            time.sleep(1)
            fleet.executors[1].end(signal.SIGKILL)
            self.assertTrue(load.running(), "the load was over before it was disturbed")
            answers = load.answers()
            self.assertEqual(self.check(answers, expected), {"OK": len(expected)})
            self.assertEqual(sum(fleet.known().values()), 1)
            gap = max(answer["longest_gap_s"] for answer in answers)
            print(f"test_one_drained_and_one_killed: {len(answers)} answers equal, longest gap in a stream {gap:.2f} s",
                  flush=True)

    def test_executors_frozen(self):
        self.disturb([Fleet.freeze_executor])

    def test_connections_cut_held_and_delayed(self):
        self.disturb([Fleet.cut_connection, Fleet.hold_connection, Fleet.delay_connection])

    def test_network_to_an_executor_lost(self):
        # Steps may take a minute here: what tells is the ping that is not answered.
        with Fleet(self.model, step_timeout=60) as fleet:
            expected = self.expected(fleet, 1)
            fleet.wait_ready()
            load = Load(fleet.address, 1)
            time.sleep(2)
            self.assertTrue(load.running())
            fleet.proxy.hold()
            harness.wait_for(lambda: sum(fleet.known().values()) == 2, "the loss found", limit=PING_SECONDS + 5)
            self.check_moved(load.answers(), expected)
            fleet.proxy.go_on()
            fleet.wait_ready()

    def test_network_to_the_controller_lost(self):
        with Fleet(self.model) as fleet:
            expected = self.expected(fleet, 1)
            fleet.wait_ready()
            address = f"127.0.0.1:{harness.free_port()}"
            proxy = Proxy(address, fleet.address)
            try:
                load = Load(address, 1)
                time.sleep(2)
                self.assertTrue(load.running())
                proxy.lose()
                # What had not begun is not resumed.
                self.check_moved(load.answers(), expected, {"UNAVAILABLE"})
            finally:
                proxy.close()

    def check_moved(self, answers, expected, refusals=frozenset()):
        """Some requests waited until the loss was found, but no longer."""
        outcomes = self.check(answers, expected, refusals)
        longest = max(answer["end_s"] - answer["arrival_s"] for answer in answers)
        print(f"{self.id().rsplit('.', 1)[-1]}: {outcomes}, longest request {longest:.2f} s", flush=True)
        self.assertGreater(longest, 5, "nothing was under way when the network was lost")
        self.assertLess(longest, PING_SECONDS + 5)

    def test_executors_leave_and_join(self):
        self.disturb([Fleet.leave_and_join], pause=(0.1, 0.3))

    def test_certificates_expire(self):
        seconds = 20
        certificates = Certificates(seconds)
        end = time.monotonic() + seconds
        with Fleet(self.model, certificates=certificates) as fleet:
            expected = self.expected(fleet, 1)
            fleet.wait_ready()
            time.sleep(max(0.0, end - time.monotonic()))
            load = Load(fleet.address, 1)
            time.sleep(1)
            # Connections that stand go on; none can be made.
            fleet.cut_connection(None)
            fleet.executors[0].end(signal.SIGKILL)
            time.sleep(1)
            self.assertEqual(sum(fleet.known().values()), 1)
            certificates.renew()
            fleet.executors[0].start()
            fleet.wait_ready()
            self.assertTrue(load.running(), "the load was over before the certificates were replaced")
            outcomes = self.check(load.answers(), expected)
            print(f"test_certificates_expire: {outcomes}", flush=True)

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
                  Fleet.delay_connection, Fleet.terminate_executor, Fleet.leave_and_join, Fleet.kill_controller]
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
