"""Between the package's dataclasses and messages of flexquant.v1."""

from typing import Any, Optional, Sequence, Union

from . import _protocol
from ._types import (
    Answer, Audit, BatchMode, Calibration, ChatMessage, Delta, Dynamic, Event, Executor, Finished, FinishReason,
    FixedBits, GenerateRequest, LayerGroup, LayerGroupPlan, MaxMeanKl, NamedPlan, Plan, Policy, PositionLevels,
    Precision, PrecisionReport, Prompt, RandomLevels, Sampling, ServerInfo, Started, Stop, TargetMeanBits, Token,
    TokenLogprob, Usage)

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
             "seed")
_DYNAMIC = ("pple_weight", "entropy_high_nats", "hysteresis_levels")
_BATCH_MODES = {BatchMode.SHARED: 1, BatchMode.ISOLATED: 2}
_FINISH_REASONS = {1: FinishReason.STOP, 2: FinishReason.LENGTH}
_CALIBRATIONS = {1: Calibration.UNCALIBRATED, 2: Calibration.CALIBRATED}


def _get(message: Any, name: str) -> Any:
    """A field with presence; None if it is not set."""
    return getattr(message, name) if message.HasField(name) else None


def _copy(values: Any, names: Sequence[str], message: Any) -> None:
    for name in names:
        value = getattr(values, name)
        if value is not None:
            setattr(message, name, value)


def fill_chat(chat: Sequence[ChatMessage], message: Any) -> None:
    """Adds a conversation to a ChatPrompt."""
    for each in chat:
        message.messages.add(role=each.role, content=each.content)


def _fill_prompt(prompt: Prompt, message: Any) -> None:
    if isinstance(prompt, str):
        message.text = prompt
    elif len(prompt) > 0 and all(isinstance(each, ChatMessage) for each in prompt):
        fill_chat([each for each in prompt if isinstance(each, ChatMessage)], message.chat)
    elif all(isinstance(each, int) for each in prompt):
        message.token_ids.ids.extend(each for each in prompt if isinstance(each, int))
        message.token_ids.SetInParent()
    else:
        raise TypeError("a prompt is a str, a sequence of token ids, or a sequence of ChatMessage")


def _fill_policy(policy: Optional[Policy], message: Any) -> None:
    if isinstance(policy, FixedBits):
        message.fixed_bits = policy.bits
    elif isinstance(policy, NamedPlan):
        message.named_plan = policy.name
    elif isinstance(policy, LayerGroupPlan):
        message.layer_group_plan.bits.extend(policy.bits)
    elif isinstance(policy, Dynamic):
        message.dynamic.SetInParent()
        _copy(policy, _DYNAMIC, message.dynamic)
    elif isinstance(policy, RandomLevels):
        message.random.SetInParent()
        _copy(policy, ("seed",), message.random)
    elif isinstance(policy, PositionLevels):
        message.position.SetInParent()
        _copy(policy, ("tokens_per_level",), message.position)
    elif isinstance(policy, MaxMeanKl):
        message.max_mean_kl = policy.nats
    elif isinstance(policy, TargetMeanBits):
        message.target_mean_bits = policy.bits
    elif policy is not None:
        raise TypeError(f"{policy!r} is no precision policy")


def request_message(request: Union[GenerateRequest, Prompt]) -> Any:
    """A GenerateRequest message. ValueError or TypeError for values that a field cannot hold."""
    if not isinstance(request, GenerateRequest):
        request = GenerateRequest(request)
    message = _protocol.GenerateRequest(model=request.model, request_id=request.request_id, priority=request.priority)
    _fill_prompt(request.prompt, message)
    _copy(request.sampling, _SAMPLING, message.sampling)
    _fill_policy(request.precision.policy, message.precision)
    _copy(request.precision, ("min_bits", "max_bits"), message.precision)
    _copy(request.stop, ("max_tokens",), message.stop)
    message.stop.stop_strings.extend(request.stop.strings)
    message.stop.stop_token_ids.extend(request.stop.token_ids)
    message.stop.ignore_eos = request.stop.ignore_eos
    message.output.token_info = request.token_info
    message.output.top_logprobs = request.top_logprobs
    if request.batch_mode is not None:
        message.batch_mode = _BATCH_MODES[request.batch_mode]
    return message


def tokenize_message(text: Union[str, Sequence[ChatMessage]], add_special: bool, parse_special: bool) -> Any:
    """A TokenizeRequest message."""
    message = _protocol.TokenizeRequest(add_special=add_special, parse_special=parse_special)
    if isinstance(text, str):
        message.text = text
    else:
        fill_chat(text, message.chat)
    return message


