"""How much of a token's KL its predecessors tell, and how much its own distribution: from what a report measured.

    python3 tools/kl_explained.py FOLDER/measured.jsonl

For each static plan of `flexquant evaluate --report FOLDER`: the share of the variance of log KL, over tokens, that a
least-squares fit to signals at 8 bits explains, on the windows that it was not fitted to: fitted to the even ones and
tried on the odd ones, then the other way round, and the mean of both. What a policy knows at lookahead 0 ends with the
token before, at lookahead 1 with the one before that; a token's own distribution is known only once it is computed.
"""

import collections
import json
import math
import re
import sys

PPLE_WEIGHT = 0.3  # of the newest token, as in the precision requirement model
MOST_MARGIN = 10
LEAST_KL = 1e-7
FIRST = 3  # token of a window whose predecessors all have signals

Token = collections.namedtuple("Token", "entropy margin top1 pple")


def read(path):
    """{plan: [windows][tokens] of log KL} and [windows][tokens] of signals, at 8 bits."""
    kl, signals = collections.defaultdict(dict), {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            found = re.match(r'\{"id":"policies/(3|4|5|6|8|plan:[^/"]+)/(\d+) of ', line)
            if not found:
                continue
            plan, window = found.group(1), int(found.group(2))
            outcome = json.loads(line)["value"]
            if plan == "8":
                signals[window] = tokens_of(outcome)
            else:
                kl[plan][window] = [math.log(max(value, LEAST_KL)) for value in outcome["kl"]]
    return kl, signals


def tokens_of(outcome):
    tokens, pple = [], None
    for entropy, margin, top1 in zip(outcome["entropy"], outcome["margin"], outcome["top1_probability"]):
        pple = entropy if pple is None else PPLE_WEIGHT * entropy + (1 - PPLE_WEIGHT) * pple
        tokens.append(Token(math.log(entropy + 0.05), min(margin, MOST_MARGIN), top1, math.log(pple + 0.05)))
    return tokens


def before(tokens, i):
    """The precision requirement model's five signals when token i is the newest that is known."""
    return [*tokens[i], tokens[i - 1].entropy]


FEATURES = {
    "signals before, lookahead 1": lambda tokens, i: before(tokens, i - 2),
    "lookahead 0": lambda tokens, i: before(tokens, i - 1),
    "own entropy": lambda tokens, i: [tokens[i].entropy],
    "own entropy, margin, top-1": lambda tokens, i: list(tokens[i][:3]),
}


def solve(matrix, vector):
    """Gauss-Jordan; `matrix` is positive definite."""
    rows = [[*row, value] for row, value in zip(matrix, vector)]
    for i, pivot in enumerate(rows):
        pivot[:] = [value / pivot[i] for value in pivot]
        for row in rows:
            if row is not pivot:
                row[:] = [a - row[i] * b for a, b in zip(row, pivot)]
    return [row[-1] for row in rows]


def fit(samples):
    size = len(samples[0][0])
    ridge = 1e-6 * len(samples)
    matrix = [[sum(x[i] * x[j] for x, _ in samples) + ridge * (i == j) for j in range(size)] for i in range(size)]
    return solve(matrix, [sum(x[i] * y for x, y in samples) for i in range(size)])


def explained(train, test):
    weights = fit(train)
    mean = sum(y for _, y in train) / len(train)
    left = sum((y - sum(w * v for w, v in zip(weights, x))) ** 2 for x, y in test)
    return 1 - left / sum((y - mean) ** 2 for _, y in test)


def shares(kl, signals):
    """Of one plan, a share for each of FEATURES."""
    for features in FEATURES.values():
        halves = ([], [])
        for window, values in kl.items():
            tokens = signals[window]
            halves[window % 2].extend(([1, *features(tokens, i)], values[i]) for i in range(FIRST, len(values)))
        yield (explained(*halves) + explained(*reversed(halves))) / 2


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    kl, signals = read(sys.argv[1])
    if len(signals) < 2:
        raise SystemExit(f"{sys.argv[1]} has {len(signals)} windows at 8 bits; at least 2 are needed")
    print("| plan |", " | ".join(FEATURES), "|")
    print("|---" * (1 + len(FEATURES)) + "|")
    for plan, windows in kl.items():
        print(f"| {plan} |", " | ".join(f"{100 * share:.1f} %" for share in shares(windows, signals)), "|")


if __name__ == "__main__":
    main()
