import { element } from './dom.js';
import { Report } from './report.js';
import { showBits } from './scale.js';
import { Strip } from './strip.js';

/**
 * @typedef {import('./api.js').Token} Token
 * @typedef {import('./api.js').Piece} Piece
 * @typedef {import('./tooltip.js').Tooltip} Tooltip
 */

/** An answer as it comes: tokens in the colours of their bits, the strip, the report. */
export class Answer {
  /** @type {Token[]} */
  #tokens = [];
  /**
   * The tokens' elements; null where a token has no text of its own.
   * @type {(HTMLElement|null)[]}
   */
  #spans = [];
  #bits = 0;
  /** @type {import('./api.js').PrecisionReport|undefined} */
  #precision;
  #scheduled = false;

  /** @param {Tooltip} tooltip */
  constructor(tooltip) {
    this.tooltip = tooltip;
    this.text = '';
    /** @type {import('./report.js').Timing} */
    this.timing = { sent: performance.now(), tokens: 0 };
    this.words = element('p', {
      class: 'tokens', role: 'group', 'aria-label': 'Answer. Arrow keys go from token to token.',
    });
    this.words.addEventListener('pointerover', (event) => this.#pointAt(event.target));
    this.words.addEventListener('pointerleave', () => this.tooltip.hide());
    this.words.addEventListener('focusin', (event) => this.#takeFocus(event.target));
    this.words.addEventListener('focusout', () => this.tooltip.hide());
    this.words.addEventListener('keydown', (event) => this.#moveFocus(event));
    this.strip = new Strip((index) => this.#pointAt(index === null ? null : this.#spans[index]));
    this.report = new Report();
    this.waiting = element('p', { class: 'waiting', text: 'Waiting for the first token' });
    this.figures = element('div', { class: 'figures', hidden: true }, this.strip.root, this.report.root);
    this.root = element('div', { class: 'answer' }, this.waiting, this.words, this.figures);
  }

  /** What the server said of the whole answer, once it did. */
  get precision() {
    return this.#precision;
  }

  /** @param {Piece} piece */
  add(piece) {
    this.text += piece.text;
    this.#precision = piece.precision ?? this.#precision;
    if (piece.tokens.length > 0) {
      this.timing.last = performance.now();
      this.timing.first ??= this.timing.last;
      this.timing.tokens += piece.tokens.length;
      this.figures.hidden = false;
      for (const token of piece.tokens) this.#addToken(token);
      this.strip.add(piece.tokens);
      this.#scheduleReport();
    } else if (piece.text !== '') {
      this.words.append(piece.text);
    }
    if (this.text !== '') this.waiting.remove();
  }

  /** No more pieces come, for whatever reason. */
  finish() {
    this.waiting.remove();
    this.strip.finish();
    this.#updateReport();
  }

  /** @param {Token} token */
  #addToken(token) {
    this.#tokens.push(token);
    this.#bits += token.bits;
    if (token.text === '') {
      this.#spans.push(null);
      return;
    }
    const first = !this.#spans.some((span) => span !== null);
    const span = element('span', { class: token.audit_kl === undefined ? 'token' : 'token audited',
                                   tabindex: first ? 0 : -1, text: token.text, 'data-index': this.#spans.length });
    showBits(span, token.bits);
    this.#spans.push(span);
    this.words.append(span);
  }

  #scheduleReport() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      this.#updateReport();
    });
  }

  #updateReport() {
    if (this.#tokens.length > 0) this.report.update(this.#precision, this.timing, this.#bits / this.#tokens.length);
  }

  /** @param {EventTarget|null|undefined} target */
  #pointAt(target) {
    const span = target instanceof HTMLElement ? target.closest('.token') : null;
    if (!(span instanceof HTMLElement)) return this.tooltip.hide();
    return this.tooltip.show(span, this.#tokens[Number(span.dataset.index)]);
  }

  /**
   * The answer is one stop of the Tab key: at the token that had the focus last.
   * @param {EventTarget|null} target
   */
  #takeFocus(target) {
    for (const span of this.#spans) if (span) span.tabIndex = span === target ? 0 : -1;
    this.#pointAt(target);
  }

  /** @param {KeyboardEvent} event */
  #moveFocus(event) {
    const spans = /** @type {HTMLElement[]} */ (this.#spans.filter((span) => span !== null));
    const at = spans.indexOf(/** @type {HTMLElement} */ (event.target));
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: spans.length - 1 }[event.key];
    if (at < 0 || to === undefined || to < 0 || to >= spans.length) return;
    event.preventDefault();
    spans[to].focus();
  }
}
