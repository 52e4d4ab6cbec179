"""`flexquant convert` never holds a whole model: what fits a machine quantised can be quantised on it."""

import os
import subprocess

import harness

WEIGHTS = 134_515_008  # of SmolLM2-135M


class ConvertMemoryTest(harness.CliTest):
    def test_less_than_the_weights_in_16_bits(self):
        source = harness.smollm2_gguf()
        process = harness.start("flexquant", "convert", source, harness.new_folder() / "model",
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.assertEqual(process.returncode, 0)
        # Resident pages of the mapped file included.
        self.assertLess(usage.ru_maxrss * 1024, 2 * WEIGHTS)
