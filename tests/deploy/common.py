"""What the checks of this folder share: paths, helm, and how a program takes its arguments."""

import functools
import os
import pathlib
import subprocess

import yaml

SOURCE = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("FLEXQUANT_BIN", SOURCE / "build/release/bin"))
TOOLS = pathlib.Path(os.environ["FLEXQUANT_DEPLOY_TOOLS"])
PROMTOOL = os.environ.get("FLEXQUANT_PROMTOOL", "")
CHART = SOURCE / "deploy/helm/flexquant"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
PROGRAMS = {"controller": "flexquant-controller", "executor-cpu": "flexquant-executor",
            "executor-cuda": "flexquant-executor", "gateway": "flexquant-gateway", "tools": "flexquant"}


def run(*command, **options):
    """Runs to the end whatever the status; text output of both streams."""
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 120, **options}
    return subprocess.run([str(word) for word in command], check=False, **options)


@functools.lru_cache(None)
def template(*arguments):
    """The objects that helm renders, or an AssertionError with its message."""
    result = run(TOOLS / "helm", "template", "flexquant", CHART, "--namespace", "flexquant", *arguments)
    if result.returncode != 0:
        raise AssertionError(result.stderr)
    return [each for each in yaml.safe_load_all(result.stdout) if each]


def pods(objects):
    """(object, its pod template's labels, its pod spec)."""
    for each in objects:
        if each["kind"] == "Pod":
            yield each, each["metadata"].get("labels", {}), each["spec"]
        elif "template" in each.get("spec", {}):
            template_ = each["spec"]["template"]
            yield each, template_["metadata"]["labels"], template_["spec"]


@functools.lru_cache(None)
def help_text(program, *command):
    result = run(BIN / program, *command, "--help")
    assert result.returncode == 0, result.stderr
    return result.stdout


def usage_error(program, arguments):
    """What a server says about its arguments, or None if it understands them and only misses its files."""
    words = [word.replace("$(GROUP)", "0").replace("$(CPU_LIMIT)", "1").replace("=/", "=/nowhere/")
             for word in arguments]
    result = run(BIN / program, *words)
    if result.returncode == 1 and "/nowhere/" in result.stdout + result.stderr:
        return None
    return f"{program} {' '.join(words)}: status {result.returncode}: {result.stdout}{result.stderr}"


def unknown_flags(arguments, text):
    """Flags among the arguments that a --help text does not have."""
    known = {word.rstrip(",") for line in text.splitlines() for word in line.split()[:1]}
    known = {name for word in known for name in word.split(",")}
    return [word for word in arguments if word.startswith("--") and word.split("=")[0] not in known]
