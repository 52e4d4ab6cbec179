import { element } from './dom.js';
import { formatBits, formatBytes, formatCount, formatDuration, formatNats, formatRate, formatShare } from './format.js';
import { showBits } from './scale.js';

/**
 * @typedef {import('./api.js').PrecisionReport} PrecisionReport
 * @typedef {{sent: number, first?: number, last?: number, tokens: number}} Timing Times in ms of one clock.
 * @typedef {{name: string, value: string, detail?: string, state?: 'good'|'bad'}} Fact
 */

/**
 * Tokens a second after the first one; undefined until there are two.
 * @param {Timing} timing
 */
export function tokensPerSecond(timing) {
  if (timing.first === undefined || timing.last === undefined || timing.tokens < 2) return undefined;
  return timing.last > timing.first ? (timing.tokens - 1) * 1000 / (timing.last - timing.first) : undefined;
}

/**
 * The report's facts; those that the server did not send are left out.
 * @param {PrecisionReport|undefined} precision undefined while the answer is not complete
 * @param {Timing} timing
 * @param {number} meanBits of the tokens so far
 * @returns {Fact[]}
 */
export function reportFacts(precision, timing, meanBits) {
  /** @type {Fact[]} */
  const facts = [{ name: 'Mean bits', value: formatBits(precision?.mean_bits ?? meanBits) }];
  if (precision?.plan_changes !== undefined) facts[0].detail = formatCount(precision.plan_changes, 'change');
  const { weight_bytes_read: read, weight_bytes_top: top } = precision ?? {};
  if (read !== undefined && top) {
    facts.push({ name: 'Weight bytes', value: formatShare(read / top),
                 detail: `${formatBytes(read)}; 8 bits: ${formatBytes(top)}` });
  }
  if (precision?.predicted_mean_kl !== undefined) {
    /** @type {Fact} */
    const fact = { name: 'Predicted KL', value: `${formatNats(precision.predicted_mean_kl)} nats` };
    if (precision.within_budget !== undefined) {
      fact.detail = precision.within_budget ? '✓ within the budget' : '✗ above the budget';
      fact.state = precision.within_budget ? 'good' : 'bad';
    }
    facts.push(fact);
  }
  if (precision?.audit) facts.push(auditFact(precision.audit));
  const rate = tokensPerSecond(timing);
  if (rate !== undefined) {
    facts.push({ name: 'Speed', value: `${formatRate(rate)} tokens/s`, detail: formatCount(timing.tokens, 'token') });
  }
  if (timing.first !== undefined) {
    facts.push({ name: 'First token', value: formatDuration(timing.first - timing.sent) });
  }
  return facts;
}

/**
 * What two settings made of the same prompt, as a sentence; empty without both reports. Speeds are compared only where
 * each answer had the server for itself: at once they share its steps and so come out alike.
 * @param {{precision?: PrecisionReport, timing: Timing}} a
 * @param {{precision?: PrecisionReport, timing: Timing}} b
 * @param {boolean} inTurn whether one ran after the other
 */
export function compareReports(a, b, inTurn) {
  if (!a.precision || !b.precision) return '';
  const parts = [];
  const perToken = [a, b].map(({ precision, timing }) => (precision?.weight_bytes_read ?? NaN) / timing.tokens);
  const less = 1 - perToken[1] / perToken[0];
  if (Number.isFinite(less)) {
    parts.push(Math.abs(less) < 0.005 ? 'read as many weight bytes a token as A' :
        `read ${formatShare(Math.abs(less))} ${less > 0 ? 'fewer' : 'more'} weight bytes a token than A`);
  }
  const [rateA, rateB] = [tokensPerSecond(a.timing), tokensPerSecond(b.timing)];
  if (inTurn && rateA && rateB) {
    const ratio = (rateB / rateA).toFixed(2);
    parts.push(ratio === '1.00' ? 'wrote as fast' : `wrote ${ratio} times as fast`);
  }
  return parts.length > 0 ? `B ${parts.join(' and ')}.` : '';
}

/** The figures of an answer and its histogram of bits. */
export class Report {
  constructor() {
    this.facts = element('dl', { class: 'facts' });
    this.histogram = element('div', { class: 'histogram', hidden: true });
    this.root = element('div', { class: 'report' }, this.facts, this.histogram);
  }

  /**
   * @param {PrecisionReport|undefined} precision
   * @param {Timing} timing
   * @param {number} meanBits
   */
  update(precision, timing, meanBits) {
    this.facts.replaceChildren(...reportFacts(precision, timing, meanBits).map((fact) => {
      const value = element('dd', {}, element('span', { class: 'value', text: fact.value }));
      if (fact.detail) value.append(element('span', { class: `detail ${fact.state ?? ''}`, text: fact.detail }));
      return element('div', {}, element('dt', { text: fact.name }), value);
    }));
    if (precision?.histogram) this.#drawHistogram(precision.histogram);
  }

  /** @param {Record<string, number>} histogram tokens by bits */
  #drawHistogram(histogram) {
    const bars = Object.entries(histogram).map(([bits, tokens]) => ({ bits: Number(bits), tokens }))
        .sort((a, b) => a.bits - b.bits);
    this.histogram.hidden = bars.length === 0;
    const title = element('span', { class: 'title', text: 'Tokens by bits' });
    this.histogram.replaceChildren(title, ...bars.map(({ bits, tokens }) => {
      const label = `${formatCount(tokens, 'token')} at about ${bits} bits`;
      const bar = element('span', { class: 'bar', role: 'img', 'aria-label': label, title: label, text: String(bits) });
      bar.style.flexGrow = String(tokens);
      showBits(bar, bits);
      return bar;
    }));
  }
}

/** @param {NonNullable<PrecisionReport['audit']>} audit */
function auditFact(audit) {
  const interval = audit.low_kl !== undefined && audit.high_kl !== undefined ?
      ` (${formatNats(audit.low_kl)} to ${formatNats(audit.high_kl)})` : '';
  return { name: 'Measured KL', value: `${formatNats(audit.mean_kl)} nats`,
           detail: `${formatCount(audit.tokens, 'audit')}${interval}` };
}
