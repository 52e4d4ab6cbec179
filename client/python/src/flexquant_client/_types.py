"""What goes to a server and comes back: plain dataclasses. ``None`` and empty mean the server's default; ranges are
those of flexquant.v1, which the server checks (InvalidArgumentError with the field's path)."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Optional, Sequence, Union

# ---- Requests


@dataclass(frozen=True)
class ChatMessage:
    """One message of a conversation."""

    role: str  # "system", "user" or "assistant"
    content: str


# A text continued as it is, token ids taken as they are, or a conversation put through the model's chat template.
Prompt = Union[str, Sequence[int], Sequence[ChatMessage]]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn."""

    temperature: Optional[float] = None  # [0, 100]; 0 = greedy. Default: 0
    top_k: Optional[int] = None  # 0 = all. Default: 0
    top_p: Optional[float] = None  # (0, 1]. Default: 1
    min_p: Optional[float] = None  # [0, 1]. Default: 0
    repetition_penalty: Optional[float] = None  # (0, 10]. Default: 1 (off)
    presence_penalty: Optional[float] = None  # [-10, 10]. Default: 0
    frequency_penalty: Optional[float] = None  # [-10, 10]. Default: 0
    seed: Optional[int] = None  # Default: chosen by the server and echoed in Started


@dataclass(frozen=True)
class FixedBits:
    """Every layer group at so many bits: one of ServerInfo.precisions, or 16 with has_reference."""

    bits: int


@dataclass(frozen=True)
class NamedPlan:
    """A plan of ServerInfo.named_plans."""

    name: str


@dataclass(frozen=True)
class LayerGroupPlan:
    """Bits for each of ServerInfo.layer_groups, in their order."""

    bits: Sequence[int]


@dataclass(frozen=True)
class Dynamic:
    """Token by token from the entropy of the tokens so far."""

    pple_weight: Optional[float] = None  # weight of the newest token, (0, 1]. Default: 0.3
    entropy_high_nats: Optional[float] = None  # at which the top level is used, (0, 20]. Default: 2
    hysteresis_levels: Optional[float] = None  # [0, 4]. Default: 0.5


@dataclass(frozen=True)
class RandomLevels:
    """Control: levels at random."""

    seed: Optional[int] = None  # Default: the sampling seed


@dataclass(frozen=True)
class PositionLevels:
    """Control: levels by position, from the top down."""

    tokens_per_level: Optional[int] = None  # >= 1. Default: 16


@dataclass(frozen=True)
class MaxMeanKl:
    """The fewest bytes whose mean KL to the top precision is expected to stay within so many nats; calibrated models
    only."""

    nats: float


@dataclass(frozen=True)
class TargetMeanBits:
    """The least expected KL whose mean comes to so many bits a weight; calibrated models only."""

    bits: float


Policy = Union[FixedBits, NamedPlan, LayerGroupPlan, Dynamic, RandomLevels, PositionLevels, MaxMeanKl, TargetMeanBits]


@dataclass(frozen=True)
class Precision:
    """How the precision (weight bits) of each token is chosen."""

    policy: Optional[Policy] = None  # Default: MaxMeanKl(0.01) on a calibrated model, Dynamic() on another
    min_bits: Optional[int] = None  # bounds, of ServerInfo.precisions; for policies that move
    max_bits: Optional[int] = None


@dataclass(frozen=True)
class Stop:
    """When an answer ends."""

    max_tokens: Optional[int] = None  # >= 1. Default: 256
    strings: Sequence[str] = ()  # the answer ends before the first of these; at most 16
    token_ids: Sequence[int] = ()  # beside the model's end-of-sequence; at most 64
    ignore_eos: bool = False


class BatchMode(Enum):
    """How precision and batching interact."""

    SHARED = "shared"  # a step may run at a higher precision because another sequence asked for it
    ISOLATED = "isolated"  # exactly at its own plan: the same bits whoever shares the batch


@dataclass(frozen=True)
class GenerateRequest:
    """What to generate from and how."""

    prompt: Prompt
    sampling: Sampling = Sampling()
    precision: Precision = Precision()
    stop: Stop = Stop()
    token_info: bool = False  # Delta.tokens and Answer.tokens are filled
    top_logprobs: int = 0  # with token_info: so many of the most likely tokens each, [0, 20]
    request_id: str = ""  # for abort() and logs, at most 128 bytes of printable ASCII
    batch_mode: Optional[BatchMode] = None  # Default: shared
    priority: int = 0  # [-100, 100]; waiting requests with a higher one go first
    model: str = ""  # empty = the server's only one


# ---- Answers


@dataclass(frozen=True)
class TokenLogprob:
    """A candidate token."""

    id: int
    logprob: float  # nats


@dataclass(frozen=True)
class Token:
    """Everything about one generated token; signals before temperature and filters."""

    id: int
    bits: float  # mean bits a weight that it was computed with
    entropy_nats: float
    top1_probability: float
    margin: float  # top-1 minus top-2 logit
    logprob: float  # of this token, nats
    top: "tuple[TokenLogprob, ...]" = ()  # most likely first; as many as asked for
    level: Optional[int] = None  # on the ladder of plans, 0 = cheapest; not for policies without one
    audit_kl: Optional[float] = None  # KL to the top precision measured of this token, nats; if it was audited


