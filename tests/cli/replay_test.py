"""`flexquant bench decode --schedule`: plans that a policy chose, replayed against 8 bits everywhere."""

import functools
import json

import harness
import report_test
import requirement_test


@functools.lru_cache(None)
def recorded():
    """(measured.jsonl, the policies of its report)"""
    folder = harness.new_folder() / "report"
    found, _ = report_test.report(requirement_test.calibrated(), folder, "--max-tokens", 700, "--budgets", 0.01,
                                  "--oracle-windows", 0)
    return folder / "measured.jsonl", {policy["policy"]: policy for policy in found["policies"]}


class ReplayTest(harness.CliTest):
    def replay(self, *arguments, schedule=None):
        out, _ = self.flexquant("bench", "decode", "--schedule", schedule or recorded()[0], "--model",
                                requirement_test.calibrated(), "--threads", 1, "--repetitions", 2, "--json", *arguments)
        return json.loads(out)

    def check_times(self, found):
        for times in (found["dynamic"]["ms_per_token"], found["static"]["ms_per_token"], found["speed_up"]):
            self.assertTrue(0 < times["min"] <= times["median"] <= times["max"], times)
        self.assertAlmostEqual(found["speed_up_by_bytes"], 8 / found["dynamic"]["mean_bits"])
        self.assertEqual(found["static"]["mean_bits"], 8)

    def test_a_policy_is_replayed_as_recorded(self):
        for lookahead in (0, 1):
            found = self.replay("--lookahead", lookahead)
            policy = recorded()[1]["kl:0.01"]
            self.check_times(found)
            self.assertAlmostEqual(found["schedule"]["kl_mean"], policy["kl_mean"]["value"])
            self.assertAlmostEqual(found["dynamic"]["mean_bits"], policy["mean_bits"]["value"])
            self.assertEqual((found["context"], found["batch"]), (32, 1))
            self.assertTrue(found["controller"]["included"])
            self.assertGreater(found["controller"]["us_per_token"], 0)
        # It was recorded with lookahead 1; only the prompt's signals are not in the file.
        self.assertGreater(found["controller"]["choices_as_recorded"], 0.8)

    def test_only_some_tokens(self):
        found = self.replay("--schedule-tokens", 200)
        self.assertEqual((found["schedule"]["tokens"], found["schedule"]["windows"]), (200, 2))

    def test_the_longest_run_of_a_file_counts(self):
        lines = recorded()[0].read_text().splitlines(keepends=True)
        cut = json.loads(next(line for line in lines if '"policies/kl:0.01/0 of ' in line))
        cut["id"] = "policies/kl:0.01/0 of 5 tokens"
        cut["value"] = {name: values[:5] for name, values in cut["value"].items()}
        both = harness.new_folder() / "both"
        both.write_text("".join([*lines, json.dumps(cut) + "\n"]))
        self.assertEqual(self.replay(schedule=both)["schedule"], {**self.replay()["schedule"], "file": str(both)})

    def test_static_plans_and_controls(self):
        found = self.replay("--schedule-policy", "8")
        self.check_times(found)
        self.assertEqual((found["schedule"]["kl_mean"], found["dynamic"]["mean_bits"]), (0, 8))
        found = self.replay("--schedule-policy", "kl:0.01:shuffled")
        self.check_times(found)
        self.assertFalse(found["controller"]["included"])
        self.assertIn("control", found["controller"]["note"])

    def test_uncalibrated_package_leaves_the_choice_out(self):
        out, _ = self.flexquant("bench", "decode", "--schedule", recorded()[0], "--model", harness.stories(),
                                "--threads", 1, "--repetitions", 1)
        self.assertRegex(out, r"(?m)^  speed-up +[\d.]+ \([\d.]+ to [\d.]+\); by bytes alone [\d.]+$")
        self.assertRegex(out, r"choice is not included: .*flexquant calibrate")

    def test_bad_input(self):
        folder = harness.new_folder()
        lines = recorded()[0].read_text().splitlines(keepends=True)
        # A plan of another length, the layers of another model, a list cut short, no log at all.
        window = next(line for line in lines if '"policies/kl:0.01/0 of ' in line)
        value = json.loads(window)
        digits = value["value"]["plans"][0]["bits"]

        def written(name, change):
            changed = json.loads(window)
            change(changed["value"])
            (folder / name).write_text(json.dumps(changed) + "\n")
            return folder / name

        def other_layers(value):
            for plan in value["plans"]:
                plan["bits"] = plan["bits"][:4] + plan["bits"]

        uneven = written("uneven", lambda value: value["plans"].__setitem__(0, {"bits": digits + "8"}))
        deeper = written("deeper", other_layers)
        short = written("short", lambda value: value["entropy"].pop())
        words = folder / "words"
        words.write_text("no log\n")
        model = ("--model", requirement_test.calibrated())
        good = recorded()[0]
        for schedule, arguments, status, expected in (
            (uneven, model, 1, "layer groups"),
            (deeper, model, 1, "recorded on"),
            (short, model, 1, "policies/kl:0.01/0 of "),
            (words, model, 1, "evaluate --report"),
            (good, (*model, "--schedule-policy", "none"), 1, "kl:0.01"),
            (good, (*model, "--context", 500), 1, "shorten the context"),
            (good, (), 2, "--model"),
            (good, (*model, "--batch", 2), 2, "--random"),
            (good, (*model, "--fine-activations-from", 8), 2, "which says it itself"),
            (good, (*model, "--context", "32,64"), 2, "one --context"),
            (good, (*model, "--kernels"), 2, "excludes"),
            (folder / "none", model, 2, "--schedule"),
        ):
            with self.subTest(schedule=schedule.name, arguments=arguments):
                _, err = self.flexquant("bench", "decode", "--schedule", schedule, *arguments, status=status)
                self.assertIn(expected, err)
        _, err = self.flexquant("bench", "decode", *model, status=2)
        self.assertIn("--schedule", err)
