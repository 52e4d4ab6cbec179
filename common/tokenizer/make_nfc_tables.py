#!/usr/bin/env python3
"""Prints nfc_tables.cc from Python's Unicode data: ./make_nfc_tables.py > nfc_tables.cc."""

import sys
import textwrap
import unicodedata


def decompositions():
    for code_point in range(sys.maxunicode + 1):
        parts = unicodedata.decomposition(chr(code_point)).split()
        if not parts or parts[0].startswith("<"):
            continue
        values = [int(part, 16) for part in parts]
        text = "".join(map(chr, values))
        composes = len(values) == 2 and unicodedata.normalize("NFC", text) == chr(code_point)
        yield code_point, values[0], values[1] if len(values) == 2 else 0, composes


def combining_ranges():
    start, previous = 0, 0
    for code_point in range(sys.maxunicode + 2):
        combining = unicodedata.combining(chr(code_point)) if code_point <= sys.maxunicode else 0
        if combining == previous:
            continue
        if previous:
            yield start, code_point - 1, previous
        start, previous = code_point, combining


def table(declaration, rows):
    rows = " ".join("{" + ",".join(str(int(value)) for value in row) + "}," for row in rows)
    return f"const {declaration}[] = {{\n" + "\n".join(textwrap.wrap(rows, 118)) + "\n};"


def main():
    print(f"""// Made by make_nfc_tables.py from Unicode {unicodedata.unidata_version}.

#include "common/tokenizer/nfc_tables.h"

namespace flexquant {{

// clang-format off
{table("Decomposition kDecompositions", decompositions())}
{table("CombiningRange kCombiningRanges", combining_ranges())}
// clang-format on

const size_t kNumDecompositions = sizeof(kDecompositions) / sizeof(kDecompositions[0]);
const size_t kNumCombiningRanges = sizeof(kCombiningRanges) / sizeof(kCombiningRanges[0]);

}}  // namespace flexquant""")


if __name__ == "__main__":
    main()
