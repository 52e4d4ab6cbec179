"""`flexquant calibrate`: what it measures, writes and draws; how it stops, goes on and refuses."""

import json
import os
import shutil
import signal
import statistics
import unittest
import xml.dom.minidom

import harness

USAGE = 2
PARTIAL = "flexquant.calibration.partial"
SMALL = ("--tokens", 512, "--holdout", 256, "--window", 128, "--rungs", 8)


class CalibrateTest(harness.CliTest):
    def package(self):
        copy = harness.new_folder() / "model"
        shutil.copytree(harness.stories(), copy)
        return copy

    def calibration(self, package):
        return json.loads((package / "flexquant.json").read_text())["calibration"]

    def calibrate(self, package, *arguments, **options):
        return self.flexquant("calibrate", package, "--text", harness.data("text/tiny.utf8"), *arguments, **options)

    def check_ladder(self, calibration):
        ladder = calibration["ladder"]
        self.assertGreaterEqual(len(ladder), 6)
        for cheaper, dearer in zip(ladder, ladder[1:]):
            self.assertLess(cheaper["bytes"], dearer["bytes"])
            self.assertGreater(cheaper["mean_kl"], dearer["mean_kl"])
        self.assertEqual(set(ladder[0]["bits"]), {"3"})
        self.assertEqual(set(ladder[-1]["bits"]), {"8"})
        self.assertEqual((ladder[-1]["mean_kl"], ladder[-1]["top1_agreement"]), (0, 1))
        self.assertGreater(ladder[0]["mean_kl"], 0.1)
        self.assertGreater(ladder[0]["perplexity"], ladder[-1]["perplexity"])
        for rung in ladder:
            self.assertLessEqual(rung["median_kl"], rung["p99_kl"])
            self.assertLess(rung["predicted_kl"], 3 * rung["mean_kl"] + 0.001)

    def test_measures_every_layer_group(self):
        package = self.package()
        before = json.loads((package / "flexquant.json").read_text())
        plot = harness.new_folder() / "plot.svg"
        out, _ = self.calibrate(package, "--plot", plot)
        self.assertIn("2048 positions", out)
        calibration = self.calibration(package)
        self.assertEqual({**before, "calibration": calibration}, json.loads((package / "flexquant.json").read_text()))
        self.assertEqual(calibration["model_revision"], before["checksum"].removeprefix("xxh3-128:"))
        self.assertEqual((calibration["positions"], calibration["holdout_positions"]), (2048, 4096))
        groups = calibration["sensitivity"]
        self.assertEqual([group["group"] for group in groups][-2:], ["layers.4.down", "lm_head"])
        means = [statistics.mean(group["mean_kl"][width] for group in groups) for width in range(4)]
        self.assertEqual(means, sorted(means, reverse=True), "fewer bits, more KL")
        self.assertTrue(all(0 < kl for kl in groups[-1]["mean_kl"]), "lm_head is measured")
        for width, bits in enumerate((3, 4, 5, 6)):
            bucket_kl = groups[3][f"bucket_kl_{bits}"]
            total = sum(kl * count for kl, count in zip(bucket_kl, calibration["bucket_positions"]))
            self.assertAlmostEqual(total / 2048, groups[3]["mean_kl"][width])
        self.check_ladder(calibration)
        self.assertFalse((package / PARTIAL).exists())
        self.check_plot(plot, package)
        text, _ = self.flexquant("inspect", package)
        self.assertIn(f"calibrated: {len(calibration['ladder'])} rungs, on 2048 + 4096 tokens of tiny.utf8", text)
        inspected = json.loads(self.flexquant("inspect", package, "--json")[0])
        self.assertTrue(inspected["calibrated"])
        self.assertEqual(inspected["calibration"]["rungs"], len(calibration["ladder"]))

    def check_plot(self, plot, package):
        svg = xml.dom.minidom.parse(str(plot)).documentElement
        self.assertEqual(svg.tagName, "svg")
        self.assertGreater(len(svg.getElementsByTagName("polyline")), 4 * 4 + 1)
        self.assertNotIn("href", plot.read_text())
        again = harness.new_folder() / "again.svg"
        self.flexquant("calibrate", package, "--plot", again)
        self.assertEqual(plot.read_text(), again.read_text())

    def test_goes_on_after_an_interrupt(self):
        straight = self.package()
        self.calibrate(straight, *SMALL, "--threads", 1)
        package = self.package()
        command = ("calibrate", package, "--text", harness.data("text/tiny.utf8"), *SMALL)
        process = harness.start("flexquant", *command)
        harness.wait_for(lambda: process.poll() is not None or self.units_done(package) >= 2, "some measurements")
        process.send_signal(signal.SIGINT)
        clock = harness.Clock()
        status, _, err = harness.finish(process)
        self.assertEqual(status, 130, err)
        self.assertLess(clock.seconds(), 5)
        self.assertIn(PARTIAL, err)
        self.assertIsNone(self.calibration(package))
        done = self.units_done(package)
        self.assertGreaterEqual(done, 2)

        _, err = self.flexquant(*command, "--threads", 1)
        self.assertIn("going on", err)
        self.assertFalse((package / PARTIAL).exists())
        self.assertEqual(self.calibration(package), self.calibration(straight))

    def units_done(self, package):
        # Replaced whole by the program: never half written.
        return json.loads((package / PARTIAL).read_text())["units_done"] if (package / PARTIAL).exists() else 0

    def test_what_does_not_fit_is_measured_anew(self):
        package = self.package()
        for text, arguments, said in (("damaged", (), ""),
                                      ('{"key": "other", "units_done": 1, "bucket_positions": [0, 0, 0, 0, 0], '
                                       '"groups": [], "rungs": [], "holdout_signals": [], '
                                       '"kv_cache_8": {"kl": 0, "positions": 0}, '
                                       '"coarse_prompts": {"kl": 0, "positions": 0}}', (), "is replaced"),
                                      ("damaged", ("--restart",), "")):
            (package / PARTIAL).write_text(text)
            _, err = self.calibrate(package, *SMALL, *arguments)
            self.assertIn(said, err)
            self.check_ladder(self.calibration(package))

    def check(self, status, parts, *arguments):
        with self.subTest(arguments=arguments):
            out, err = self.flexquant("calibrate", *arguments, status=status)
            self.assertEqual(out, "")
            for part in parts:
                self.assertIn(part, err)

    def test_bad_input(self):
        package = self.package()
        text = harness.data("text/tiny.utf8")
        short = harness.new_folder() / "short.txt"
        short.write_text("Once upon a time there was a short text. " * 20)
        binary = harness.new_folder() / "binary"
        binary.write_bytes(b"\xff\xfe" * 1000)
        self.check(1, ["short.txt has ", "24 windows of 256, 6144 tokens", "longer text"], package, "--text", short)
        self.check(1, ["/no/such/file"], package, "--text", "/no/such/file")
        self.check(1, ["binary", "UTF-8"], package, "--text", binary)
        self.check(1, ["--window is 513", "2 to 511"], package, "--text", text, "--window", 513)
        self.check(1, ["/no/such/model"], "/no/such/model", "--text", text)
        self.check(1, ["not calibrated", "--text"], package, "--plot", "plot.svg")
        for flag, value in (("--tokens", 0), ("--tokens", -3), ("--holdout", 0), ("--window", 1), ("--rungs", 1)):
            self.check(USAGE, [flag, str(value)], package, "--text", text, flag, value)
        self.check(USAGE, ["--text"], package)
        self.assertFalse((package / PARTIAL).exists())
        self.assertIsNone(self.calibration(package))

    @unittest.skipIf(os.geteuid() == 0, "root may write everywhere")
    def test_a_package_that_cannot_be_written(self):
        package = self.package()
        package.chmod(0o555)
        self.check(1, [str(package), "must be writable"], package, "--text", harness.data("text/tiny.utf8"))

    def test_a_calibration_of_other_weights_is_refused(self):
        package = self.package()
        self.calibrate(package, *SMALL)
        manifest = json.loads((package / "flexquant.json").read_text())
        manifest["calibration"]["model_revision"] = "0" * 32
        (package / "flexquant.json").write_text(json.dumps(manifest))
        _, err = self.flexquant("inspect", package, status=1)
        for part in ("0" * 32, manifest["checksum"].removeprefix("xxh3-128:"), "flexquant calibrate"):
            self.assertIn(part, err)
        self.calibrate(package, *SMALL)
        self.flexquant("inspect", package)
