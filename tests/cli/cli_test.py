"""Runs every *_test.py of this folder against the programs in FLEXQUANT_BIN."""

import pathlib
import sys
import unittest

import harness


class Result(unittest.TextTestResult):
    """Names the slow tests."""

    def startTest(self, test):
        self.clock = harness.Clock()
        super().startTest(test)

    def addSuccess(self, test):
        if self.clock.seconds() > 5:
            self.stream.write(f"({self.clock.seconds():.0f} s) ")
        super().addSuccess(test)


def main():
    folder = pathlib.Path(__file__).resolve().parent
    loader = unittest.TestLoader()
    if len(sys.argv) > 1:
        suite = loader.loadTestsFromNames(sys.argv[1:])
    else:
        suite = loader.discover(str(folder), pattern="*_test.py")
    result = unittest.TextTestRunner(verbosity=2, resultclass=Result).run(suite)
    return harness.exit_status(result)


if __name__ == "__main__":
    sys.exit(main())
