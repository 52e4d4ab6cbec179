"""Makes tests/golden/smollm2_logits.json: logits of SmolLM2-135M-Instruct by an implementation that is not ours.

The weights are the GGUF file's, dequantised by the `gguf` package; the forward pass is LlamaForCausalLM of Hugging Face
transformers on the CPU in float64 (its norms, rotary tables and softmax are float32). The tokenizer is transformers'
too, made from the same file.

    python3 -m venv ENV && ENV/bin/pip install -r tools/golden/requirements.txt
    ENV/bin/python tools/golden/make_smollm2_logits.py SmolLM2-135M-Instruct.Q4_1.gguf tests/golden/smollm2_logits.json
"""

import argparse
import hashlib
import json
import pathlib

import gguf
import numpy as np
import torch
import transformers

NUM_TOP = 20
NUM_SAMPLED = 64
NUM_GREEDY = 32

CHAT_QUESTION = "What is the capital of France?"
PLAIN_TEXT = "The capital of France is"


def hugging_face_name(name):
    """Hugging Face's name of a GGUF tensor."""
    fixed = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    if name in fixed:
        return fixed[name]
    parts = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
             "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{parts[part]}.weight"


def halves_from_neighbours(weights, num_heads):
    """Rows of q or k from GGUF's order (rotary pairs are neighbours) to Hugging Face's (pairs half a head apart)."""
    rows, cols = weights.shape
    return weights.reshape(num_heads, rows // num_heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def load_model(path):
    reader = gguf.GGUFReader(path)

    def field(key):
        return reader.fields[f"llama.{key}"].contents()

    config = transformers.LlamaConfig(
        vocab_size=field("vocab_size"), hidden_size=field("embedding_length"),
        intermediate_size=field("feed_forward_length"), num_hidden_layers=field("block_count"),
        num_attention_heads=field("attention.head_count"), num_key_value_heads=field("attention.head_count_kv"),
        max_position_embeddings=field("context_length"), rms_norm_eps=field("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": field("rope.freq_base")},
        tie_word_embeddings=True, attn_implementation="eager", torch_dtype=torch.float64)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
        part = tensor.name.split(".")[-2]
        if part in heads:
            values = halves_from_neighbours(values, heads[part])
        weights[hugging_face_name(tensor.name)] = torch.from_numpy(values)
    model = transformers.LlamaForCausalLM(config).to(torch.float64).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise SystemExit(f"tensors missing: {missing}, unexpected: {unexpected}")
    model.tie_weights()
    return model


def prompts(tokenizer, vocab_size):
    messages = [{"role": "user", "content": CHAT_QUESTION}]
    chat = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return [
        {"name": "plain", "text": PLAIN_TEXT, "ids": tokenizer.encode(PLAIN_TEXT, add_special_tokens=False)},
        {"name": "chat", "text": chat, "ids": tokenizer.encode(chat, add_special_tokens=False)},
        # Ids from all over the vocabulary, long enough to span several KV blocks.
        {"name": "scattered", "ids": [(7919 * i + 13) % vocab_size for i in range(40)]},
    ]


def rounded(value):
    return round(float(value), 6)


def describe(logits):
    """What the golden keeps of the logits [vocab] of one position."""
    top = torch.topk(logits, NUM_TOP)
    # Spread over the vocabulary by a stride that shares no factor with its size.
    indices = [(i * 769 + 5) % len(logits) for i in range(NUM_SAMPLED)]
    return {
        "top": [[int(index), rounded(value)] for index, value in zip(top.indices, top.values)],
        "sampled": [[index, rounded(logits[index])] for index in indices],
        "log_sum_exp": rounded(torch.logsumexp(logits, 0)),
        "rms": rounded(logits.square().mean().sqrt()),
    }


@torch.no_grad()
def run(model, prompt):
    logits = model(torch.tensor([prompt["ids"]])).logits[0]
    ids, greedy, margins = list(prompt["ids"]), [], []
    for _ in range(NUM_GREEDY):
        top = torch.topk(model(torch.tensor([ids])).logits[0, -1], 2)
        greedy.append(int(top.indices[0]))
        margins.append(rounded(top.values[0] - top.values[1]))
        ids.append(greedy[-1])
    positions = [{"argmax": int(row.argmax()), "log_sum_exp": rounded(torch.logsumexp(row, 0))} for row in logits]
    return prompt | {"last": describe(logits[-1]), "positions": positions, "greedy": greedy,
                     "greedy_margins": margins}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    arguments = parser.parse_args()
    model = load_model(arguments.gguf)
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.gguf.parent, gguf_file=arguments.gguf.name)
    golden = {
        "model": "SmolLM2-135M-Instruct",
        "source": arguments.gguf.name,
        "source_sha256": hashlib.sha256(arguments.gguf.read_bytes()).hexdigest(),
        "made_by": f"tools/golden/make_smollm2_logits.py, transformers {transformers.__version__}, "
                   f"torch {torch.__version__.split('+')[0]}, float64",
        "prompts": [run(model, prompt) for prompt in prompts(tokenizer, model.config.vocab_size)],
    }
    arguments.output.write_text(json.dumps(golden, separators=(",", ":")).replace('{"name"', '\n{"name"') + "\n",
                                encoding="utf-8")
    for prompt in golden["prompts"]:
        print(f"{prompt['name']}: {len(prompt['ids'])} ids, smallest greedy margin {min(prompt['greedy_margins'])}: "
              f"{tokenizer.decode(prompt['greedy'])!r}")


if __name__ == "__main__":
    main()
