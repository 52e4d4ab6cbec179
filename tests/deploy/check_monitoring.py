"""Alerts and dashboard: that Prometheus understands them, and that the controller exports what they read."""

import json
import re
import shutil
import sys
import tempfile
import unittest
import urllib.request

import yaml

import common

sys.path.insert(0, str(common.SOURCE / "tests/cli"))
import harness  # noqa: E402  # pylint: disable=wrong-import-position

ALERTS = common.CHART / "files/alerts.yaml"
DASHBOARD = common.CHART / "files/dashboard.json"
SCRAPED_LABELS = {"namespace", "pod", "instance", "job"}  # that Prometheus adds


def expressions():
    """(where, PromQL) of every alert, panel and scaler."""
    for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$model", ".*").replace(
                "$pod", ".*")
    minimal = ("--values", str(common.CHART / "examples/cpu-minimal.yaml"), "--set")
    for each in common.template(*minimal, "executor.autoscaling.kind=keda"):
        if each["kind"] == "ScaledObject":
            for trigger in each["spec"]["triggers"]:
                yield "KEDA", trigger["metadata"]["query"]
    for each in common.template(*minimal, "executor.autoscaling.kind=hpa"):
        if each["kind"] == "HorizontalPodAutoscaler":
            for metric in each["spec"]["metrics"]:
                yield "HPA", metric["external"]["metric"]["name"]


def metric_names(expression):
    return set(re.findall(r"\b(?:flexquant_|vllm:)[a-z0-9_]+\b", expression))


def label_names(expression):
    names = {name for braces in re.findall(r"\{([^}]*)\}", expression) for name in re.findall(r"(\w+)\s*[=!]", braces)}
    for words in re.findall(r"\b(?:by|ignoring|on)\s*\(([^)]*)\)", expression):
        names |= {word.strip() for word in words.split(",")}
    return names


def missing(expression, exported):
    """Metrics and labels of an expression that nobody exports."""
    labels = {"le"} | SCRAPED_LABELS | {label for found in exported.values() for label in found}
    return (metric_names(expression) - set(exported)) | (label_names(expression) - labels)


def exported_metrics():
    """{metric: its labels} of a controller that has answered, refused and measured."""
    port_file = harness.new_folder() / "metrics_port"
    with harness.fleet(harness.stories(), "--metrics-listen", "127.0.0.1:0", "--metrics-port-file",
                       port_file) as (_, _, _, address):
        assert harness.flexquant("generate", "--server", address, "--prompt", "Once", "--max-tokens", 4)[0] == 0
        assert harness.flexquant("generate", "--server", address, "--prompt", "x", "--precision", "plan:none")[0] == 1
        url = f"http://127.0.0.1:{port_file.read_text(encoding='ascii').strip()}/metrics"
        with urllib.request.urlopen(url, timeout=30) as response:
            lines = [line for line in response.read().decode().splitlines() if line and line[0] != "#"]
    exported = {}
    for line in lines:
        name = re.match(r"[\w:]+", line).group(0)
        exported.setdefault(name, set()).update(re.findall(r'(\w+)="', line))
    return exported


class MonitoringTest(unittest.TestCase):
    def promtool(self, *arguments, cwd=None):
        if not common.PROMTOOL:
            self.skipTest("no promtool: Debian's package prometheus could not be fetched")
        return common.run(common.PROMTOOL, *arguments, cwd=cwd)

    def test_alerts_fire_and_keep_silent(self):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(ALERTS, folder)
            shutil.copy(common.SOURCE / "tests/deploy/alerts_test.yaml", folder)
            result = self.promtool("test", "rules", "alerts_test.yaml", cwd=folder)
            self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
            tested = (common.SOURCE / "tests/deploy/alerts_test.yaml").read_text(encoding="utf-8")
            for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]:
                for rule in group["rules"]:
                    self.assertIn(rule["alert"], tested)
            # A threshold that moved is noticed.
            path = f"{folder}/alerts.yaml"
            with open(path, encoding="utf-8") as file:
                text = file.read()
            with open(path, "w", encoding="utf-8") as file:
                file.write(text.replace("[10m]) > 8", "[10m]) > 80"))
            self.assertNotEqual(self.promtool("test", "rules", "alerts_test.yaml", cwd=folder).returncode, 0)

    def test_prometheus_reads_every_expression(self):
        rules = [{"record": f"r{number}", "expr": expression} for number, (_, expression) in enumerate(expressions())]
        for more, status in (([], 0), ([{"record": "bad", "expr": "sum by (flexquant_x"}], 1)):
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                yaml.dump({"groups": [{"name": "all", "rules": rules + more}]}, file)
                file.flush()
                result = self.promtool("check", "rules", file.name)
            self.assertEqual(result.returncode, status, result.stdout + result.stderr)
        self.assertEqual(self.promtool("check", "rules", ALERTS).returncode, 0)

    def test_everything_that_is_read_is_exported(self):
        exported = exported_metrics()
        count = 0
        for where, expression in expressions():
            self.assertTrue(metric_names(expression), (where, expression))
            self.assertEqual(missing(expression, exported), set(), where)
            count += 1
        self.assertGreater(count, 40)
        self.assertEqual(missing("sum by (colour) (rate(flexquant_lost_total{shade=~'x'}[5m]))", exported),
                         {"flexquant_lost_total", "colour", "shade"})

    def test_alerts_are_explained(self):
        text = (common.SOURCE / "docs/operations.md").read_text(encoding="utf-8")
        for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]:
            for rule in group["rules"]:
                self.assertIn(f"`{rule['alert']}`", text)

    def test_dashboard(self):
        panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
        self.assertEqual(len({panel["id"] for panel in panels}), len(panels))
        cells = set()
        for panel in panels:
            place = panel["gridPos"]
            own = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                   for y in range(place["y"], place["y"] + place["h"])}
            self.assertFalse(cells & own, f"{panel['title']} covers another panel")
            self.assertLessEqual(place["x"] + place["w"], 24)
            cells |= own


class SizesTest(unittest.TestCase):
    def test_table_of_sizes(self):
        """docs/operations.md computes with the shapes that `flexquant bench` knows."""
        text = (common.SOURCE / "docs/operations.md").read_text(encoding="utf-8")
        shapes = re.findall(r'\{"([\w.-]+)", Shape\("\w+", ([\d, ]+), (true|false)\)\}',
                            (common.SOURCE / "client/cli/model_shapes.cc").read_text(encoding="utf-8"))
        self.assertGreater(len(shapes), 5)
        for name, numbers, tied in shapes:
            hidden, inner, layers, heads, kv_heads, head, vocabulary = map(int, numbers.split(","))
            body = layers * hidden * ((2 * heads + 2 * kv_heads) * head + 3 * inner)
            read = body + vocabulary * hidden
            parameters = body + vocabulary * hidden * (1 if tied == "true" else 2)
            package, kv = parameters * 8.5 / 8e9, 2 * layers * kv_heads * head * 2
            reads = " / ".join(f"{read * (bits + 0.5) / 8e9:.2f}" for bits in (3, 4, 6, 8))
            cache = kv * 32 * 4096 / 1e9
            row = (f"| {name} | {parameters / 1e9:.2f} | {package:.2f} GB | {reads} GB | {kv / 1024:.0f} KiB "
                   f"| {cache:.1f} GB | {package * 1.019 + cache:.1f} GB |")
            self.assertIn(row, text)
