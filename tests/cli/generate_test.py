"""What `flexquant generate` answers, embedded and through servers."""

import json
import os
import pty
import re
import subprocess

import harness

PROMPT = ("--prompt", "Once upon a time")


class WidthsTest(harness.CliTest):
    def check_width(self, package, bits):
        answer = self.generate(package, *PROMPT, "--precision", bits, "--max-tokens", 24, "--ignore-eos")
        tokens = answer["tokens"]
        self.assertTrue(answer["complete"])
        self.assertEqual(len(tokens), 24)
        self.assertEqual([token["id"] for token in tokens], answer["token_ids"])
        self.assertEqual({token["bits"] for token in tokens[1:]}, {bits})
        self.assertEqual(tokens[0]["bits"], max(bits, 8), "the first token comes from the prefill")
        self.assertEqual(answer["effective"]["precision"]["fixed_bits"], bits)
        report = answer["precision"]
        self.assertEqual(report["policy"], "fixed")
        self.assertEqual(sum(bar["tokens"] for bar in report["histogram"]), 24)
        self.assertLessEqual({bar["bits"] for bar in report["histogram"]}, {bits, 8})
        self.assertEqual(answer["usage"]["generated_tokens"], 24)
        self.assertGreater(answer["usage"]["time_to_first_token_ns"], 0)
        return report

    def check_widths(self, package):
        read = [self.check_width(package, bits)["weight_bytes_read"] for bits in (3, 4, 5, 6, 8, 16)]
        self.assertEqual(read, sorted(set(read)), "more bits read more bytes")

    def test_stories(self):
        self.check_widths(harness.stories())

    def test_smollm2(self):
        self.check_widths(harness.smollm2())

    def test_16_bits_need_the_reference(self):
        _, err = self.flexquant("generate", "--model", harness.stories(reference=False), *PROMPT, "--precision", "16",
                                status=1)
        self.assertIn("reference", err)

    def test_golden_text_at_16_bits(self):
        package = harness.stories()
        readme = (harness.STORIES / "README.md").read_text()
        golden = list(map(int, re.search(r"ids \(256\): ([\d ]+)", readme).group(1).split()))
        answer = self.generate(package, "--prompt", "", "--precision", "16", "--max-tokens", 200, "--ignore-eos")
        self.assertEqual(answer["token_ids"], golden[:200])
        self.assertTrue(answer["text"].lstrip().startswith("Once upon a time, there was a little girl named Lily."))


class DynamicTest(harness.CliTest):
    def check_dynamic(self, package, *arguments):
        answer = self.generate(package, "--precision", "dynamic", "--max-tokens", 64, *arguments)
        bits = {token["bits"] for token in answer["tokens"][1:]}
        self.assertGreaterEqual(len(bits), 2, bits)
        self.assertGreaterEqual(len(answer["precision"]["histogram"]), 2)
        self.assertEqual(answer["precision"]["calibration"], "uncalibrated")
        self.assertGreater(answer["precision"]["plan_changes"], 0)
        self.assertLess(answer["precision"]["weight_bytes_read"], answer["precision"]["weight_bytes_top"])
        self.assertAlmostEqual(answer["precision"]["mean_bits"],
                               sum(token["bits"] for token in answer["tokens"]) / len(answer["tokens"]), places=6)

    def test_stories(self):
        self.check_dynamic(harness.stories(), *PROMPT)

    def test_smollm2_chat(self):
        self.check_dynamic(harness.smollm2(), "--chat", "--prompt", "Why is the sky blue?")

    def test_bounds(self):
        answer = self.generate(harness.stories(), *PROMPT, "--min-bits", "4", "--max-bits", "6", "--max-tokens", 64)
        self.assertLessEqual({token["bits"] for token in answer["tokens"][1:]}, {4, 5, 6})

    def test_controls(self):
        random = self.generate(harness.stories(), *PROMPT, "--precision", "random", "--seed", 1, "--max-tokens", 64)
        self.assertGreaterEqual(len({token["bits"] for token in random["tokens"]}), 4)
        position = self.generate(harness.stories(), *PROMPT, "--precision", "position", "--tokens-per-level", 4,
                                 "--max-tokens", 32, "--ignore-eos")
        bits = [token["bits"] for token in position["tokens"][1:]]
        self.assertEqual(bits, sorted(bits, reverse=True))

    def test_named_plan(self):
        answer = self.generate(harness.stories(), *PROMPT, "--precision", "plan:uniform-5", "--max-tokens", 8)
        self.assertEqual({token["bits"] for token in answer["tokens"][1:]}, {5})
        self.assertEqual(answer["precision"]["policy"], "plan")


