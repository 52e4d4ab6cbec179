#!/usr/bin/env python3
"""Writes ggml_blocks.txt: random blocks of every quantised type and their values by the `gguf` package's quants.py.

Run with `pip install gguf` in a virtual environment; the output is committed and the tests do not need this script.
"""
import pathlib

import gguf
import numpy

# Type, bytes of a block, offsets of its fp16 scales.
TYPES = [("Q4_0", 18, [0]), ("Q4_1", 20, [0, 2]), ("Q5_0", 22, [0]), ("Q5_1", 24, [0, 2]), ("Q8_0", 34, [0]),
         ("Q2_K", 84, [80, 82]), ("Q3_K", 110, [108]), ("Q4_K", 144, [0, 2]), ("Q5_K", 176, [0, 2]),
         ("Q6_K", 210, [208])]


def main():
    random = numpy.random.default_rng(20240607)
    lines = []
    for name, size, scales in TYPES:
        block = random.integers(0, 256, size, dtype=numpy.uint8)
        for offset in scales:
            scale = numpy.array([random.uniform(-0.1, 0.1)], dtype="<f2")
            block[offset:offset + 2] = scale.view(numpy.uint8)
        values = gguf.quants.dequantize(block.reshape(1, size), gguf.GGMLQuantizationType[name])
        lines.append(f"{name} {block.tobytes().hex()} {values.astype('<f4').tobytes().hex()}\n")
    pathlib.Path(__file__).with_name("ggml_blocks.txt").write_text("".join(lines))


if __name__ == "__main__":
    main()