@dataclass(frozen=True)
class Audit:
    """KL measured by computing sampled tokens at the top precision too."""

    tokens: int
    mean_kl: float  # nats
    low_kl: Optional[float]  # 95 % interval of the answer's mean; not with a single token
    high_kl: Optional[float]


class Calibration(Enum):
    """Whether the model's levels carry measured KL."""

    UNKNOWN = "unknown"
    UNCALIBRATED = "uncalibrated"
    CALIBRATED = "calibrated"


@dataclass(frozen=True)
class PrecisionReport:
    """What precision an answer really used; str() and a notebook show it as a table."""

    policy: str  # "fixed", "plan", "dynamic", "random", "position", "max_mean_kl" or "target_mean_bits"
    histogram: "dict[int, int]" = field(default_factory=dict)  # tokens by their mean bits, ascending
    mean_bits: float = 0.0  # a weight, over the generated tokens; 0 = none
    weight_bytes_read: int = 0  # for the generated tokens, as if the sequence ran alone
    weight_bytes_top: int = 0  # that they would have read at the top quantised precision
    plan_changes: int = 0
    calibration: Calibration = Calibration.UNKNOWN
    max_mean_kl: Optional[float] = None  # budget in force, nats
    target_mean_bits: Optional[float] = None  # goal in force
    predicted_mean_kl: Optional[float] = None  # nats a token; of the two policies above
    within_budget: Optional[bool] = None  # predicted_mean_kl <= max_mean_kl
    audit: Optional[Audit] = None  # if tokens were audited

    def __str__(self) -> str:
        from . import _report

        return _report.text(self)

    def _repr_html_(self) -> str:
        from . import _report

        return _report.html(self)


@dataclass(frozen=True)
class Usage:
    """Token counts and times of one answer; times in seconds."""

    prompt_tokens: int
    generated_tokens: int
    queue_time: float  # before the first step
    time_to_first_token: float  # from the request's arrival
    time_per_output_token: float  # mean of later tokens; 0 if there are none


@dataclass(frozen=True)
class Started:
    """First event of a stream, with the values in force."""

    request_id: str
    model: str
    model_revision: str
    prompt_tokens: int
    sampling: Sampling
    precision: Precision
    stop: Stop
    batch_mode: BatchMode


@dataclass(frozen=True)
class Delta:
    """New text: whole code points, maybe none. All deltas' texts together are the answer."""

    text: str
    token_ids: "tuple[int, ...]"
    tokens: "tuple[Token, ...]" = ()  # one for each id with GenerateRequest.token_info


class FinishReason(Enum):
    """Why an answer ended."""

    STOP = "stop"  # end-of-sequence, a stop string or a stop token id
    LENGTH = "length"


@dataclass(frozen=True)
class Finished:
    """Last event of a stream."""

    reason: FinishReason
    stop_cause: str  # "eos", "token:ID", "string:TEXT", "max_tokens" or "context"
    usage: Usage
    report: PrecisionReport


Event = Union[Started, Delta, Finished]


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    started: Started
    text: str
    token_ids: "tuple[int, ...]"
    tokens: "tuple[Token, ...]"
    finished: Finished

    @property
    def report(self) -> PrecisionReport:
        """What precision it used."""
        return self.finished.report

    @property
    def usage(self) -> Usage:
        """Counts and times."""
        return self.finished.usage

    def __str__(self) -> str:
        return self.text


# ---- The server


@dataclass(frozen=True)
class LayerGroup:
    """One fused linear layer."""

    name: str
    num_weights: int


@dataclass(frozen=True)
class Plan:
    """A plan with a name."""

    name: str
    bits: "tuple[int, ...]"  # a layer group
    mean_bits: float


@dataclass(frozen=True)
class Executor:
    """One executor."""

    address: str
    device: str
    num_kv_blocks: int
    kv_block_tokens: int
    ready: bool
    kv_blocks_used: int  # now
    running_sequences: int  # now


@dataclass(frozen=True)
class ServerInfo:
    """The server, its model and its limits."""

    server_version: str
    instance_id: str  # of this controller process
    model: str
    model_revision: str
    family: str
    num_parameters: int
    vocab_size: int
    context_tokens: int  # prompt and answer together
    precisions: "tuple[int, ...]"  # bits, ascending
    has_reference: bool  # 16 bits, unquantised
    has_chat_template: bool
    max_batch_sequences: int
    running_requests: int  # that executors compute now
    waiting_requests: int  # accepted, waiting for an executor now
    layer_groups: "tuple[LayerGroup, ...]"
    named_plans: "tuple[Plan, ...]"
    executors: "tuple[Executor, ...]"


@dataclass(frozen=True)
class Tls:
    """TLS with PEM files, read once when the client is made."""

    ca_file: str = ""  # authorities of the server's certificate; empty = the system's
    certificate_file: str = ""  # of this client, with its chain, for mTLS
    key_file: str = ""  # of the certificate, without a passphrase
    server_name: str = ""  # in the server's certificate; empty = the host of the address
