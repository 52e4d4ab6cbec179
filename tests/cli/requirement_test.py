"""Budgets of KL: `--max-mean-kl`, `--target-bits`, and what they keep to on text that nothing was fitted on."""

import functools
import json
import shutil
import statistics

import harness

USAGE = 2


@functools.lru_cache(None)
def split_text():
    """The stories' first half, to calibrate on, and a piece of the second."""
    text = harness.data("text/tiny.utf8").read_bytes()
    folder = harness.new_folder()
    cut = text.index(b"\n", len(text) // 2)
    (folder / "calibrate").write_bytes(text[:cut])
    (folder / "held_out").write_bytes(text[cut:cut + 24_000].rsplit(b"\n", 1)[0])
    return folder / "calibrate", folder / "held_out"


@functools.lru_cache(None)
def calibrated():
    package = harness.new_folder() / "model"
    shutil.copytree(harness.stories(), package)
    status, _, err = harness.flexquant("calibrate", package, "--text", split_text()[0])
    assert status == 0, err
    return package


class RequirementTest(harness.CliTest):
    def evaluate(self, *policies, extra=()):
        # 128 tokens of each window are decoded: a window is a request.
        out, _ = self.flexquant("evaluate", "--model", calibrated(), "--text", split_text()[1], "--window", 159,
                                "--json", "--policy", ",".join(policies), *extra)
        return {policy["policy"]: policy for policy in json.loads(out)["policies"]}

    def test_budgets_hold_on_other_text_and_signals_pay(self):
        budgets = (0.003, 0.01, 0.03, 0.1)
        for lookahead in (0, 1):
            policies = self.evaluate(*(f"kl:{kl}{control}" for control in ("", ":shuffled") for kl in budgets),
                                     extra=("--lookahead", lookahead))
            bits, ratios = [], []
            for kl in budgets:
                policy, control = policies[f"kl:{kl}"], policies[f"kl:{kl}:shuffled"]
                self.assertEqual(policy["max_mean_kl"], kl)
                self.assertLessEqual(policy["kl_mean"], kl)
                self.assertGreater(policy["kl_mean"], kl / 4, "what is allowed is used")
                self.assertGreaterEqual(policy["windows_within"], 0.85)
                # The same plans at other tokens: what choosing at random with this histogram costs.
                self.assertAlmostEqual(policy["mean_bits"], control["mean_bits"], places=9)
                ratios.append(policy["kl_mean"] / control["kl_mean"])
                bits.append(policy["mean_bits"])
            self.assertEqual(bits, sorted(bits, reverse=True))
            self.assertLess(statistics.mean(ratios), 0.98, ratios)

    def test_what_the_backend_loses_comes_out_of_the_budget(self):
        loss = json.loads((calibrated() / "flexquant.json").read_text())["calibration"]["backend_kl"]
        coarse = ("--kv-cache-bits", 8, "--prompt-activations", 8)
        both = sum(loss.values())
        self.assertTrue(0 < loss["prompt_activations_8"] < loss["kv_cache_8"] < 0.01, loss)
        budget = 4 * both
        fine, rough = (self.evaluate("8", f"kl:{budget}", extra=extra) for extra in ((), coarse))
        self.assertLess(rough["8"]["kl_mean"], 2 * both)
        self.assertLessEqual(rough[f"kl:{budget}"]["kl_mean"], budget)
        self.assertGreaterEqual(rough[f"kl:{budget}"]["windows_within"], 0.85)
        self.assertGreater(rough[f"kl:{budget}"]["mean_bits"], fine[f"kl:{budget}"]["mean_bits"])
        # The report counts it, too, and says when it alone is more than the budget.
        arguments = ("--prompt", "Once upon a time", "--max-tokens", 64, "--ignore-eos", *coarse)
        report = self.generate(calibrated(), *arguments, "--max-mean-kl", budget)["precision"]
        self.assertTrue(both < report["predicted_mean_kl"] <= budget, report)
        report = self.generate(calibrated(), *arguments, "--max-mean-kl", both / 2)["precision"]
        self.assertGreater(report["predicted_mean_kl"], both / 2)
        self.assertIs(report["within_budget"], False)
        self.assertGreater(report["mean_bits"], 7.9)

    def test_bits_come_to_the_target(self):
        targets = (4, 5.5, 7)
        words = [f"bits:{bits}{control}" for control in ("", ":shuffled") for bits in targets]
        policies = self.evaluate("3", "8", *words)
        ratios = []
        for bits in targets:
            policy, control = policies[f"bits:{bits}"], policies[f"bits:{bits}:shuffled"]
            # The command's bits are bytes, which count scales too.
            expected = policies["3"]["mean_bits"] + (8 - policies["3"]["mean_bits"]) * (bits - 3) / 5
            self.assertAlmostEqual(policy["mean_bits"], expected, delta=0.1)
            ratios.append(policy["kl_mean"] / control["kl_mean"])
        self.assertLess(statistics.mean(ratios), 0.99, ratios)

    def test_report(self):
        arguments = ("--prompt", "Once upon a time", "--max-tokens", 64, "--ignore-eos")
        report = self.generate(calibrated(), *arguments, "--max-mean-kl", 0.05)["precision"]
        self.assertEqual((report["policy"], report["max_mean_kl"]), ("max_mean_kl", 0.05))
        self.assertTrue(0 < report["predicted_mean_kl"] <= 0.05)
        self.assertIs(report["within_budget"], True)
        self.assertLess(report["mean_bits"], 8)
        unset = self.generate(calibrated(), *arguments)["precision"]
        self.assertEqual((unset["policy"], unset["max_mean_kl"]), ("max_mean_kl", 0.01))
        bits = self.generate(calibrated(), *arguments, "--target-bits", 5)["precision"]
        self.assertEqual((bits["policy"], bits["target_mean_bits"]), ("target_mean_bits", 5))
        self.assertAlmostEqual(bits["mean_bits"], 5, delta=0.25)
        self.assertNotIn("within_budget", bits)
        _, text = self.flexquant("generate", "--model", calibrated(), *arguments, "--max-mean-kl", 0.05)
        self.assertRegex(text, r"budget   0\.05 nats of KL a token, predicted 0\.0\d+: within")
        exceeded = self.generate(calibrated(), *arguments, "--max-mean-kl", 0.001, "--max-bits", 3)["precision"]
        self.assertIs(exceeded["within_budget"], False)

    def test_audits_measure_without_changing_the_answer(self):
        arguments = ("--prompt", "Once upon a time", "--max-tokens", 100, "--ignore-eos", "--max-mean-kl", 0.1)
        plain = self.generate(calibrated(), *arguments, "--audit-rate", 0)
        audited = self.generate(calibrated(), *arguments, "--audit-rate", 1)
        self.assertEqual(plain["tokens"][0], audited["tokens"][0])  # the prefill computes it
        kl = [token.pop("audit_kl") for token in audited["tokens"][1:]]
        self.assertEqual(plain["tokens"], audited["tokens"])
        self.assertAlmostEqual(sum(kl) / len(kl), audited["precision"]["audit"]["mean_kl"], 6)
        self.assertNotIn("audit", plain["precision"])
        audit = audited["precision"]["audit"]
        self.assertEqual(audit["tokens"], 99)
        self.assertTrue(0 < audit["low_kl"] < audit["mean_kl"] < audit["high_kl"] < 0.3, audit)
        _, text = self.flexquant("generate", "--model", calibrated(), *arguments, "--audit-rate", 1)
        self.assertRegex(text, r"audit    KL 0\.\d+ nats measured on 99 tokens \(95 %: 0\.\d+ to 0\.\d+\)")

    def test_bad_input(self):
        prompt = ("--prompt", "x", "--max-tokens", 4)
        for arguments, status, words in (
            (("--max-mean-kl", 0), 1, "precision.max_mean_kl"),
            (("--max-mean-kl", "-1"), 1, "precision.max_mean_kl"),
            (("--max-mean-kl", "nan"), 1, "precision.max_mean_kl"),
            (("--max-mean-kl", "inf"), 1, "precision.max_mean_kl"),
            (("--max-mean-kl", "little"), USAGE, "--max-mean-kl"),
            (("--target-bits", 9), 1, "precision.target_mean_bits"),
            (("--target-bits", 5, "--max-mean-kl", 1), USAGE, "excludes"),
            (("--target-bits", 5, "--precision", 4), USAGE, "excludes"),
            (("--max-mean-kl", 0.1, "--entropy-high", 1), USAGE, "--max-mean-kl"),
        ):
            with self.subTest(arguments=arguments):
                _, err = self.flexquant("generate", "--model", calibrated(), *prompt, *arguments, status=status)
                self.assertIn(words, err)
        for policy, words in (("kl:x", "'x' is not a number"), ("kl:0", "max_mean_kl"), ("bits:2", "target_mean_bits")):
            _, err = self.flexquant("evaluate", "--model", calibrated(), "--text", split_text()[1], "--window", 159,
                                    "--policy", policy, status=1)
            self.assertIn(words, err)
        for flag, value in (("--max-mean-kl", 0.01), ("--target-bits", 5)):
            _, err = self.flexquant("generate", "--model", harness.stories(), *prompt, flag, value, status=1)
            self.assertIn("flexquant calibrate", err)
