"""`flexquant evaluate`: fewer bits, more perplexity."""

import json

import harness


class PerplexityTest(harness.CliTest):
    def ladder(self, package, text, window):
        out, _ = self.flexquant("evaluate", "--model", package, "--text", text, "--window", window, "--json")
        return {result["bits"]: result["perplexity"] for result in json.loads(out)["results"]}

    def check_ladder(self, package, text, window):
        ladder = self.ladder(package, text, window)
        self.assertEqual(sorted(ladder), [3, 4, 5, 6, 8, 16])
        for lower, higher in ((3, 4), (4, 5), (5, 6), (6, 8)):
            self.assertGreater(ladder[lower], ladder[higher], f"{lower} against {higher} bits: {ladder}")
        self.assertLess(abs(ladder[8] / ladder[16] - 1), 0.01, ladder)
        return ladder

    def excerpt(self, name, size):
        text = harness.new_folder() / "text"
        text.write_bytes(harness.data(name).read_bytes()[:size].rsplit(b"\n", 1)[0])
        return text

    def test_stories(self):
        ladder = self.check_ladder(harness.stories(), self.excerpt("text/tiny.utf8", 40_000), 256)
        self.assertLess(ladder[16], 8)

    def test_smollm2(self):
        ladder = self.check_ladder(harness.smollm2(), self.excerpt("text/wiki.test.raw", 12_000), 512)
        self.assertLess(ladder[16], 40)
