"""What `flexquant evaluate --report` adds on request: tasks, free answers, ablations."""

import json
import shutil

import harness
import report_tables
import requirement_test

SMALL = ("--window", 159, "--max-tokens", 954, "--budgets", 0.01, "--oracle-windows", 0)
# Items that a model of children's stories cannot get wrong, and one that it cannot get right.
CHOICES = [
    {"query": "Once upon a time, there was a little girl named", "choices": ["Lily.", "Zqx77 &#."], "gold": 0},
    {"query": "Question: Tom was sad. His mom gave him a big", "choices": ["\\\\ {7} ||", "hug."], "gold": 1},
    {"query": "They lived happily ever", "choices": ["after.", "@@ %% 99"], "gold": 1},
]
CONTEXTS = [{"context_options": ["One day, a boy named Tim went to the", "@@ %% 99 ## ~~"],
             "continuation": "park with his mom.", "gold": 0}]
LAST_WORDS = [{"context": "Once upon a", "continuation": "time"}, {"context": "Once upon a", "continuation": "zebra"}]
ENDINGS = "One day, a little boy named\n2\n@@ %%\n{7} ||\nTim went to the park.\n~~ ## 99\n"
PROMPTS = [{"turns": ["Once upon a time"]}, {"prompt": "One day, a boy named Tim"}, {"prompt": "The sun was"}]


def lines(items):
    path = harness.new_folder() / "items"
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


