"""Checks deploy/: images, compose file, Helm chart, overlays, alerts and dashboard. Nothing runs on a cluster here.

Usage: chart_test.py [TEST]...
Gets its tools first (tools.py), then runs every check_*.py of this folder with them. Exit status: 0 passed, 1 failed,
77 skipped because the tools could not be had.
"""

import os
import pathlib
import sys
import unittest

import tools

FOLDER = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("FLEXQUANT_CACHE", FOLDER.parents[1] / ".cache")).resolve()
SKIPPED = 77


def main():
    if "FLEXQUANT_DEPLOY_TOOLS" not in os.environ:
        try:
            environment = tools.ensure(CACHE)
        except OSError as error:
            print(f"SKIPPED: the chart was not checked: {error}")
            return SKIPPED
        promtool = tools.ensure_promtool(CACHE)
        os.environ["FLEXQUANT_DEPLOY_TOOLS"] = str(environment / "bin")
        os.environ["FLEXQUANT_PROMTOOL"] = str(promtool or "")
        sys.stdout.flush()
        python = str(environment / "bin/python")
        os.execv(python, [python, "-B", __file__, *sys.argv[1:]])
    loader = unittest.TestLoader()
    if len(sys.argv) > 1:
        suite = loader.loadTestsFromNames(sys.argv[1:])
    else:
        suite = loader.discover(str(FOLDER), pattern="check_*.py")
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    for test, reason in result.skipped:
        print(f"SKIPPED {test.id()}: {reason}")
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
