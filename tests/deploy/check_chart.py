"""The chart's examples: schemas, flags, security, selectors, and that wrong values are refused."""

import copy
import os
import re
import tempfile
import unittest

import kubernetes_validate
import yaml

import common

VERSIONS = ("1.30", "1.35")  # the oldest that the chart takes, and a current one
# Kinds of operators, whose schemas nobody ships: what they cannot be without.
CUSTOM = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): {"selector", "endpoints"},
    ("monitoring.coreos.com/v1", "PrometheusRule"): {"groups"},
    ("keda.sh/v1alpha1", "ScaledObject"): {"scaleTargetRef", "triggers"},
    ("cert-manager.io/v1", "Certificate"): {"secretName", "issuerRef", "dnsNames"},
}
MINIMAL = ("--values", str(common.CHART / "examples/cpu-minimal.yaml"))
VARIANTS = (
    ("controller.service.headless=true", "executor.threads=3", "networkPolicy.enabled=false"),
    ("controller.replicas=2", "executor.autoscaling.kind=hpa", "controller.service.type=NodePort"),
    ("executor.autoscaling.kind=keda", "executor.device=cuda", "controller.preStopSeconds=0"),
    ("model.mode=ephemeral", "fullnameOverride=a-name-that-is-as-long-as-it-may-be-40ch", "executor.drainSeconds=600"),
    ("tls.enabled=true", "tls.controller.crt=A", "tls.controller.key=B", "tls.controller.ca=C", "tls.executor.crt=A",
     "tls.executor.key=B", "tls.executor.ca=C", "image.registry=r.example.org", "image.pullSecrets={pull}"),
    ("model.source.tokenSecret.name=hub", "model.source.files=null", "model.source.path=raw/model.gguf"),
)
# (--set, what the message has to name)
WRONG = (
    ("controller.replicas=0", "replicas"), ("controller.port=70000", "port"), ("controler.replicas=2", "controler"),
    ("executor.device=tpu", "device"), ("executor.kvCacheMb=0", "kvCacheMb"), ("executor.threads=-1", "threads"),
    ("executor.kvCacheMb=lots", "kvCacheMb"), ("executor.autoscaling.kind=vpa", "kind"),
    ("executor.autoscaling.kvUsage=1.5", "kvUsage"), ("executor.flags.model=/x", "model"),
    ("controller.flags.allow-plaintext=true", "allow-plaintext"), ("logFormat=xml", "logFormat"),
    ("executor.autoscaling.minReplicas=9", "minReplicas is more than maxReplicas"),
    ("model.path=../etc", "path"), ("model.mode=image", "mode"), ("model.source.files[0].name=a/b", "name"),
    ("model.source.files[0].sha256=123", "sha256"), ("model.source.files=null", "no model"),
    ("model.claim.accessModes={ReadMany}", "accessModes"), ("podSecurity.user=0", "user"),
    ("tls.enabled=true", "tls.controller"), ("tls.userCa.secret=x", "need tls.enabled"),
    ("tokens.entries[0].tenant=a b", "tenant"), ("monitoring.interval=often", "interval"),
)


def faults_of_pod(labels, spec):
    """What keeps a pod from Kubernetes' restricted profile and from our own rules."""
    found = []
    security = spec.get("securityContext", {})
    if not (security.get("runAsNonRoot") is True and security.get("runAsUser", 0) > 0):
        found.append("may run as root")
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        found.append("no seccomp profile")
    if spec.get("automountServiceAccountToken") is not False:
        found.append("gets a token of the API server")
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            found.append(name)
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    for container in spec.get("initContainers", []) + spec["containers"]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities", {}).get("drop") != ["ALL"]:
            found.append(f"{container['name']} may gain privileges")
        if own.get("readOnlyRootFilesystem") is not True:
            found.append(f"{container['name']} may write its root")
        if not {"cpu", "memory"} <= set(container.get("resources", {}).get("requests", {})):
            found.append(f"{container['name']} requests no cpu and memory")
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                found.append(f"{container['name']} mounts {mount['name']}, which is no volume")
    if any("hostPath" in volume for volume in spec.get("volumes", [])):
        found.append("mounts a path of the machine")
    return found + ([] if labels else ["no labels"])


