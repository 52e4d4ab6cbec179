#!/usr/bin/env python3
"""Makes goldens.json: ids and rendered chats by Hugging Face tokenizers, transformers and Jinja.

  make_goldens.py TOKENIZERS_FOLDER SMOLLM2_GGUF > goldens.json   (needs pip install transformers gguf jinja2)
"""

import json
import os
import random
import sys
import unicodedata

import gguf
import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers

STRINGS = [
    "", " ", "  ", "Hello world", " Hello  world ", "\n\n\n", "a\t\tb\r\n\r\nc ", "don't DON'T we'Ve I'll",
    "12345 3.14159 ½ ² ١٢٣", "Ünïcödé naïve", "e\u0301 A\u030a q\u0307\u0323 \u1100\u1161\u11a8 \u212b",
    "नमस्ते दुनिया", "你好，世界！", "日本語テキスト", "한국어 문장", "👩‍👩‍👧‍👦🏳️‍🌈🤦🏽‍♂️", "\u0000\u0001\u001f\u007f",
    "\u00a0\u2003\u3000x",
    "\u2028\u0085\u180e z", "def f(x):\n    return x**2  # comment\n", "<b>html</b> &amp; </s> <s> <unk>",
    "▁already▁escaped", "https://example.com/a?b=c&d=%20", "\U00040000\U000e0001", "��", "a" * 70, "=" * 33 + " " * 17,
    "The quick brown fox jumps over the lazy dog.", "<0x0A> <0xFF>", "ſ'ſ K'ſ", "x\u200by\ufeffz", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
]

SPECIAL_STRINGS = [
    "<|im_start|>user\nHi<|im_end|>\n", "a<|endoftext|>b", "<think>\nhm</think> yes", "<s>[INST] Hi [/INST]</s> x",
    "<|im_start|><|im_start|> <|im_end", "<s> <s>x</s>",
]

CHATS = [
    [("user", "Hi")],
    [("system", "Be brief."), ("user", "What is 2+2?")],
    [("user", "a"), ("assistant", "b"), ("user", "c")],
    [("system", " s \n"), ("user", "\n\n two\n"), ("assistant", " yes \n"), ("user", "  \tthree ☃ ")],
    [("user", "q"), ("assistant", "<think>\nhidden\n</think>\n\nshown"), ("user", "next")],
    [("user", "q"), ("assistant", "<think>\nhidden\n</think>\n\nshown")],
    [("user", "q"), ("assistant", "plain"), ("user", "")],
    [("user", "{{ 7*7 }} {% raw %}"), ("assistant", "'quoted' \"twice\" \\n"), ("user", "👩‍👩‍👧‍👦")],
]

# Each says what its family's published template says, without tools.
TEMPLATES = {
    "llama-2": (
        "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system_message = "
        "messages[0]['content'] %}{% else %}{% set rest = messages %}{% set system_message = false %}{% endif %}"
        "{% for message in rest %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + "
        "system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}"
        "{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}"
        "{% endfor %}"),
    "llama-3": (
        "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + "
        "'<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
        "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"),
    "llama-3.1": (
        "{{- bos_token }}\n{%- if not date_string is defined %}\n    {%- set date_string = \"26 Jul 2024\" %}\n"
        "{%- endif %}\n{#- The system message has its own place. #}\n{%- if messages[0]['role'] == 'system' %}\n"
        "    {%- set system_message = messages[0]['content']|trim %}\n    {%- set messages = messages[1:] %}\n"
        "{%- else %}\n    {%- set system_message = \"\" %}\n{%- endif %}\n"
        "{{- \"<|start_header_id|>system<|end_header_id|>\\n\\n\" }}\n"
        "{{- \"Cutting Knowledge Date: December 2023\\n\" }}\n{{- \"Today Date: \" + date_string + \"\\n\\n\" }}\n"
        "{{- system_message }}\n{{- \"<|eot_id|>\" }}\n{%- for message in messages %}\n"
        "    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + "
        "'<|eot_id|>' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n"
        "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n"),
    "mistral-v1": (
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
        "{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are "
        "supported!') }}{% endif %}{% endfor %}"),
    "mistral-v2": (
        "{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content'] %}\n"
        "    {%- set rest = messages[1:] %}\n{%- else %}\n    {%- set rest = messages %}\n{%- endif %}\n"
        "{{- bos_token }}\n{%- for message in rest %}\n    {%- if message['role'] == 'user' %}\n"
        "        {%- if loop.first and system_message is defined %}\n"
        "            {{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}\n"
        "        {%- else %}\n            {{- ' [INST] ' + message['content'] + ' [/INST]' }}\n        {%- endif %}\n"
        "    {%- elif message['role'] == 'assistant' %}\n        {{- ' ' + message['content'] + eos_token}}\n"
        "    {%- endif %}\n{%- endfor %}\n"),
    "mistral-v3": (
        "{%- if messages[0][\"role\"] == \"system\" %}\n    {%- set system_message = messages[0][\"content\"] %}\n"
        "    {%- set rest = messages[1:] %}\n{%- else %}\n    {%- set rest = messages %}\n{%- endif %}\n"
        "{{- bos_token }}\n{%- for message in rest %}\n    {%- if message[\"role\"] == \"user\" %}\n"
        "        {%- if loop.last and system_message is defined %}\n"
        "            {{- \"[INST] \" + system_message + \"\\n\\n\" + message[\"content\"] + \"[/INST]\" }}\n"
        "        {%- else %}\n            {{- \"[INST] \" + message[\"content\"] + \"[/INST]\" }}\n"
        "        {%- endif %}\n    {%- elif message[\"role\"] == \"assistant\" %}\n"
        "        {{- \" \" + message[\"content\"]|trim + eos_token}}\n    {%- endif %}\n{%- endfor %}\n"),
    "chatml": (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
        "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"),
    "qwen2.5": (
        "{%- if messages[0]['role'] == 'system' %}\n    {{- '<|im_start|>system\\n' + messages[0]['content'] + "
        "'<|im_end|>\\n' }}\n{%- else %}\n    {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You "
        "are a helpful assistant.<|im_end|>\\n' }}\n{%- endif %}\n{%- for message in messages %}\n"
        "    {%- if not loop.first or message.role != 'system' %}\n        {{- '<|im_start|>' + message.role + '\\n' + "
        "message.content + '<|im_end|>' + '\\n' }}\n    {%- endif %}\n{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n"),
}


