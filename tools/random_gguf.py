"""Writes a GGUF file of a Llama's shapes with random weights, so that llama.cpp can be timed beside `flexquant bench
decode` where no model can be had, and on a CPU beside `flexquant bench` on the same file, converted. Needs llama.cpp's
own gguf package and one of its vocabulary files:

    python3 -m pip install gguf
    python3 tools/random_gguf.py q4_0 llama-q4_0.gguf --vocabulary llama.cpp/models/ggml-vocab-llama-bpe.gguf
    llama-bench -m llama-q4_0.gguf -p 0 -n 64 -d 1024 -fa 0,1 -ngl 99
    python3 tools/random_gguf.py q8_0 llama-q8_0.gguf --shapes llama-3.2-1b --vocabulary ...
"""

import argparse
import collections

import gguf
import numpy

Shapes = collections.namedtuple("Shapes", "hidden inner layers heads kv_heads head_dim vocabulary tied")
SHAPES = {
    "llama-3.1-8b": Shapes(4096, 14336, 32, 32, 8, 128, 128256, False),
    "llama-3.2-1b": Shapes(2048, 8192, 16, 32, 8, 64, 128256, True),
}
# Of a type: where a block's fp16 scales are, and a scale that keeps activations finite.
TYPES = {"q3_k": ([108], 5e-4), "q4_0": ([0], 4e-3), "q4_k": ([0, 2], 3e-4), "q8_0": ([0], 3e-4)}


def blocks(kind, rows, columns, random):
    """Random blocks as [rows, bytes of a row]."""
    elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.upper()]]
    data = random.integers(0, 256, (rows * columns // elements, size), dtype=numpy.uint8)
    offsets, scale = TYPES[kind]
    for offset in offsets:
        data[:, offset : offset + 2] = numpy.frombuffer(numpy.float16(scale).tobytes(), numpy.uint8)
    return data.reshape(rows, columns // elements * size)


def copy_vocabulary(path, writer):
    for field in gguf.GGUFReader(path).fields.values():
        if not field.name.startswith("tokenizer."):
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(field.name, field.contents())
        else:
            writer.add_key_value(field.name, field.contents(), field.types[0])


def add_header(writer, shapes):
    writer.add_context_length(8192)
    writer.add_embedding_length(shapes.hidden)
    writer.add_block_count(shapes.layers)
    writer.add_feed_forward_length(shapes.inner)
    writer.add_head_count(shapes.heads)
    writer.add_head_count_kv(shapes.kv_heads)
    writer.add_rope_dimension_count(shapes.head_dim)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shapes.vocabulary)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("type", choices=sorted(TYPES))
    parser.add_argument("file")
    parser.add_argument("--shapes", choices=sorted(SHAPES), default="llama-3.1-8b")
    parser.add_argument("--vocabulary", required=True, help="GGUF file with a vocabulary of 128,256 tokens")
    args = parser.parse_args()

    shapes = SHAPES[args.shapes]
    random = numpy.random.default_rng(1)
    writer = gguf.GGUFWriter(args.file, "llama")
    copy_vocabulary(args.vocabulary, writer)
    add_header(writer, shapes)
    kind = gguf.GGMLQuantizationType[args.type.upper()]
    ones = numpy.ones(shapes.hidden, numpy.float32)
    # Every layer has the same bytes, each at a place of its own.
    kv = shapes.kv_heads * shapes.head_dim
    matrices = {
        "attn_q": (shapes.hidden, shapes.hidden),
        "attn_k": (kv, shapes.hidden),
        "attn_v": (kv, shapes.hidden),
        "attn_output": (shapes.hidden, shapes.hidden),
        "ffn_gate": (shapes.inner, shapes.hidden),
        "ffn_up": (shapes.inner, shapes.hidden),
        "ffn_down": (shapes.hidden, shapes.inner),
    }
    layer = {name: blocks(args.type, *shape, random) for name, shape in matrices.items()}
    vocabulary = blocks(args.type, shapes.vocabulary, shapes.hidden, random)
    writer.add_tensor("token_embd.weight", vocabulary, raw_dtype=kind)
    if not shapes.tied:
        writer.add_tensor("output.weight", vocabulary, raw_dtype=kind)
    writer.add_tensor("output_norm.weight", ones)
    for i in range(shapes.layers):
        for name, data in layer.items():
            writer.add_tensor(f"blk.{i}.{name}.weight", data, raw_dtype=kind)
        writer.add_tensor(f"blk.{i}.attn_norm.weight", ones)
        writer.add_tensor(f"blk.{i}.ffn_norm.weight", ones)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=True)
    writer.close()


if __name__ == "__main__":
    main()
