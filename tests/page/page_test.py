"""Drives the gateway's page in headless Chromium: every check_*.py of this folder.

Usage: page_test.py [TEST]...
Exit status: 0 passed, 1 failed, 77 skipped because there is no browser. Screenshots go to FLEXQUANT_SCREENSHOTS.
"""

import pathlib
import sys
import unittest

import browser
import fixture

FOLDER = pathlib.Path(__file__).resolve().parent
SKIPPED = 77


def main():
    if not browser.installed():
        print("SKIPPED: no chromium and chromedriver; tests/packages.txt lists them")
        return SKIPPED
    loader = unittest.TestLoader()
    if len(sys.argv) > 1:
        suite = loader.loadTestsFromNames(sys.argv[1:])
    else:
        suite = loader.discover(str(FOLDER), pattern="check_*.py")
    with fixture.RUNNING:
        result = unittest.TextTestRunner(verbosity=2).run(suite)
    return fixture.harness.exit_status(result)


if __name__ == "__main__":
    sys.exit(main())
