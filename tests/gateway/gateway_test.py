"""Runs every check_*.py of this folder against the programs in FLEXQUANT_BIN.

Usage: gateway_test.py [TEST]...
Gets OpenAI's client into the cache first; without it, what needs it is skipped. Exit status: 0 passed, 1 failed, 77 all
skipped.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import unittest

FOLDER = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("FLEXQUANT_CACHE", FOLDER.parents[1] / ".cache")).resolve()
LISTS = (FOLDER / "requirements.txt", FOLDER / "requirements-libraries.txt")
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "cli")]


def install(folder):
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    for path, flags in zip(LISTS, (("--require-hashes",), ())):
        command = [folder / "bin/pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--retries", "1",
                   *flags, "--requirement", path]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if "DO NOT MATCH THE HASHES" in result.stderr:
            sys.exit(f"a wheel is not the pinned one:\n{result.stderr}")
        if result.returncode != 0:
            raise OSError(f"pip cannot get OpenAI's client: {result.stderr.strip()[-600:]}")


def ensure_client():
    """Folder of a virtual environment with OpenAI's client; OSError if it cannot be had."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in LISTS) + sys.version.encode()).hexdigest()[:16]
    folder = CACHE / f"gateway-client-{digest}"
    if not (folder / "complete").exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            install(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        (folder / "complete").touch()
    return folder


def main():
    if "FLEXQUANT_GATEWAY_CLIENT" not in os.environ:
        try:
            python = ensure_client() / "bin/python"
        except OSError as error:
            print(f"SKIPPED: tests with OpenAI's client: {error}", flush=True)
            python = sys.executable
        os.environ["FLEXQUANT_GATEWAY_CLIENT"] = str(python)
        os.execv(python, [str(python), "-B", __file__, *sys.argv[1:]])
    import cli_test  # need the path above
    import harness

    loader = unittest.TestLoader()
    if len(sys.argv) > 1:
        suite = loader.loadTestsFromNames(sys.argv[1:])
    else:
        suite = loader.discover(str(FOLDER), pattern="check_*.py")
    result = unittest.TextTestRunner(verbosity=2, resultclass=cli_test.Result).run(suite)
    return harness.exit_status(result)


if __name__ == "__main__":
    sys.exit(main())
