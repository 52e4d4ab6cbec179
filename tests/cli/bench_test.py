"""`flexquant bench` measures what it says."""

import json

import harness

SIZES = ("--threads", "2", "--tokens", "8", "--prefill", "16", "--repetitions", "2", "--batch", "3")


class BenchTest(harness.CliTest):
    def test_every_precision_alone_and_together(self):
        out, _ = self.flexquant("bench", "--model", harness.stories(reference=False), *SIZES, "--json")
        result = json.loads(out)
        self.assertGreater(result["memory_bytes_per_second"]["median"], 0)
        names = ["3 bits", "4 bits", "5 bits", "6 bits", "8 bits", "dynamic"]
        self.assertEqual([row["name"] for row in result["decode"]], names)
        self.assertEqual([row["name"] for row in result["decode_together"]], names)
        self.assertEqual([row["name"] for row in result["prefill"]], ["8 bits"])
        for row in result["decode"] + result["decode_together"] + result["prefill"]:
            rate = row["tokens_per_second"]
            self.assertTrue(0 < rate["min"] <= rate["median"] <= rate["max"], row)
        bytes_read = [row["weight_bytes_per_token"] for row in result["decode"][:5]]
        self.assertEqual(bytes_read, sorted(bytes_read))
        self.assertEqual({row["sequences"] for row in result["decode_together"]}, {3})

    def test_the_table_has_titles_and_the_share_of_reading_memory(self):
        out, _ = self.flexquant("bench", "--model", harness.stories(), *SIZES)
        self.assertIn("reading memory: ", out)
        self.assertIn("3 sequences together", out)
        self.assertIn("% of reading memory", out)
