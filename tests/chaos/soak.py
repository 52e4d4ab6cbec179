"""Serves for a long time and says whether memory and descriptors stay flat.

    python3 tests/chaos/soak.py [--minutes 30] [--bin build/release/bin]

The fleet of the chaos tests under load after load: a third of the requests cancelled, connections cut, held and
delayed, but nobody killed. Every answer is checked. After each load the resident memory of each process is read; once
the first tenth of the time has passed, a line is fitted, and its slope with its standard error is printed. Exits with 1
if memory grows by more than three standard errors and by more than 1 % an hour, or descriptors by more than 20.
"""

import argparse
import os
import pathlib
import random
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli"))


def fitted_slope(times, values):
    """(slope, its standard error) of the least squares line."""
    count = len(times)
    mean_time, mean_value = sum(times) / count, sum(values) / count
    spread = sum((one - mean_time) ** 2 for one in times)
    slope = sum((at - mean_time) * (value - mean_value) for at, value in zip(times, values)) / spread
    residual = sum((value - mean_value - slope * (at - mean_time)) ** 2 for at, value in zip(times, values))
    return slope, (residual / (count - 2) / spread) ** 0.5


def report(usage):
    """Prints a line for each process; whether all are flat. `usage` has (minutes, {name: (descriptors, kB)})."""
    flat = True
    print(f"{'process':<14} {'first MB':>9} {'last MB':>9} {'MB an hour':>11} {'standard error':>15}  descriptors")
    for name in usage[0][1]:
        times = [at / 60 for at, _ in usage]
        memory = [figures[name][1] / 1000 for _, figures in usage]
        descriptors = [figures[name][0] for _, figures in usage]
        slope, error = fitted_slope(times, memory)
        grows = (slope > 3 * error and slope > 0.01 * memory[0]) or max(descriptors) > descriptors[0] + 20
        flat = flat and not grows
        print(f"{name[0]:<14} {memory[0]:>9.1f} {memory[-1]:>9.1f} {slope:>11.3f} {error:>15.3f} "
              f"{descriptors[0]:>5} to {max(descriptors):<4}{'  GROWS' if grows else ''}")
    return flat


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--bin", default="build/release/bin", help="where the programs are")
    arguments = parser.parse_args()
    os.environ["FLEXQUANT_BIN"] = str(pathlib.Path(arguments.bin).resolve())
    import chaos_test
    from fleet import Fleet, Load

    checks = chaos_test.ChaosTest()
    chaos_test.ChaosTest.setUpClass()
    faults = [Fleet.cut_connection, Fleet.hold_connection, Fleet.delay_connection]
    choice = random.Random(chaos_test.SEED)
    usage, totals = [], {}
    with Fleet(chaos_test.ChaosTest.model) as fleet:
        expected = [checks.expected(fleet, seed) for seed in (1, 2)]
        begin = time.monotonic()
        while (minutes := (time.monotonic() - begin) / 60) < arguments.minutes:
            seed = len(usage) % 2 + 1
            fleet.wait_ready()
            load = Load(fleet.address, seed, "--cancel-share", "0.33")
            while load.running():
                time.sleep(choice.uniform(0.3, 1.2))
                choice.choice(faults)(fleet, choice)
            for status, count in checks.check(load.answers(), expected[seed - 1]).items():
                totals[status] = totals.get(status, 0) + count
            usage.append((minutes, fleet.usage()))
            if sys.stderr.isatty():
                print(f"\r{minutes:.1f} of {arguments.minutes:.0f} minutes, {totals}", end="", file=sys.stderr)
    print(f"{len(usage)} loads in {arguments.minutes:.0f} minutes: {totals}")
    settled = [(at, figures) for at, figures in usage if at >= arguments.minutes / 10]
    return 0 if report(settled) else 1


if __name__ == "__main__":
    sys.exit(main())