class SameTokensTest(harness.CliTest):
    """Same request and seed, same tokens, wherever and however it runs."""

    SAMPLED = (*PROMPT, "--temperature", "1.2", "--top-p", "0.95", "--max-tokens", 48, "--ignore-eos",
               "--batch-mode", "isolated")

    def ids(self, where, *arguments):
        return self.generate(where, *self.SAMPLED, *arguments)["token_ids"]

    def check_same(self, package):
        expected = self.ids(package, "--seed", 7)
        self.assertEqual(self.ids(package, "--seed", 7, "--threads", 1), expected)
        # Dynamic plans see one token less with lookahead 1; a fixed one must not notice.
        fixed = [self.ids(package, "--seed", 7, "--precision", 4, "--lookahead", ahead) for ahead in (0, 1)]
        self.assertEqual(fixed[0], fixed[1])
        self.assertNotEqual(self.ids(package, "--seed", 8), expected)
        with harness.fleet(package) as (_, _, _, address):
            self.assertEqual(self.ids(address, "--seed", 7), expected)
        with harness.server("flexquant", "--model", package) as (_, address):
            self.assertEqual(self.ids(address, "--seed", 7), expected)

    def test_stories(self):
        self.check_same(harness.stories())

    def test_smollm2(self):
        self.check_same(harness.smollm2())

    def test_8_bit_keys_and_values(self):
        eight = ("--kv-cache-bits", 8)
        expected = self.ids(harness.stories(), "--seed", 7, *eight)
        self.assertEqual(self.ids(harness.stories(), "--seed", 7, *eight, "--threads", 1), expected)
        with harness.server("flexquant", "--model", harness.stories(), *eight) as (_, address):
            self.assertEqual(self.ids(address, "--seed", 7), expected)

    def test_the_seed_chosen_is_reported(self):
        first = self.generate(harness.stories(), *self.SAMPLED)
        seed = first["effective"]["sampling"]["seed"]
        self.assertEqual(self.ids(harness.stories(), "--seed", seed), first["token_ids"])

    def test_together_as_alone(self):
        expected = [self.ids(harness.stories(), "--seed", seed) for seed in range(4)]
        with harness.server("flexquant", "--model", harness.stories()) as (_, address):
            processes = [harness.start("flexquant", "generate", "--server", address, *self.SAMPLED, "--seed", seed,
                                       "--json") for seed in range(4)]
            answers = [harness.finish(process) for process in processes]

        self.assertEqual([json.loads(out)["token_ids"] for _, out, _ in answers], expected)


class TextTest(harness.CliTest):
    """What people see."""

    ARGUMENTS = ("--max-tokens", 16, "--precision", "4")

    def text(self, *arguments, **options):
        return self.flexquant("generate", "--model", harness.stories(), *self.ARGUMENTS, *arguments, **options)

    def test_text_and_report(self):
        expected = self.generate(harness.stories(), *self.ARGUMENTS, *PROMPT)["text"]
        out, err = self.text(*PROMPT)
        self.assertEqual(out.rstrip("\n"), expected.rstrip("\n"))
        for part in ("mean 4.", "4 bits", "15 tokens", "of weights", "to the first token", "uncalibrated",
                     "max_tokens"):
            self.assertIn(part, err)
        self.assertNotIn("\x1b", out + err)
        self.assertEqual(self.text(*PROMPT, "--no-report")[1], "")

    def test_prompt_from_standard_input_and_file(self):
        expected, _ = self.text(*PROMPT)
        self.assertEqual(self.text(stdin=b"Once upon a time\n")[0], expected)
        file = harness.new_folder() / "prompt.txt"
        file.write_text("Once upon a time\n")
        self.assertEqual(self.text("--prompt-file", file)[0], expected)

    def test_stop_string(self):
        answer = self.generate(harness.stories(), *PROMPT, "--stop", " little", "--max-tokens", 64, "--precision", "8")
        self.assertNotIn(" little", answer["text"])
        self.assertEqual((answer["finish_reason"], answer["stop_cause"]), ("stop", "string: little"))

    def test_colors(self):
        self.assertIn("\x1b[38;5;", self.text(*PROMPT, "--color", "always")[0])
        self.assertIn("\x1b[38;5;", self.on_terminal({"NO_COLOR": ""}))
        self.assertNotIn("\x1b", self.on_terminal({"NO_COLOR": "1"}))

    def on_terminal(self, env):
        """Standard output of a run on a terminal."""
        ours, theirs = pty.openpty()
        process = harness.start("flexquant", "generate", "--model", harness.stories(), *self.ARGUMENTS, *PROMPT,
                                stdout=theirs, stderr=subprocess.DEVNULL, env={**os.environ, **env})
        os.close(theirs)
        output = b""
        try:
            while chunk := os.read(ours, 4096):
                output += chunk
        except OSError:  # how a terminal ends on Linux
            pass
        self.assertEqual(process.wait(harness.LIMIT), 0)
        os.close(ours)
        return output.decode()