class ReportTasksTest(harness.CliTest):
    def report(self, *arguments, folder=None, status=0):
        """The report, whose tables are those of report.md."""
        folder = folder or harness.new_folder()
        _, err = self.flexquant("evaluate", "--model", requirement_test.calibrated(), "--text",
                                requirement_test.split_text()[1], "--report", folder, *SMALL, *arguments, status=status)
        if status != 0:
            return err
        found = json.loads((folder / "report.json").read_text())
        report_tables.check(self, folder, found)
        return found

    def test_tasks(self):
        endings = harness.new_folder() / "endings"
        endings.write_text(ENDINGS)
        folder = harness.new_folder()
        arguments = ("--tasks", f"choices={lines(CHOICES)}", f"contexts={lines(CONTEXTS)}", f"endings={endings}",
                     f"last={lines(LAST_WORDS)}")
        found = self.report(*arguments, folder=folder)
        expected = {"choices": 2 / 3, "contexts": 1, "endings": 1, "last": 1 / 2}
        self.assertEqual([task["task"] for task in found["tasks"]], list(expected))
        for task in found["tasks"]:
            policies = {policy["policy"]: policy for policy in task["policies"]}
            self.assertEqual(list(policies), ["3", "4", "5", "6", "8", "kl:0.01"])
            for name in ("6", "8", "kl:0.01"):
                self.assertAlmostEqual(policies[name]["accuracy"]["value"], expected[task["task"]])
            self.assertEqual(policies["8"]["mean_bits"], 8)
            self.assertEqual(policies["8"]["against_8_bits"], {"value": 0, "low": 0, "high": 0})
            self.assertEqual(policies["8"]["changed"]["value"], 0)
            self.assertLess(policies["3"]["mean_bits"], policies["4"]["mean_bits"])
        self.assertEqual(found["tasks"][0]["items"], 3)
        page = (folder / "report.html").read_text()
        self.assertIn("<h3>endings, 1 items</h3>", page)
        size = (folder / "measured.jsonl").stat().st_size
        self.assertEqual(self.report(*arguments, folder=folder), found)
        self.assertEqual((folder / "measured.jsonl").stat().st_size, size, "nothing is measured again")
        fewer = self.report(*arguments, "--limit", 2, folder=folder)
        self.assertEqual(fewer["tasks"][0]["items"], 2)

    def test_answers(self):
        folder = harness.new_folder()
        arguments = ("--prompts", lines(PROMPTS), "--answer-tokens", 24)
        answers = self.report(*arguments, folder=folder)["answers"]
        self.assertEqual((answers["prompts"], answers["reference"], answers["chat_template"]), (3, "16", False))
        policies = {policy["policy"]: policy for policy in answers["policies"]}
        self.assertEqual(list(policies), ["16", "8", "6", "5", "4", "3", "dynamic", "kl:0.01"])
        reference = policies["16"]
        self.assertEqual((reference["rouge_l"]["value"], reference["equal"]["value"]), (1, 1))
        for name, policy in policies.items():
            self.assertTrue(0 < policy["tokens"]["value"] <= 24, name)
            self.assertTrue(0 <= policy["repeated_4grams"]["value"] < 1, name)
            self.assertTrue(0 <= policy["equal"]["value"] <= policy["rouge_l"]["value"] <= 1, name)
        self.assertLess(policies["3"]["rouge_l"]["value"], policies["8"]["rouge_l"]["value"])
        # As served one by one.
        kept = {piece["id"]: piece["value"]
                for piece in map(json.loads, (folder / "measured.jsonl").read_text().splitlines())}
        for index, prompt in enumerate(("Once upon a time", "One day, a boy named Tim")):
            alone = self.generate(requirement_test.calibrated(), "--prompt", prompt, "--max-tokens", 24, "--precision",
                                  4)
            together = next(value for name, value in kept.items()
                            if name.endswith(f"/4/{index}") and name.startswith("answers"))
            self.assertEqual(together["text"], alone["text"])
            self.assertEqual(together["tokens"], alone["usage"]["generated_tokens"])
        self.assertEqual(self.report(*arguments, folder=folder)["answers"], answers)

    def test_ablations(self):
        other = harness.new_folder() / "other"
        shutil.copytree(requirement_test.calibrated(), other)
        found = self.report("--ablations", "--other-calibration", other)
        ablations = {ablation["name"]: ablation["comparisons"] for ablation in found["ablations"]}
        self.assertEqual(list(ablations), ["lookahead", "one way", "hysteresis", "signals", "ladder",
                                           "calibration text"])
        self.assertEqual(ablations["lookahead"][0]["policy"], "kl:0.01 lookahead 0")
        # Who cannot go back up reads less and loses more.
        for comparison in ablations["one way"]:
            if comparison["against"] == "kl:0.01":
                self.assertLess(comparison["bytes_ratio"]["value"], 1)
                self.assertGreater(comparison["kl_ratio"]["value"], 1)
        # The same calibration is the same policy.
        same = ablations["calibration text"][0]
        self.assertEqual((same["kl_ratio"]["value"], same["bytes_ratio"]["value"]), (1, 1))
        for comparison in ablations["signals"]:
            self.assertEqual((comparison["against"], comparison["windows"]), ("bits:6 signals none", 3))
            self.assertAlmostEqual(comparison["bytes_ratio"]["value"], 1, delta=0.02)
        # Lowering layer groups by their KL is worth much against doing so at random.
        ratios = [c["kl_ratio"]["value"] for c in ablations["ladder"] if c["against"] == "static mixed plans"]
        self.assertGreater(max(ratios), 2)
        self.assertGreater(min(ratios), 1)

    def test_bad_input(self):
        missing = harness.new_folder() / "none"
        good = CHOICES[0]
        for arguments, status, words in (
            (("--tasks", "piqa"), 2, "NAME=FILE"),
            (("--other-calibration", missing), 2, "--ablations"),
            (("--ablations", "--other-calibration", harness.stories()), 1, "--other-calibration"),
            (("--tasks", f"t={missing}"), 1, str(missing)),
            (("--tasks", f"t={lines([])}"), 1, "is empty"),
            (("--tasks", f"t={lines([good, {**good, 'gold': 2}])}"), 1, "items:2: has no gold"),
            (("--tasks", f"t={lines([good, {**good, 'gold': -1}])}"), 1, "items:2: has no gold"),
            (("--tasks", f"t={lines([good, {**good, 'choices': ['one']}])}"), 1, "items:2: is no item"),
            (("--tasks", f"t={lines([good, LAST_WORDS[0]])}"), 1, "items:2: is of another form"),
            (("--tasks", f"t={lines([{**good, 'query': ''}])}"), 1, "item 1 has"),
            (("--prompts", missing), 1, str(missing)),
            (("--prompts", lines([{"turns": []}])), 1, "items:1:"),
            (("--prompts", lines([{"prompt": 7}])), 1, "items:1:"),
        ):
            with self.subTest(arguments=arguments):
                self.assertIn(words, self.report(*arguments, status=status))
