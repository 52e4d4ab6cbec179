import { element, svgElement } from './dom.js';
import { formatBits, formatNats } from './format.js';
import { showBits } from './scale.js';

/** @typedef {import('./api.js').Token} Token */

const TOP_BITS = 8;
const HEIGHT = 100;  // of the drawing, in its own units; a token is 1 wide
const TOKENS_LEAST = 64;  // the drawing is as wide as so many tokens, so that the first ones do not fill it
const ENTROPY_LEAST = 3;  // nats at the upper edge, unless a token has more

/**
 * The strip in words.
 * @param {Token[]} tokens
 */
export function describeStrip(tokens) {
  if (tokens.length === 0) return 'No tokens yet.';
  let [sum, least, most, highest] = [0, Infinity, 0, 0];
  for (const [index, { bits, entropy }] of tokens.entries()) {
    sum += bits;
    least = Math.min(least, bits);
    most = Math.max(most, bits);
    if (entropy > tokens[highest].entropy) highest = index;
  }
  return `Bits of ${tokens.length} tokens: ${formatBits(sum / tokens.length)} on average, ` +
      `from ${formatBits(least)} to ${formatBits(most)}. ` +
      `Entropy: highest at token ${highest + 1}, ${formatNats(tokens[highest].entropy)} nats.`;
}

/** Bars of bits and a line of entropy along an answer, with the numbers as a table beneath. */
export class Strip {
  /** @type {Token[]} */
  #tokens = [];
  #drawn = 0;
  #highest = ENTROPY_LEAST;
  #scheduled = false;

  /** @param {(index: number|null) => void} onPoint called with the token that the pointer is over, or null */
  constructor(onPoint) {
    this.bars = svgElement('g');
    this.lines = ['halo', 'entropy'].map(
        (name) => svgElement('polyline', { class: name, 'vector-effect': 'non-scaling-stroke' }));
    this.svg = svgElement('svg', { role: 'img', preserveAspectRatio: 'none', 'aria-label': describeStrip([]) });
    for (const bits of [4, 8]) {
      const y = HEIGHT * (1 - bits / TOP_BITS);
      this.svg.append(svgElement('line', { class: 'grid', x1: 0, x2: 100000, y1: y, y2: y,
                                           'vector-effect': 'non-scaling-stroke' }));
    }
    this.svg.append(this.bars, ...this.lines);
    this.entropyTop = element('span');
    this.table = element('div', { class: 'table-holder' });
    this.details = element('details', { class: 'numbers', ontoggle: () => this.#fillTable() },
                           element('summary', { text: 'Numbers as a table' }), this.table);
    this.root = element('figure', { class: 'strip' },
                        element('figcaption', {}, element('span', { class: 'key key-bits', text: 'bits, 0 to 8' }),
                                element('span', { class: 'key key-entropy' }, 'entropy, 0 to ', this.entropyTop)),
                        this.svg, this.details);
    this.svg.addEventListener('pointermove', (event) => onPoint(this.#tokenAt(event.clientX)));
    this.svg.addEventListener('pointerleave', () => onPoint(null));
    this.#draw();
  }

  /** @param {Token[]} tokens that came */
  add(tokens) {
    this.#tokens.push(...tokens);
    if (this.#scheduled) return;
    this.#scheduled = true;
    // Once a frame, however many tokens come.
    requestAnimationFrame(() => {
      this.#scheduled = false;
      this.#draw();
    });
  }

  /** Says in words what was drawn; while tokens come nobody wants to hear it. */
  finish() {
    this.#draw();
    this.svg.setAttribute('aria-label', describeStrip(this.#tokens));
    this.#fillTable();
  }

  #draw() {
    for (; this.#drawn < this.#tokens.length; this.#drawn++) {
      const height = HEIGHT * Math.min(1, this.#tokens[this.#drawn].bits / TOP_BITS);
      const bar = svgElement('rect', { x: this.#drawn + 0.07, y: HEIGHT - height, width: 0.86, height });
      showBits(bar, this.#tokens[this.#drawn].bits);
      this.bars.append(bar);
      this.#highest = Math.max(this.#highest, this.#tokens[this.#drawn].entropy);
    }
    const points = this.#tokens.map(
        (token, index) => `${index + 0.5},${(HEIGHT * (1 - token.entropy / this.#highest)).toFixed(2)}`);
    for (const line of this.lines) line.setAttribute('points', points.join(' '));
    this.entropyTop.textContent = `${formatNats(this.#highest)} nats`;
    this.svg.setAttribute('viewBox', `0 0 ${this.#width()} ${HEIGHT}`);
  }

  #width() {
    return Math.max(TOKENS_LEAST, this.#tokens.length);
  }

  /** @param {number} clientX */
  #tokenAt(clientX) {
    const box = this.svg.getBoundingClientRect();
    const index = Math.floor((clientX - box.left) / box.width * this.#width());
    return index >= 0 && index < this.#tokens.length ? index : null;
  }

  #fillTable() {
    if (!this.details.hasAttribute('open')) return;
    const rows = this.#tokens.map((token, index) => element(
        'tr', {}, ...[index + 1, token.text, formatBits(token.bits), formatNats(token.entropy),
                      token.top1_probability.toFixed(2), token.audit_kl === undefined ? '' : formatNats(token.audit_kl)]
            .map((value) => element('td', { text: String(value) }))));
    const head = ['Token', 'Text', 'Bits', 'Entropy, nats', 'Top probability', 'Measured KL, nats'].map(
        (name) => element('th', { scope: 'col', text: name }));
    this.table.replaceChildren(element('table', {}, element('thead', {}, element('tr', {}, ...head)),
                                       element('tbody', {}, ...rows)));
  }
}