def _policy(message: Any) -> Optional[Policy]:
    kind = message.WhichOneof("policy")
    if kind is None:
        return None
    value = getattr(message, kind)
    if kind == "layer_group_plan":
        return LayerGroupPlan(tuple(value.bits))
    if kind == "dynamic":
        return Dynamic(*(_get(value, name) for name in _DYNAMIC))
    if kind == "random":
        return RandomLevels(_get(value, "seed"))
    if kind == "position":
        return PositionLevels(_get(value, "tokens_per_level"))
    simple: Any = {"fixed_bits": FixedBits, "named_plan": NamedPlan, "max_mean_kl": MaxMeanKl,
                   "target_mean_bits": TargetMeanBits}[kind]
    policy: Policy = simple(value)
    return policy


def _started(message: Any) -> Started:
    effective = message.effective
    stop = effective.stop
    return Started(
        request_id=message.request_id, model=message.model, model_revision=message.model_revision,
        prompt_tokens=message.prompt_tokens,
        sampling=Sampling(*(_get(effective.sampling, name) for name in _SAMPLING)),
        precision=Precision(_policy(effective.precision), _get(effective.precision, "min_bits"),
                            _get(effective.precision, "max_bits")),
        stop=Stop(_get(stop, "max_tokens"), tuple(stop.stop_strings), tuple(stop.stop_token_ids), stop.ignore_eos),
        batch_mode=BatchMode.ISOLATED if effective.batch_mode == 2 else BatchMode.SHARED)


def _token(message: Any) -> Token:
    return Token(message.id, message.bits, message.entropy_nats, message.top1_probability, message.margin,
                 message.logprob, tuple(TokenLogprob(each.id, each.logprob) for each in message.top_logprobs),
                 _get(message, "level"), _get(message, "audit_kl"))


def _report(message: Any) -> PrecisionReport:
    audit = None
    if message.HasField("audit"):
        audit = Audit(message.audit.tokens, message.audit.mean_kl, _get(message.audit, "low_kl"),
                      _get(message.audit, "high_kl"))
    return PrecisionReport(
        policy=message.policy, histogram={bar.bits: bar.tokens for bar in message.histogram},
        mean_bits=message.mean_bits, weight_bytes_read=message.weight_bytes_read,
        weight_bytes_top=message.weight_bytes_top, plan_changes=message.plan_changes,
        calibration=_CALIBRATIONS.get(message.calibration, Calibration.UNKNOWN),
        max_mean_kl=_get(message, "max_mean_kl"), target_mean_bits=_get(message, "target_mean_bits"),
        predicted_mean_kl=_get(message, "predicted_mean_kl"), within_budget=_get(message, "within_budget"), audit=audit)


def _finished(message: Any) -> Finished:
    usage = message.usage
    return Finished(
        reason=_FINISH_REASONS.get(message.finish_reason, FinishReason.STOP), stop_cause=message.stop_cause,
        usage=Usage(usage.prompt_tokens, usage.generated_tokens, usage.queue_time_ns * 1e-9,
                    usage.time_to_first_token_ns * 1e-9, usage.time_per_output_token_ns * 1e-9),
        report=_report(message.precision))


def event(message: Any) -> Event:
    """An event of a stream."""
    if message.HasField("started"):
        return _started(message.started)
    if message.HasField("finished"):
        return _finished(message.finished)
    delta = message.delta
    return Delta(delta.text, tuple(delta.token_ids), tuple(_token(each) for each in delta.tokens))


def server_info(message: Any) -> ServerInfo:
    """A ServerInfo."""
    return ServerInfo(
        server_version=message.server_version, instance_id=message.instance_id, model=message.model,
        model_revision=message.model_revision, family=message.family, num_parameters=message.num_parameters,
        vocab_size=message.vocab_size, context_tokens=message.context_tokens, precisions=tuple(message.precisions),
        has_reference=message.has_reference, has_chat_template=message.has_chat_template,
        max_batch_sequences=message.max_batch_sequences, running_requests=message.running_requests,
        waiting_requests=message.waiting_requests,
        layer_groups=tuple(LayerGroup(each.name, each.num_weights) for each in message.layer_groups),
        named_plans=tuple(Plan(each.name, tuple(each.bits), each.mean_bits) for each in message.named_plans),
        executors=tuple(Executor(each.address, each.device, each.num_kv_blocks, each.kv_block_tokens, each.ready,
                                 each.kv_blocks_used, each.running_sequences) for each in message.executors))


class AnswerBuilder:
    """Puts an answer together from its events."""

    def __init__(self) -> None:
        self._started: Optional[Started] = None
        self._finished: Optional[Finished] = None
        self._texts: "list[str]" = []
        self._token_ids: "list[int]" = []
        self._tokens: "list[Token]" = []

    def add(self, each: Event) -> None:
        """Takes the next event."""
        if isinstance(each, Started):
            self._started = each
        elif isinstance(each, Finished):
            self._finished = each
        else:
            self._texts.append(each.text)
            self._token_ids += each.token_ids
            self._tokens += each.tokens

    def answer(self) -> Optional[Answer]:
        """The whole answer; None before its end."""
        if self._started is None or self._finished is None:
            return None
        return Answer(self._started, "".join(self._texts), tuple(self._token_ids), tuple(self._tokens), self._finished)