def random_strings():
    rng = random.Random(20240726)
    alphabets = ["ab '", "ab12 \n", " \t\r\n\u00a0x", "éñ日本한국🙂\u0301\u0323 ", "!?.,-=*/ <|>[]",
                 "Zz9\u0645\u0661\u0e17\u0e33 "]
    for _ in range(60):
        alphabet = rng.choice(alphabets) + rng.choice(alphabets)
        yield "".join(rng.choice(alphabet) for _ in range(rng.randint(1, 40)))


def nfc_strings():
    rng = random.Random(20240727)
    interesting = [c for c in map(chr, range(0xC0, 0x30000))
                   if unicodedata.combining(c) or unicodedata.decomposition(c)]
    for _ in range(80):
        text = "".join(rng.choice(rng.choice((interesting, "aeoAEOcs\u1100\u1161\u11a8\uac00\u0301\u0323")))
                       for _ in range(rng.randint(1, 12)))
        yield rng.choice((str, lambda t: unicodedata.normalize("NFD", t)))(text)


def encodings(tokenizer, strings):
    return [[text, tokenizer.encode(text, add_special_tokens=False).ids] for text in strings]


def smollm2(path):
    reader = gguf.GGUFReader(path)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ", 1)) for merge in reader.fields["tokenizer.ggml.merges"].contents()]
    tokenizer = tokenizers.Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([token for token, kind in zip(tokens, types) if kind == 3])
    return tokenizer, reader.fields["tokenizer.chat_template"].contents()


def render(template, chat, bos, eos):
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(models.BPE()), bos_token=bos,
                                                eos_token=eos)
    messages = [{"role": role, "content": content} for role, content in chat]
    return fast.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=True)


def chats(template, tokenizer=None, bos=None, eos=None, system=True):
    for chat in CHATS:
        if chat[0][0] == "system" and not system:
            continue
        text = render(template, chat, bos, eos)
        entry = {"messages": chat, "text": text}
        if tokenizer is not None:
            entry["ids"] = tokenizer.encode(text, add_special_tokens=False).ids
        yield entry


def main():
    folder, smollm2_path = sys.argv[1:]
    qwen3 = tokenizers.Tokenizer.from_file(os.path.join(folder, "qwen3", "tokenizer.json"))
    llama2 = tokenizers.Tokenizer.from_file(os.path.join(folder, "llama2", "tokenizer.json"))
    smol, smol_template = smollm2(smollm2_path)
    with open(os.path.join(folder, "qwen3", "tokenizer_config.json"), encoding="utf-8") as file:
        qwen3_template = json.load(file)["chat_template"]
    strings = STRINGS + SPECIAL_STRINGS + list(random_strings())
    result = {
        "vocabularies": {
            name: encodings(tokenizer, strings)
            for name, tokenizer in (("qwen3", qwen3), ("llama2", llama2), ("smollm2", smol))
        },
        "nfc": [[text, unicodedata.normalize("NFC", text)] for text in nfc_strings()],
        "chats": {
            "qwen3": list(chats(qwen3_template, qwen3)),
            "smollm2": list(chats(smol_template, smol)),
            "llama2": list(chats(TEMPLATES["llama-2"], llama2, "<s>", "</s>")),
        },
        "templates": {
            name: {"template": template, "chats": list(chats(
                template, None, *(("<|begin_of_text|>", "<|eot_id|>") if "llama-3" in name else ("<s>", "</s>")),
                system=name != "mistral-v1"))}
            for name, template in TEMPLATES.items()
        },
    }
    json.dump(result, sys.stdout, separators=(",", ":"))
    print()


if __name__ == "__main__":
    main()
