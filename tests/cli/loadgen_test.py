"""flexquant loadgen: traces it reads, what it measures, what it refuses."""

import json
import unittest

import harness


class LoadgenTest(harness.CliTest):
    def run_load(self, *flags):
        folder = harness.new_folder()
        out, _ = self.flexquant("loadgen", "--model", harness.stories(), "--json", "--answers",
                                folder / "answers.jsonl", "--plot", folder / "plot.svg", *flags)
        answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
        self.assertTrue((folder / "plot.svg").read_text().rstrip().endswith("</svg>"))
        return json.loads(out), answers

    def test_poisson(self):
        flags = ("--requests", 12, "--rate", 100, "--prompt-tokens", 20, "--answer-tokens", 15, "--precision", "4",
                 "--max-tpot-ms", 1e6, "--temperature", 1)
        summary, answers = self.run_load(*flags)
        self.assertEqual(summary["outcomes"], {"ok": 12})
        self.assertEqual([len(answer["token_ids"]) for answer in answers], [15] * 12)
        self.assertEqual(summary["good_answers_per_second"], summary["answers_per_second"])
        self.assertGreater(summary["time_to_first_token_ms"]["p50"], 0)
        # The same seed sends the same requests; another one others.
        isolated, again = self.run_load(*flags, "--batch-mode", "isolated")
        self.assertLess(isolated["mean_bits"], 5)  # shared, prompts beside decodes raise them
        self.assertEqual([answer["token_ids"] for answer in again],
                         [answer["token_ids"] for answer in self.run_load(*flags, "--batch-mode", "isolated")[1]])
        other = self.run_load(*flags, "--load-seed", 2)[1]
        self.assertNotEqual([answer["token_ids"] for answer in answers], [answer["token_ids"] for answer in other])

    def test_limits_that_nothing_keeps(self):
        summary, _ = self.run_load("--requests", 3, "--rate", 0, "--max-ttft-ms", 1e-6)
        self.assertEqual(summary["good_answers_per_second"], 0)
        self.assertGreater(summary["answers_per_second"], 0)

    def test_traces(self):
        folder = harness.new_folder()
        azure = folder / "azure.csv"
        azure.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:50.9951690,10,7\n"
                         "2023-11-16 18:15:46.6805900,40,5\n")
        summary, answers = self.run_load("--trace", azure, "--time-scale", 0.01)
        self.assertEqual(summary["outcomes"], {"ok": 2})
        self.assertEqual([len(answer["token_ids"]) for answer in answers], [5, 7])
        self.assertAlmostEqual(answers[1]["arrival_s"], 0.04314579, places=6)
        mooncake = folder / "mooncake.jsonl"
        mooncake.write_text("".join(json.dumps({"timestamp": 1000 * i, "input_length": 600, "output_length": 50,
                                                "hash_ids": [0, i]}) + "\n" for i in range(3)))
        summary, answers = self.run_load("--trace", mooncake, "--time-scale", 0, "--token-scale", 0.1, "--requests", 2)
        self.assertEqual([len(answer["token_ids"]) for answer in answers], [5, 5])

    def test_bad_traces(self):
        folder = harness.new_folder()
        bad = folder / "bad.csv"
        bad.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n")
        _, err = self.flexquant("loadgen", "--model", harness.stories(), "--trace", bad, status=1)
        self.assertIn("bad.csv:2: not TIMESTAMP", err)
        _, err = self.flexquant("loadgen", "--model", harness.stories(), "--trace", folder / "none.csv", status=1)
        self.assertIn("NOT_FOUND", err)
        empty = folder / "empty.jsonl"
        empty.write_text("")
        _, err = self.flexquant("loadgen", "--model", harness.stories(), "--trace", empty, status=1)
        self.assertIn("has no requests", err)

    def test_server_that_is_not_there(self):
        _, err = self.flexquant("loadgen", "--server", f"127.0.0.1:{harness.free_port()}", "--requests", 1, status=1)
        self.assertIn("UNAVAILABLE", err)


if __name__ == "__main__":
    unittest.main()