def schema_faults(each, version):
    kind = (each["apiVersion"], each["kind"])
    if kind in CUSTOM:
        missing = CUSTOM[kind] - set(each.get("spec", {}))
        return [f"{kind}: no {', '.join(sorted(missing))}"] if missing else []
    try:
        kubernetes_validate.validate(each, version, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return [f"{kind} {each['metadata']['name']}: {error.message}"]
    return []


class ChartTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.renders = {path.stem: common.template("--values", str(path)) for path in common.EXAMPLES}
        for number, values in enumerate(VARIANTS):
            flags = [word for value in values for word in ("--set", value)]
            cls.renders[f"variant {number}"] = common.template(*MINIMAL, *flags)

    def pods(self):
        for name, objects in self.renders.items():
            for each, labels, spec in common.pods(objects):
                yield f"{name}: {each['kind']} {each['metadata']['name']}", labels, spec

    def servers(self):
        """(program, container, pod spec) of every controller and executor."""
        for _, _, spec in self.pods():
            for container in spec["containers"]:
                if container["name"] in ("controller", "executor"):
                    yield f"flexquant-{container['name']}", container, spec

    def test_lint(self):
        for path in common.EXAMPLES:
            result = common.run(common.TOOLS / "helm", "lint", "--strict", common.CHART, "--values", path)
            self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_objects_match_kubernetes_schemas(self):
        seen = set()
        for name, objects in self.renders.items():
            identities = [(each["kind"], each["metadata"]["name"]) for each in objects]
            self.assertEqual(len(identities), len(set(identities)), f"{name} has an object twice")
            for each in objects:
                key = yaml.dump(each)
                if key not in seen:
                    seen.add(key)
                    version = VERSIONS[len(seen) % 2] if name.startswith("variant") else None
                    for one in [version] if version else VERSIONS:
                        self.assertEqual(schema_faults(each, one), [], name)

    def test_wrong_objects_are_found(self):
        good = next(each for each in self.renders["gpu"] if each["kind"] == "StatefulSet")
        for path, value in ((("spec", "replicaz"), 1), (("spec", "template", "spec", "containers"), {}),
                            (("spec", "serviceName"), 5), (("kind",), "StateSet")):
            bad = copy.deepcopy(good)
            inner = bad
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value
            self.assertNotEqual(schema_faults(bad, VERSIONS[0]), [], path)

    def test_programs_understand_their_flags(self):
        seen = set()
        for program, container, _ in self.servers():
            if (key := (program, *container["args"])) not in seen:
                seen.add(key)
                self.assertIsNone(common.usage_error(program, container["args"]))
        self.assertGreaterEqual(len(seen), 2 * len(common.EXAMPLES))
        for program, bad in (("flexquant-controller", ("--executor=e:1", "--no-such=1")),
                             ("flexquant-executor", ("--threads=many",))):
            self.assertIsNotNone(common.usage_error(program, ["--model=/x", *bad]))

    def test_tools_understand_their_flags(self):
        generate, convert = common.help_text("flexquant", "generate"), common.help_text("flexquant", "convert")
        script = (common.SOURCE / "deploy/docker/prepare_model.sh").read_text(encoding="utf-8")
        for _, _, spec in self.pods():
            for container in spec.get("initContainers", []) + spec["containers"]:
                if container["name"] == "generate":
                    self.assertEqual(container["args"][0], "generate")
                    self.assertEqual(common.unknown_flags(container["args"], generate), [])
                elif container["name"] in ("convert", "wait-for-model"):
                    self.assertRegex(script, rf"(?m)^  {container['command'][1]}\)")
                    self.assertEqual(common.unknown_flags(container.get("args", []), convert), [])
                    for variable in container.get("env", []):
                        self.assertIn("{" + variable["name"] + ":", script)
        self.assertEqual(common.unknown_flags(["--ca=/x", "--no-such"], generate), ["--no-such"])

    def test_plaintext_or_tls(self):
        for _, container, spec in self.servers():
            tls = any(word.startswith("--tls-cert=") for word in container["args"])
            self.assertNotEqual(tls, "--allow-plaintext" in container["args"])
            # The kubelet's gRPC probes speak no TLS and have no certificate.
            flag = "--health-listen=" if tls else "--listen="
            address = next(word for word in container["args"] if word.startswith(flag))
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                port = container[probe]["grpc"]["port"]
                self.assertEqual(address, f"{flag}0.0.0.0:{port}")
                self.assertIn(port, [each["containerPort"] for each in container["ports"]])
            self.assertEqual(tls, any(word.startswith("--health-listen=") for word in container["args"]))
            self.assertEqual(tls, any(volume["name"] == "tls" for volume in spec["volumes"]))

    def test_probes_ask_for_names_that_servers_have(self):
        protocols = {}
        for path in (common.SOURCE / "proto").rglob("*.proto"):
            text = path.read_text(encoding="utf-8")
            package = re.search(r"(?m)^package ([\w.]+);", text).group(1)
            protocols.update({f"{package}.{name}": path for name in re.findall(r"(?m)^service (\w+)", text)})
        for program, container, _ in self.servers():
            grpc = {probe: container[probe]["grpc"]["service"] for probe in
                    ("startupProbe", "livenessProbe", "readinessProbe")}
            self.assertEqual(grpc["livenessProbe"], "liveness")
            self.assertIn(grpc["readinessProbe"], protocols)
            folder = program.removeprefix("flexquant-")
            source = (common.SOURCE / folder / "server.cc").read_text(encoding="utf-8")
            self.assertIn('"liveness"', source)
            self.assertIn(f'"{grpc["readinessProbe"]}"', source)

    def test_time_to_drain(self):
        for program, container, spec in self.servers():
            flag = next(word for word in container["args"] if word.startswith("--drain-seconds="))
            sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            self.assertGreater(spec["terminationGracePeriodSeconds"], sleep + int(flag.split("=")[1]))
            if program == "flexquant-executor":
                budget = container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"]
                self.assertGreaterEqual(budget, 1800)

    def test_pods_are_confined(self):
        for where, labels, spec in self.pods():
            self.assertEqual(faults_of_pod(labels, spec), [], where)
        _, labels, spec = next(common.pods(self.renders["gpu"]))
        for change in (lambda pod: pod["securityContext"].update(runAsUser=0),
                       lambda pod: pod["securityContext"].pop("seccompProfile"),
                       lambda pod: pod["containers"][0]["securityContext"].update(readOnlyRootFilesystem=False),
                       lambda pod: pod["containers"][0]["securityContext"].pop("capabilities"),
                       lambda pod: pod["volumes"].clear(), lambda pod: pod.pop("automountServiceAccountToken"),
                       lambda pod: pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}})):
            bad = copy.deepcopy(spec)
            change(bad)
            self.assertNotEqual(faults_of_pod(labels, bad), [])

    def test_selectors_find_pods(self):
        for name, objects in self.renders.items():
            labels = [dict(found, **{"apps.kubernetes.io/pod-index": str(index)})
                      for each, found, _ in common.pods(objects)
                      for index in range(each.get("spec", {}).get("replicas") or 1)]
            services = [each["metadata"]["labels"] for each in objects if each["kind"] == "Service"]
            for each in objects:
                selector, among = {"Service": (each.get("spec", {}).get("selector"), labels),
                                   "PodDisruptionBudget": (each.get("spec", {}).get("selector"), labels),
                                   "NetworkPolicy": (each.get("spec", {}).get("podSelector"), labels),
                                   "ServiceMonitor": (each.get("spec", {}).get("selector"), services)}.get(
                                       each["kind"], (None, None))
                if selector is not None:
                    wanted = selector.get("matchLabels", selector)
                    self.assertTrue(wanted, each["metadata"]["name"])
                    self.assertTrue(any(wanted.items() <= one.items() for one in among),
                                    f"{name}: {each['kind']} {each['metadata']['name']} finds nothing: {wanted}")

    def test_an_executor_has_one_controller(self):
        """Two controllers on one executor overwrite each other's keys and values."""
        for name, objects in self.renders.items():
            sets = {each["metadata"]["name"]: each for each in objects if each["kind"] == "StatefulSet"}
            controllers = next(each for found, each in sets.items() if found.endswith("-controller"))
            groups = [found for found in sets if "-executor-" in found]
            self.assertEqual(len(groups), controllers["spec"]["replicas"], name)
            flags = [word for word in controllers["spec"]["template"]["spec"]["containers"][0]["args"]
                     if word.startswith("--executor=")]
            self.assertEqual(len(flags), 1)
            services = {each["metadata"]["name"]: each["spec"] for each in objects if each["kind"] == "Service"}
            listed = set()
            for index in range(len(groups)):
                service = flags[0].split("dns:")[1].split(".")[0].replace("$(GROUP)", str(index))
                found = [each for _, each, _ in common.pods(objects)
                         if services[service]["selector"].items() <= each.items()]
                self.assertEqual(len(found), 1, service)
                listed.add(found[0]["flexquant/group"])
                self.assertEqual(services[service]["clusterIP"], "None")
            self.assertEqual(len(listed), len(groups), "two controllers have the same executors")
            for policy in (each for each in objects if each["kind"] == "NetworkPolicy"):
                if "-executor-" in policy["metadata"]["name"]:
                    peers = [peer for rule in policy["spec"]["ingress"] for peer in rule["from"]]
                    indices = [peer["podSelector"]["matchLabels"]["apps.kubernetes.io/pod-index"] for peer in peers]
                    self.assertEqual(indices, [policy["spec"]["podSelector"]["matchLabels"]["flexquant/group"]])

    def test_secrets_and_claims_exist(self):
        for name, objects in self.renders.items():
            made = {(each["kind"], each["metadata"]["name"]) for each in objects}
            made |= {("Secret", each["spec"]["secretName"]) for each in objects if each["kind"] == "Certificate"}
            named = "" if name.startswith("variant") else (common.CHART / "examples" / f"{name}.yaml").read_text()
            for _, _, spec in common.pods(objects):
                for volume in spec["volumes"]:
                    claim = volume.get("persistentVolumeClaim", {}).get("claimName")
                    for kind, found in (("Secret", volume.get("secret", {}).get("secretName")),
                                        ("ConfigMap", volume.get("configMap", {}).get("name")),
                                        ("PersistentVolumeClaim", claim)):
                        self.assertTrue(found is None or (kind, found) in made or found in named,
                                        f"{name}: {kind} {found}")

    def test_wrong_values_are_refused(self):
        with self.assertRaisesRegex(AssertionError, "no model"):
            common.template()
        for value, message in WRONG:
            with self.subTest(value=value):
                with self.assertRaises(AssertionError) as caught:
                    common.template(*MINIMAL, "--set", value)
                self.assertIn(message, str(caught.exception))
        with self.assertRaisesRegex(AssertionError, "calibrate"):
            common.template(*MINIMAL, "--set", "model.mode=ephemeral,model.source.convertFlags={--calibrate}")

    def test_overlays_are_what_the_chart_renders(self):
        committed = common.SOURCE / "deploy/kustomize"
        with tempfile.TemporaryDirectory() as folder:
            result = common.run(committed / "render.sh", folder,
                                env={**os.environ, "HELM": str(common.TOOLS / "helm")})
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual(common.run("diff", "-r", "-x", "render.sh", committed, folder).stdout, "",
                             "run deploy/kustomize/render.sh")
        for path in common.EXAMPLES:
            result = common.run(common.TOOLS / "kubectl", "kustomize", committed / path.stem)
            self.assertEqual(result.returncode, 0, result.stderr)
            objects = list(yaml.safe_load_all(result.stdout))
            self.assertEqual(len(objects), 1 + sum("helm.sh/hook" not in each["metadata"].get("annotations", {})
                                                   for each in self.renders[path.stem]))
            self.assertEqual({each["metadata"].get("namespace") for each in objects if each["kind"] != "Namespace"},
                             {"flexquant"})
