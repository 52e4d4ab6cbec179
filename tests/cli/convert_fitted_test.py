"""`flexquant convert --calibrate`: weights fitted to a text."""

import json
import signal
import unittest

import harness


class ConvertFittedTest(harness.CliTest):
    source = harness.STORIES / "stories260K.bin"

    def setUp(self):
        if not self.source.exists():
            raise unittest.SkipTest(f"no {self.source}")

    def convert(self, *arguments, status=0, folder=None):
        package = (folder or harness.new_folder()) / "model"
        out, err = self.flexquant("convert", self.source, package, "--group-size", 32, *arguments, status=status)
        return package, out, err

    def fitted(self, *arguments):
        return self.convert("--calibrate", harness.data("text/tiny.utf8"), "--keep-reference", *arguments)[0]

    def perplexities(self, package):
        text = harness.new_folder() / "text"
        text.write_bytes(harness.data("text/tiny.utf8").read_bytes()[-40_000:].split(b"\n", 1)[1])
        out, _ = self.flexquant("evaluate", "--model", package, "--text", text, "--window", 256, "--max-tokens", 4096,
                                "--json")
        return {result["bits"]: result["perplexity"] for result in json.loads(out)["results"]}

    def test_low_widths_gain_and_the_reference_stays(self):
        package = self.fitted()
        plain = self.perplexities(harness.stories())
        fitted = self.perplexities(package)
        self.assertEqual(fitted[16], plain[16])
        self.assertLess(fitted[3] - fitted[16], 0.9 * (plain[3] - plain[16]))
        self.assertLess(fitted[4] - fitted[16], 0.9 * (plain[4] - plain[16]))
        manifest = json.loads((package / "flexquant.json").read_text())
        self.assertLessEqual(manifest["stored_bits_per_weight"], 10.5)
        fitted_to = manifest["provenance"]["fitted_to"]
        self.assertEqual((fitted_to["text"], fitted_to["tokens"]), ("tiny.utf8", 2048))
        self.assertRegex(fitted_to["text_checksum"], "^[0-9a-f]{32}$")
        text, _ = self.flexquant("inspect", package)
        self.assertIn("weights fitted to 2048 tokens of tiny.utf8", text)
        inspected = json.loads(self.flexquant("inspect", package, "--json")[0])
        self.assertEqual(inspected["provenance"]["fitted_to"]["tokens"], 2048)
        self.assertNotIn("fitted_to", json.loads((harness.stories() / "flexquant.json").read_text())["provenance"])

    def test_fine_activations_from_eight_bits(self):
        package, _, _ = self.convert("--keep-reference", "--fine-activations-from", 8)
        usual = harness.stories()
        checksum = json.loads((usual / "flexquant.json").read_text())["checksum"]
        self.assertEqual(json.loads((package / "flexquant.json").read_text())["checksum"], checksum)
        self.assertIn("activations of 15 bits from 8 bits on", self.flexquant("inspect", package)[0])
        self.assertEqual(json.loads(self.flexquant("inspect", usual, "--json")[0])["fine_activations_from"], 6)
        coarse, plain = self.perplexities(package), self.perplexities(usual)
        self.assertNotEqual(coarse.pop(6), plain.pop(6))
        self.assertEqual(coarse, plain)
        # What one of them was calibrated for is not true of the other: nor do servers of both go together.
        revision = json.loads(self.flexquant("generate", "--model", package, "--prompt", "One day", "--max-tokens", 1,
                                             "--json")[0])["model_revision"]
        self.assertEqual(revision, checksum.removeprefix("xxh3-128:") + "-fine-from-8")

    def test_same_bytes_whatever_the_threads(self):
        packages = [self.fitted("--calibrate-tokens", 512, "--threads", threads) for threads in (1, 2)]
        checksums = [json.loads((package / "flexquant.json").read_text())["checksum"] for package in packages]
        self.assertEqual(*checksums)

    def test_bad_input(self):
        short = harness.new_folder() / "short.txt"
        short.write_text("Once upon a time there was a short text. " * 20)
        binary = harness.new_folder() / "binary"
        binary.write_bytes(b"\xff\xfe" * 1000)
        for text, said in ((short, ["short.txt has ", "8 windows of 256, 2048 tokens", "--calibrate-tokens"]),
                           ("/no/such/file", ["/no/such/file"]), (binary, ["binary", "UTF-8"])):
            with self.subTest(text=text):
                folder = harness.new_folder()
                _, _, err = self.convert("--calibrate", text, status=1, folder=folder)
                for part in said:
                    self.assertIn(part, err)
                self.assertEqual(list(folder.iterdir()), [])
        self.convert("--calibrate-tokens", 512, status=2)
        self.convert("--calibrate", short, "--calibrate-tokens", 0, status=2)
        package, _, _ = self.convert()
        _, _, err = self.convert("--calibrate", harness.data("text/tiny.utf8"), status=1, folder=package.parent)
        self.assertIn("--force", err)

    def test_an_interrupt_leaves_nothing(self):
        folder = harness.new_folder()
        process = harness.start("flexquant", "convert", self.source, folder / "model", "--calibrate",
                                harness.data("text/tiny.utf8"), "--calibrate-tokens", 130_000)
        harness.wait_for(lambda: process.poll() is not None or list(folder.iterdir()), "the unquantised weights")
        process.send_signal(signal.SIGINT)
        status, _, err = harness.finish(process)
        self.assertEqual(status, 130, err)
        self.assertEqual(list(folder.iterdir()), [])
