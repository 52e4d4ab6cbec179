"""PrecisionReport for people."""

import html as _html
from typing import List, Tuple

from ._types import Calibration, PrecisionReport

_BAR_CELLS = 30
_CALIBRATION = {
    Calibration.CALIBRATED: "calibrated",
    Calibration.UNCALIBRATED: "uncalibrated: the ladder is the uniform widths, its quality is not measured",
    Calibration.UNKNOWN: "calibration unknown",
}


def _human_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _facts(report: PrecisionReport) -> List[Tuple[str, str]]:
    """(name, text) of what else there is to say."""
    facts = []
    predicted = "" if report.predicted_mean_kl is None else f"predicted KL {report.predicted_mean_kl:.3g} nats a token"
    if report.max_mean_kl is not None:
        verdict = {True: ": within", False: ": exceeded", None: ""}[report.within_budget]
        facts.append(("budget", f"{report.max_mean_kl:.3g} nats of KL a token, {predicted}{verdict}"))
    elif report.target_mean_bits is not None:
        facts.append(("target", f"{report.target_mean_bits:.2f} bits a weight, {predicted}"))
    if report.audit is not None:
        text = f"KL {report.audit.mean_kl:.3g} nats measured on {report.audit.tokens} tokens"
        if report.audit.low_kl is not None and report.audit.high_kl is not None:
            text += f" (95 %: {report.audit.low_kl:.3g} to {report.audit.high_kl:.3g})"
        facts.append(("audit", text))
    if report.weight_bytes_top > 0:
        share = 100 * report.weight_bytes_read / report.weight_bytes_top
        facts.append(("read", f"{_human_bytes(report.weight_bytes_read)} of weights, {share:.0f} % of the "
                              f"{_human_bytes(report.weight_bytes_top)} at the top precision"))
    return facts


def _title(report: PrecisionReport) -> str:
    return (f"{report.policy or 'precision'}: mean {report.mean_bits:.2f} bits a weight, {report.plan_changes} changes "
            f"of plan ({_CALIBRATION[report.calibration]})")


def text(report: PrecisionReport) -> str:
    """Some lines for a terminal."""
    lines = [_title(report)]
    total = sum(report.histogram.values())
    for bits, tokens in report.histogram.items():
        share = tokens / total
        bar = "█" * max(1, round(share * _BAR_CELLS))
        lines.append(f"  {bits:2d} bits  {tokens:5d} tokens  {100 * share:3.0f} %  {bar}")
    lines += [f"  {name:<8} {fact}" for name, fact in _facts(report)]
    return "\n".join(lines)


def html(report: PrecisionReport) -> str:
    """A table for a notebook; every text is escaped."""
    total = sum(report.histogram.values())
    rows = []
    for bits, tokens in report.histogram.items():
        share = 100 * tokens / total
        bar = f'<div style="background:#4c78a8;height:0.8em;width:{max(share, 1):.1f}%"></div>'
        rows.append(f"<tr><td>{bits:d} bits</td><td>{tokens:d} tokens</td><td>{share:.0f} %</td>"
                    f'<td style="width:20em;text-align:left">{bar}</td></tr>')
    for name, fact in _facts(report):
        rows.append(f'<tr><td>{_html.escape(name)}</td><td colspan="3" style="text-align:left">{_html.escape(fact)}'
                    "</td></tr>")
    return f"<table><caption>{_html.escape(_title(report))}</caption>{''.join(rows)}</table>"
