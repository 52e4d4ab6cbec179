"""OpenAI's own client as it is."""

import json

import harness
import stack

CHAT = [{"role": "user", "content": "Once upon a time there was a"}]
PROMPT = "Once upon a time"
# The same whoever shares the batch.
ISOLATED = {"extra_body": {"flexquant": {"batch_mode": "isolated"}}}


class OpenAiTest(harness.CliTest):
    @classmethod
    def setUpClass(cls):
        stack.shared_stack(cls)
        cls.client = cls.stack.openai()

    def chat(self, **options):
        return self.client.chat.completions.create(
            **{"model": "stories260K", "messages": CHAT, "max_tokens": 24, "seed": 7, **options})

    def complete(self, **options):
        return self.client.completions.create(**{"model": "stories260K", "prompt": PROMPT, "max_tokens": 24, "seed": 7,
                                                 **options})

    def test_models(self):
        self.assertEqual([model.id for model in self.client.models.list()], ["stories260K"])
        self.assertEqual(self.client.models.retrieve("stories260K").owned_by, "flexquant")

    def test_greedy_answers_are_the_servers(self):
        expected = self.generate(self.stack.server, "--prompt", PROMPT, "--max-tokens", 24, "--temperature", 0)
        answer = self.complete(temperature=0)
        self.assertEqual(answer.choices[0].text, expected["text"])
        self.assertEqual(answer.choices[0].finish_reason, "length")
        self.assertEqual(answer.usage.completion_tokens, 24)
        chat = self.generate(self.stack.server, "--chat", "--prompt", CHAT[0]["content"], "--max-tokens", 24,
                             "--temperature", 0)
        answer = self.chat(temperature=0)
        self.assertEqual(answer.choices[0].message.content, chat["text"])
        self.assertEqual(answer.choices[0].message.role, "assistant")
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + 24)
        parts = [{"role": "user", "content": [{"type": "text", "text": CHAT[0]["content"][:9]},
                                              {"type": "text", "text": CHAT[0]["content"][9:]}]}]
        self.assertEqual(self.chat(temperature=0, messages=parts).choices[0].message.content, chat["text"])

    def test_temperature_is_one_by_default(self):
        self.assertEqual(self.complete().choices[0].text, self.complete(temperature=1).choices[0].text)
        self.assertNotEqual(self.complete().choices[0].text, self.complete(temperature=0).choices[0].text)
        self.assertNotEqual(self.complete(seed=8).choices[0].text, self.complete().choices[0].text)

    def test_default_lengths(self):
        short = self.client.completions.create(model="stories260K", prompt=PROMPT, temperature=0)
        self.assertEqual(short.usage.completion_tokens, 16)
        whole = self.client.chat.completions.create(model="stories260K", messages=CHAT, temperature=0,
                                                    extra_body={"ignore_eos": True})
        self.assertEqual(whole.usage.total_tokens, 512)  # the context
        self.assertEqual(whole.choices[0].finish_reason, "length")

    def test_streams_say_what_whole_answers_say(self):
        whole = self.chat()
        chunks = list(self.chat(stream=True, stream_options={"include_usage": True}))
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(chunks[-2].choices[0].finish_reason, "length")
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)
        self.assertEqual(len({chunk.id for chunk in chunks}), 1)
        self.assertTrue(all(chunk.usage is None for chunk in chunks[:-1]))
        text = "".join(chunk.choices[0].text for chunk in self.complete(stream=True))
        self.assertEqual(text, self.complete().choices[0].text)

    def test_token_details(self):
        options = {"extra_body": {"flexquant": {"token_details": True, "precision": {"policy": "dynamic"}}}}
        chunks = list(self.chat(stream=True, **options))
        tokens = [token for chunk in chunks for token in (chunk.model_extra.get("flexquant") or {}).get("tokens", [])]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        self.assertEqual("".join(token["text"] for token in tokens), text)
        self.assertEqual(len(tokens), 24)
        for token in tokens:
            self.assertEqual([3, 4, 5, 6, 8][token["level"]], token["bits"])
            self.assertGreaterEqual(token["top1_probability"], 0)
        report = chunks[-1].model_extra["flexquant"]["precision"]
        self.assertEqual(report["policy"], "dynamic")
        self.assertAlmostEqual(report["mean_bits"], sum(token["bits"] for token in tokens) / 24, places=5)
        self.assertEqual(sum(report["histogram"].values()), 24)
        whole = self.chat(**options)
        self.assertEqual(whole.choices[0].model_extra["flexquant"]["tokens"], tokens)
        self.assertEqual(whole.usage.model_extra["precision"], report)

    def test_precision(self):
        def widths(**options):
            return self.complete(temperature=0, **options).usage.model_extra["precision"]["histogram"]

        # The prompt's last token, which gives the first of the answer, is computed at 8 bits.
        self.assertEqual(widths(extra_body={"flexquant": {"precision": {"bits": 4}}}), {"4": 23, "8": 1})
        self.assertEqual(widths(extra_headers={"x-flexquant-precision": "plan=uniform-5"}), {"5": 23, "8": 1})
        layers = json.loads(self.stack.request("GET", "/v1/flexquant/server")[2])["layer_groups"]
        self.assertEqual(widths(extra_body={"flexquant": {"precision": {"layer_bits": [6] * layers}}}),
                         {"6": 23, "8": 1})
        bounded = widths(extra_headers={"x-flexquant-precision": "policy=position; min_bits=5 ; max_bits=6"})
        self.assertLessEqual(set(bounded), {"5", "6", "8"})

    def test_logprobs_of_chats(self):
        answer = self.chat(temperature=0, logprobs=True, top_logprobs=3)
        content = answer.choices[0].logprobs.content
        self.assertEqual(b"".join(bytes(token.bytes) for token in content).decode(),
                         answer.choices[0].message.content)
        expected = self.generate(self.stack.server, "--chat", "--prompt", CHAT[0]["content"], "--max-tokens", 24,
                                 "--temperature", 0)
        for token, other in zip(content, expected["tokens"], strict=True):
            self.assertAlmostEqual(token.logprob, other["logprob"], places=4)
            self.assertEqual(len(token.top_logprobs), 3)
            self.assertEqual(token.top_logprobs[0].token, token.token)  # greedy
            self.assertEqual(token.top_logprobs[0].logprob, token.logprob)
        streamed = [token for chunk in self.chat(temperature=0, logprobs=True, top_logprobs=3, stream=True)
                    for token in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else [])]
        self.assertEqual(streamed, content)
        self.assertIsNone(self.chat().choices[0].logprobs)

    def test_logprobs_of_completions(self):
        choice = self.complete(logprobs=2).choices[0]
        logprobs = choice.logprobs
        self.assertEqual("".join(logprobs.tokens), choice.text)
        self.assertEqual(len(logprobs.tokens), 24)
        for offset, token, value, top in zip(logprobs.text_offset, logprobs.tokens, logprobs.token_logprobs,
                                             logprobs.top_logprobs, strict=True):
            self.assertTrue(choice.text.startswith(token, offset))
            self.assertEqual(top[token], value)
            self.assertIn(len(top), (2, 3))

    def test_the_stop_token_has_no_logprob(self):
        # Long enough to end by itself in some of them.
        answer = self.complete(n=8, max_tokens=400, logprobs=0, temperature=0.5)
        stopped = [choice for choice in answer.choices if choice.finish_reason == "stop"]
        self.assertTrue(stopped)
        for choice in stopped:
            self.assertEqual("".join(choice.logprobs.tokens), choice.text)

    def test_several_choices(self):
        first, second = self.chat(n=3, **ISOLATED), self.chat(n=3, **ISOLATED)
        texts = [choice.message.content for choice in first.choices]
        self.assertEqual([choice.index for choice in first.choices], [0, 1, 2])
        self.assertEqual(texts, [choice.message.content for choice in second.choices])
        self.assertEqual(len(set(texts)), 3)
        one = self.chat(**ISOLATED)
        self.assertEqual(texts[0], one.choices[0].message.content)
        self.assertEqual(first.usage.prompt_tokens, one.usage.prompt_tokens)
        self.assertEqual(first.usage.completion_tokens, 72)
        self.assertEqual(sum(first.usage.model_extra["precision"]["histogram"].values()), 72)
        streamed = ["", "", ""]
        for chunk in self.chat(n=3, stream=True, **ISOLATED):
            streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        self.assertEqual(streamed, texts)

    def test_several_prompts(self):
        answer = self.complete(prompt=[PROMPT, "Tom had a"], n=2, **ISOLATED)
        self.assertEqual([choice.index for choice in answer.choices], [0, 1, 2, 3])
        self.assertEqual(answer.choices[0].text, self.complete(**ISOLATED).choices[0].text)
        self.assertEqual(answer.choices[2].text, self.complete(prompt="Tom had a", **ISOLATED).choices[0].text)
        ids = [1, 403, 407, 261, 378]
        by_ids = self.complete(prompt=[ids, ids], **ISOLATED)
        self.assertEqual(by_ids.choices[0].text, by_ids.choices[1].text)
        self.assertEqual(by_ids.usage.prompt_tokens, 2 * len(ids))
        self.assertEqual(by_ids.choices[0].text, self.complete(prompt=ids, **ISOLATED).choices[0].text)

    def test_stop(self):
        text = self.complete(temperature=0).choices[0].text
        word = text.split()[4]
        answer = self.complete(temperature=0, stop=["never said", word])
        self.assertEqual(answer.choices[0].text, text[:text.index(word)])
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        streamed = list(self.complete(temperature=0, stop=word, stream=True))
        self.assertEqual("".join(chunk.choices[0].text for chunk in streamed), text[:text.index(word)])

    def test_penalties_reach_the_server(self):
        expected = self.generate(self.stack.server, "--prompt", PROMPT, "--max-tokens", 24, "--temperature", 0.7,
                                 "--seed", 7, "--top-p", 0.9, "--presence-penalty", 1.5, "--frequency-penalty", 0.5)
        answer = self.complete(temperature=0.7, top_p=0.9, presence_penalty=1.5, frequency_penalty=0.5)
        self.assertEqual(answer.choices[0].text, expected["text"])

    def assert_refused(self, param, call, **options):
        import openai

        with self.subTest(param=param, options=options):
            with self.assertRaises(openai.BadRequestError) as caught:
                call(**options)
            self.assertEqual(caught.exception.param, param, caught.exception.message)
            self.assertEqual(caught.exception.type, "invalid_request_error")

    def test_what_is_not_supported_is_refused_by_name(self):
        tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
        for name, value in [("tools", [tool]), ("tool_choice", "auto"), ("functions", [{"name": "f"}]),
                            ("response_format", {"type": "json_object"}), ("logit_bias", {"5": 1}),
                            ("audio", {"voice": "alloy", "format": "wav"}), ("modalities", ["audio"]),
                            ("reasoning_effort", "low"), ("store", True), ("parallel_tool_calls", True),
                            ("prediction", {"type": "content", "content": ""})]:
            self.assert_refused(name, self.chat, **{name: value})
        for name, value in [("best_of", 2), ("suffix", "!"), ("echo", True), ("logit_bias", {"5": 1})]:
            self.assert_refused(name, self.complete, **{name: value})
        self.assert_refused("nonsense", self.chat, extra_body={"nonsense": 1})
        self.assert_refused("flexquant.nonsense", self.chat, extra_body={"flexquant": {"nonsense": 1}})
        image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}
        self.assert_refused("messages[0].content[0].type", self.chat, messages=[image])
        call = {"role": "assistant", "content": "", "tool_calls": [{"id": "1", **tool}]}
        self.assert_refused("messages[1].tool_calls", self.chat, messages=[*CHAT, call])

    def test_what_asks_for_nothing_is_allowed(self):
        expected = self.chat().choices[0].message.content
        answer = self.chat(tools=[], logit_bias={}, response_format={"type": "text"}, store=False, user="somebody",
                           modalities=["text"], service_tier="auto", metadata={"a": "b"}, stop=None)
        self.assertEqual(answer.choices[0].message.content, expected)
        self.complete(best_of=1, echo=False, suffix="")

    def test_wrong_values_are_named(self):
        for name, value in [("temperature", -1), ("temperature", "warm"), ("top_p", 0), ("presence_penalty", 11),
                            ("max_tokens", 0), ("max_tokens", 1.5), ("n", 0), ("n", 17), ("seed", "x"),
                            ("stop", [""]), ("stop", 5), ("stream_options", {"include_usage": True}),
                            ("messages", [])]:
            self.assert_refused(name, self.chat, **{name: value})
        self.assert_refused("top_logprobs", self.chat, top_logprobs=2)
        self.assert_refused("top_logprobs", self.chat, top_logprobs=21, logprobs=True)
        self.assert_refused("max_completion_tokens", self.chat, max_completion_tokens=5)
        self.assert_refused("messages[0].role", self.chat, messages=[{"role": "tool", "content": "x"}])
        self.assert_refused("messages[0].content", self.chat, messages=[{"role": "user"}])
        self.assert_refused("prompt", self.complete, prompt=[[1], [1.5]])
        self.assert_refused("prompt", self.complete, prompt=[])
        for precision in ({}, {"bits": 4, "plan": "uniform-4"}, {"bits": 7}, {"max_mean_kl": -1}, {"policy": "best"},
                          {"bits": 4, "min_bits": 3}):
            with self.subTest(precision=precision):
                import openai

                with self.assertRaises(openai.BadRequestError) as caught:
                    self.chat(extra_body={"flexquant": {"precision": precision}})
                self.assertIn("precision", caught.exception.param or caught.exception.message)
        self.assert_refused("x-flexquant-precision", self.chat, extra_headers={"x-flexquant-precision": "bits"})
        self.assert_refused("x-flexquant-precision", self.chat, extra_headers={"x-flexquant-precision": "bits=4"},
                            extra_body={"flexquant": {"precision": {"bits": 4}}})

    def test_another_model_is_not_found(self):
        import openai

        with self.assertRaises(openai.NotFoundError) as caught:
            self.chat(model="gpt-4o")
        self.assertIn("stories260K", caught.exception.message)
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("gpt-4o")
        with self.assertRaises(openai.NotFoundError):
            self.chat(extra_body={"flexquant": {"precision": {"plan": "rung-99"}}})
