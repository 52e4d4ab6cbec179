"""The Python SDK as users get it: its sdist is built, a wheel from that alone, and it is installed into a fresh
environment.

Usage: python_test.py [PYTEST_ARGUMENT]...
Gets its tools into the cache first, then runs check_python.py with pytest. Exit status: 0 passed, 1 failed, 77
skipped because the tools could not be had.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

FOLDER = pathlib.Path(__file__).resolve().parent
SOURCE = FOLDER.parents[1]
CACHE = pathlib.Path(os.environ.get("FLEXQUANT_CACHE", SOURCE / ".cache")).resolve()
REQUIREMENTS = FOLDER / "requirements.txt"
OFFLINE = {**os.environ, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONDONTWRITEBYTECODE": "1"}
SKIPPED = 77


def run(*command, **options):
    subprocess.run([str(word) for word in command], check=True, **options)


def make_tools(folder):
    run(sys.executable, "-m", "venv", folder / "venv")
    pip = (folder / "venv/bin/python", "-m", "pip", "--disable-pip-version-check")
    only = ("--only-binary", ":all:", "--retries", "1", "--quiet")
    run(*pip, "download", *only, "--requirement", REQUIREMENTS, "--dest", folder / "wheels")
    run(*pip, "install", "--quiet", "--no-index", "--find-links", folder / "wheels", "--requirement", REQUIREMENTS)


def ensure_tools():
    """Folder with venv/ and wheels/; None if they cannot be had."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = CACHE / f"sdk-tools-{digest}"
    if (folder / "complete").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        make_tools(folder)
    except subprocess.CalledProcessError as error:
        shutil.rmtree(folder, ignore_errors=True)
        print(f"SKIPPED: the Python SDK was not tested: {error}")
        return None
    (folder / "complete").touch()
    return folder


def build_wheel(tools, folder):
    """By way of the sdist, offline, from a copy: builds leave files in their folder."""
    python = tools / "venv/bin/python"
    copy = folder / "source/client/python"
    shutil.copytree(SOURCE / "client/python", copy, ignore=shutil.ignore_patterns("build", "*.egg-info", "*.protoset"))
    shutil.copytree(SOURCE / "proto", folder / "source/proto")
    run(python, "setup.py", "-q", "sdist", "--dist-dir", folder, cwd=copy, env=OFFLINE)
    sdist = next(folder.glob("flexquant_client-*.tar.gz"))
    run(python, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--wheel-dir", folder, sdist,
        env=OFFLINE)
    return next(folder.glob("flexquant_client-*.whl"))


def main():
    tools = ensure_tools()
    if tools is None:
        return SKIPPED
    with tempfile.TemporaryDirectory(prefix="flexquant-sdk-test-") as name:
        folder = pathlib.Path(name)
        wheel = build_wheel(tools, folder)
        run(sys.executable, "-m", "venv", folder / "clean")
        run(folder / "clean/bin/python", "-m", "pip", "install", "--quiet", "--find-links", tools / "wheels", wheel,
            env=OFFLINE)
        package = next((folder / "clean/lib").glob("python*/site-packages/flexquant_client")).parent
        # Only the package itself beside the tools of the other environment.
        (folder / "installed").mkdir()
        (folder / "installed/flexquant_client").symlink_to(package / "flexquant_client")
        environment = {**OFFLINE, "PYTHONPATH": str(folder / "installed"), "FLEXQUANT_SDK_PYTHON": str(
            folder / "clean/bin/python"), "FLEXQUANT_SDK_WHEEL": str(wheel), "MYPY_CACHE_DIR": str(folder / "mypy")}
        done = subprocess.run(
            [tools / "venv/bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5",
             "check_python.py", *sys.argv[1:]], cwd=FOLDER, env=environment, check=False)
        return done.returncode


if __name__ == "__main__":
    sys.exit(main())
