"""The metrics endpoint, the access log and JSON logs of a running service."""

import json
import re
import unittest
import urllib.request

import harness


def scrape(port):
    """{name{labels}: value} of the endpoint."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line and line[0] != "#"}


class MetricsTest(harness.CliTest):
    def test_what_a_service_counts(self):
        port_file = harness.new_folder() / "metrics_port"
        with harness.fleet(harness.stories(), "--metrics-listen", "127.0.0.1:0", "--metrics-port-file", port_file,
                           "--log-format", "json") as (executor, executor_address, controller, address):
            port = port_file.read_text().strip()
            before = scrape(port)
            self.assertEqual(before["flexquant_requests_running" + self.labels(before)], 0)
            self.flexquant("generate", "--server", address, "--prompt", "Once", "--max-tokens", 10, "--ignore-eos",
                           "--precision", 4)
            self.flexquant("generate", "--server", address, "--prompt", "Once", "--precision", "plan:none", status=1)
            after = scrape(port)
            model = self.labels(after)

            def value(name, *labels):
                found = [number for key, number in after.items()
                         if key.startswith(name + "{") and all(label in key for label in labels)]
                self.assertEqual(len(found), 1, (name, labels, found))
                return found[0]

            self.assertEqual(value("flexquant_answer_tokens_total"), 10)
            self.assertEqual(value("vllm:generation_tokens_total"), 10)
            self.assertEqual(value("flexquant_answers_total", 'finished_reason="length"'), 1)
            self.assertEqual(value("vllm:request_success_total", 'finished_reason="length"'), 1)
            self.assertEqual(value("flexquant_request_failures_total", 'code="not_found"'), 1)
            self.assertEqual(after["flexquant_time_to_first_token_seconds_count" + model], 1)
            self.assertEqual(after["vllm:time_to_first_token_seconds_count" + model], 1)
            self.assertEqual(after["flexquant_inter_token_latency_seconds_count" + model], 9)
            # The first token comes out of the prefill at 8 bits, nine tokens of five layers follow at 4.
            self.assertEqual(value("flexquant_layer_group_tokens_total", 'bits="4"', 'layer_group="qkv"'), 9 * 5)
            self.assertEqual(value("flexquant_layer_group_tokens_total", 'bits="8"', 'layer_group="lm_head"'), 1)
            self.assertEqual(value("flexquant_executor_ready", f'executor="{executor_address}"'), 1)
            self.assertGreaterEqual(value("flexquant_steps_total"), 10)
            self.assertGreater(value("flexquant_weight_bytes_read_total"), 0)
            self.assertGreater(value("flexquant_device_seconds_total"), 0)
            self.assertEqual(after["vllm:num_requests_waiting" + model], 0)

            executor.kill()
            harness.wait_for(lambda: any(key.startswith("flexquant_executor_losses_total") and number == 1
                                         for key, number in scrape(port).items()), "the loss of the executor")
            with open(controller.log, encoding="utf-8") as log:
                entries = [json.loads(line) for line in log if line.startswith("{")]
            access = [entry["message"] for entry in entries if entry["message"].startswith("request_id=")]
            self.assertEqual(len(access), 2, access)
            self.assertRegex(access[0], r'policy="fixed".* answer_tokens=10 status=OK stop="max_tokens".*bits=')
            self.assertRegex(access[1], "status=NOT_FOUND")
            self.assertTrue(all(re.match(r"\d{4}-\d\d-\d\dT", entry["time"]) for entry in entries))

    @staticmethod
    def labels(figures):
        """The labels that every figure of the model has."""
        key = next(key for key in figures if key.startswith("flexquant_requests_running"))
        return key[len("flexquant_requests_running"):]

    def test_port_that_is_taken(self):
        with harness.fleet(harness.stories(), "--metrics-listen", "127.0.0.1:0") as (_, executor_address, _, address):
            process = harness.start("flexquant-controller", "--model", harness.stories(), "--executor",
                                    executor_address, "--listen", "127.0.0.1:0", "--metrics-listen", address)
            status, _, err = harness.finish(process)
            self.assertEqual(status, 1)
            self.assertIn(f"cannot serve metrics on {address}", err)


if __name__ == "__main__":
    unittest.main()
