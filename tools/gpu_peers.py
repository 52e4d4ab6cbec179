"""Decode products of a model's shapes in PyTorch, to compare with `flexquant bench decode` on the same card: bf16
through cuBLAS, and int4 weight-only (tinygemm, groups of 64). One CUDA graph a step, linears alone: no attention,
norms or sampling, which `flexquant bench decode` includes.

    python3 tools/gpu_peers.py [--batch 1,8] [--repetitions 7]
"""

import argparse
import json
import statistics

import torch

GROUP = 64
INNER_K_TILES = 8
# Llama-3.1-8B: (outputs, inputs) of a block, how many blocks, and the head.
BLOCK = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)]
LAYERS = 32
HEAD = (128256, 4096)


def bf16_linear(shape):
    weight = torch.randn(shape, dtype=torch.bfloat16, device="cuda") * 0.02
    return lambda x: torch.nn.functional.linear(x, weight), weight.numel() * 2


def int4_linear(shape):
    outputs, inputs = shape
    codes = torch.randint(0, 256, (outputs, inputs // 2), dtype=torch.uint8, device="cuda")
    packed = torch.ops.aten._convert_weight_to_int4pack(codes, INNER_K_TILES)
    scales = torch.full((inputs // GROUP, outputs, 2), 0.01, dtype=torch.bfloat16, device="cuda")
    size = packed.numel() * packed.element_size() + scales.numel() * 2
    return lambda x: torch.ops.aten._weight_int4pack_mm(x, packed, GROUP, scales), size


def measure(make, batch, repetitions):
    """Median, least and most milliseconds of a step, and the bytes of its weights."""
    layers = [[make(shape) for shape in BLOCK] for _ in range(LAYERS)] + [[make(HEAD)]]
    inputs = {k: torch.randn(batch, k, dtype=torch.bfloat16, device="cuda") for k in (4096, 14336)}
    columns = [[inputs[shape[1]] for shape in BLOCK]] * LAYERS + [[inputs[HEAD[1]]]]

    def step():
        for block, xs in zip(layers, columns):
            for (linear, _), x in zip(block, xs):
                linear(x)

    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    times = []
    for repetition in range(repetitions + 1):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(10):
            graph.replay()
        end.record()
        end.synchronize()
        if repetition > 0:
            times.append(begin.elapsed_time(end) / 10)
    return statistics.median(times), min(times), max(times), sum(size for block in layers for _, size in block)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", default="1,8", help="sequences of a step; several with commas")
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "linears": []}
    for name, make in (("bf16", bf16_linear), ("int4", int4_linear)):
        for batch in map(int, arguments.batch.split(",")):
            median, least, most, size = measure(make, batch, arguments.repetitions)
            torch.cuda.empty_cache()
            times = {"median_ms": median, "least_ms": least, "most_ms": most}
            result["linears"].append({"weights": name, "batch": batch, **times, "bytes": size})
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
