"""`flexquant evaluate --policy`: what policies cost against the top precision, token by token."""

import json

import harness

POLICIES = ["3", "4", "6", "8", "plan:uniform-4", "dynamic", "random", "position", "dynamic:shuffled"]


class PoliciesTest(harness.CliTest):
    def text(self):
        path = harness.new_folder() / "text"
        path.write_bytes(harness.data("text/tiny.utf8").read_bytes()[:12_000].rsplit(b"\n", 1)[0])
        return path

    def evaluate(self, text, *arguments):
        out, _ = self.flexquant("evaluate", "--model", harness.stories(), "--text", text, "--window", 128,
                                "--max-tokens", 2000, "--json", *arguments)
        report = json.loads(out)
        return report, {policy["policy"]: policy for policy in report["policies"]}

    def test_policies(self):
        text = self.text()
        # Entropies of this model are below 2 nats most of the time: a lower threshold uses the whole ladder.
        arguments = ("--policy", ",".join(POLICIES), "--entropy-high", 1.0, "--prompt-tokens", 16)
        report, policies = self.evaluate(text, *arguments)
        self.assertEqual(list(policies), POLICIES)
        top = policies["8"]
        self.assertEqual((top["kl_mean"], top["kl_max"], top["top1_agreement"], top["mean_bits"]), (0, 0, 1, 8))
        self.assertEqual(top["tokens"], policies["3"]["tokens"])
        self.assertLessEqual(top["tokens"], 2000 - 15 * report["windows"])
        for lower, higher in (("3", "4"), ("4", "6"), ("6", "8")):
            self.assertGreater(policies[lower]["kl_mean"], policies[higher]["kl_mean"])
            self.assertLess(policies[lower]["mean_bits"], policies[higher]["mean_bits"])
        for policy in policies.values():
            self.assertLessEqual(policy["kl_mean_low"], policy["kl_mean"])
            self.assertGreaterEqual(policy["kl_mean_high"], policy["kl_mean"])
            self.assertLessEqual(policy["kl_median"], policy["kl_p99"])
        same = dict(policies["plan:uniform-4"], policy="4")
        self.assertEqual(same, policies["4"])
        for name in ("dynamic", "random", "position"):
            self.assertTrue(policies["3"]["mean_bits"] < policies[name]["mean_bits"] < 8, policies[name])
        # The signals are worth something: the same plans at other tokens cost more.
        self.assertAlmostEqual(policies["dynamic:shuffled"]["mean_bits"], policies["dynamic"]["mean_bits"], places=9)
        self.assertLess(policies["dynamic"]["kl_mean"], policies["dynamic:shuffled"]["kl_mean"])
        again, _ = self.evaluate(text, *arguments)
        self.assertEqual(again, report)

    def test_coarse_prompts_count_as_the_policies_loss(self):
        arguments = ("--policy", "8,6,3", "--prompt-tokens", 40)
        _, fine = self.evaluate(self.text(), *arguments)
        _, coarse = self.evaluate(self.text(), *arguments, "--prompt-activations", 8)
        _, same = self.evaluate(self.text(), *arguments, "--prompt-activations", 15)
        self.assertEqual(same, fine)
        self.assertEqual(fine["8"]["kl_mean"], 0)
        self.assertGreater(coarse["8"]["kl_mean"], 0)
        self.assertLess(coarse["8"]["kl_mean"], coarse["3"]["kl_mean"])

    def test_coarse_keys_and_values_count_as_the_policies_loss(self):
        arguments = ("--policy", "8,6,3", "--prompt-tokens", 40)
        _, fine = self.evaluate(self.text(), *arguments)
        _, coarse = self.evaluate(self.text(), *arguments, "--kv-cache-bits", 8)
        _, same = self.evaluate(self.text(), *arguments, "--kv-cache-bits", 16)
        self.assertEqual(same, fine)
        # The top precision beside the policies is as exact as ever: what they lose is less than a bit's worth.
        self.assertGreater(coarse["8"]["kl_mean"], 0)
        self.assertLess(coarse["8"]["kl_mean"], fine["6"]["kl_mean"])
        self.assertLess(abs(coarse["3"]["kl_mean"] - fine["3"]["kl_mean"]), 0.1 * fine["3"]["kl_mean"])

    def test_oracle(self):
        text = self.text()
        figures = []
        for most in (0, 0.003, 100):
            _, policies = self.evaluate(text, "--policy", "3,8,oracle,oracle:shuffled", "--oracle-kl", most)
            oracle = policies["oracle"]
            self.assertLessEqual(oracle["kl_median"], most)
            self.assertLessEqual(oracle["kl_mean"], policies["oracle:shuffled"]["kl_mean"])
            figures.append(dict(oracle, policy=""))
        # With no budget it is the top precision, with any it is the lowest.
        self.assertEqual(figures[0], dict(policies["8"], policy=""))
        self.assertEqual(figures[2], dict(policies["3"], policy=""))
        self.assertTrue(figures[2]["mean_bits"] < figures[1]["mean_bits"] < figures[0]["mean_bits"])

    def test_bits_are_those_of_the_ladder(self):
        _, policies = self.evaluate(self.text(), "--policy", "position", "--tokens-per-level", 1, "--min-bits", 4)
        _, lowest = self.evaluate(self.text(), "--policy", "4")
        self.assertGreater(policies["position"]["mean_bits"], lowest["4"]["mean_bits"])
        self.assertLess(policies["position"]["mean_bits"], lowest["4"]["mean_bits"] + 0.5)

    def test_bad_input(self):
        text = self.text()
        common = ("evaluate", "--model", harness.stories(), "--text", text, "--window", 128)
        for arguments, words in (
            (("--policy", "7"), "7"),
            (("--policy", "plan:none"), "none"),
            (("--policy", "dynamic", "--entropy-high", "-1"), "entropy_high"),
            (("--policy", "3", "--prompt-tokens", 5000), "--prompt-tokens is 5000"),
            (("--policy", "3", "--precision", "4"), "excludes"),
        ):
            status, _, err = harness.flexquant(*common, *arguments)
            self.assertIn(status, (1, 2), arguments)
            self.assertIn(words, err)
