import { element } from './dom.js';
import { formatNats } from './format.js';
import { showBits } from './scale.js';

/** @typedef {import('./api.js').Precision} Precision */

const KL_LOWEST = 0.001;
const KL_HIGHEST = 0.1;
const DIAL_STEPS = 40;
const DIAL_START = 20;  // 0.01 nats, the servers' default

/**
 * The budget at a position of the dial, in nats, to two significant digits; equal steps are equal factors.
 * @param {number} position from 0 to DIAL_STEPS
 */
export function dialToKl(position) {
  return Number((KL_LOWEST * (KL_HIGHEST / KL_LOWEST) ** (position / DIAL_STEPS)).toPrecision(2));
}

/**
 * The setting in a few words, for reports.
 * @param {Precision} precision
 */
export function describePrecision(precision) {
  if (precision.max_mean_kl !== undefined) return `KL up to ${formatNats(precision.max_mean_kl)} nats`;
  if (precision.bits !== undefined) return `${precision.bits} bits everywhere`;
  return 'dynamic';
}

let serial = 0;

/** The precision setting of one column: a budget of KL on a dial, fixed bits, or dynamic. */
export class PrecisionControl {
  /** @type {'budget'|'fixed'|'dynamic'} */
  #mode = 'budget';
  #bits = 8;
  #touched = false;
  /** @type {Record<string, HTMLInputElement>} */
  #modes = {};
  /** @type {Record<string, HTMLElement>} */
  #panels = {};
  #id = `precision-${serial++}`;

  /** @param {string} title such as "Precision" */
  constructor(title) {
    this.legend = element('legend', { class: 'hidden', text: title });
    this.dial = /** @type {HTMLInputElement} */ (element('input', {
      type: 'range', min: 0, max: DIAL_STEPS, step: 1, value: DIAL_START, id: `${this.#id}-dial`, class: 'dial',
      'aria-label': 'Quality budget', 'aria-describedby': `${this.#id}-ends`, oninput: () => this.#update(),
    }));
    this.reading = element('output', { for: `${this.#id}-dial`, class: 'reading' });
    this.widths = element('div', { class: 'segments widths', role: 'radiogroup',
                                   'aria-label': 'Bits of every weight' });
    this.hint = element('p', { class: 'hint', id: `${this.#id}-hint`, hidden: true });
    this.root = element('fieldset', { class: 'precision' }, this.legend,
                        element('div', { class: 'segments modes' }, this.#modeChoice('budget', 'Quality budget'),
                                this.#modeChoice('fixed', 'Fixed bits'), this.#modeChoice('dynamic', 'Dynamic')),
                        this.hint, this.#budgetPanel(), this.#fixedPanel(), this.#dynamicPanel());
    this.setPrecisions([3, 4, 5, 6, 8]);
    this.#update();
  }

  /**
   * Chooses as if by hand.
   * @param {'budget'|'fixed'|'dynamic'} mode
   * @param {number} [bits] for fixed
   */
  choose(mode, bits) {
    this.#mode = mode;
    this.#bits = bits ?? this.#bits;
    this.#update();
  }

  /** @param {string} title */
  setTitle(title) {
    this.legend.textContent = title;
  }

  /** @param {number[]} precisions that the server has, in bits */
  setPrecisions(precisions) {
    if (!precisions.includes(this.#bits)) this.#bits = precisions[precisions.length - 1];
    this.widths.replaceChildren(...precisions.map((bits) => {
      const swatch = element('span', { class: 'swatch', 'aria-hidden': 'true' });
      showBits(swatch, bits);
      return element('label', {}, element('input', {
        type: 'radio', name: `${this.#id}-bits`, value: bits, 'aria-label': `${bits} bits`,
        checked: bits === this.#bits, onchange: () => this.choose('fixed', bits),
      }), element('span', { class: 'segment' }, String(bits), swatch));
    }));
  }

  /**
   * A budget needs a calibrated model; without one the dial is off and says why.
   * @param {boolean} calibrated
   */
  setCalibrated(calibrated) {
    this.#modes.budget.disabled = !calibrated;
    this.dial.disabled = !calibrated;
    this.hint.hidden = calibrated;
    this.hint.textContent = calibrated ? '' :
        'A quality budget needs a calibrated model: run “flexquant calibrate” on it, then restart the server.';
    if (!calibrated && this.#mode === 'budget') this.#mode = 'dynamic';
    if (calibrated && this.#mode === 'dynamic' && !this.#touched) this.#mode = 'budget';
    this.#update();
  }

  /** @returns {Precision} what a request asks for */
  value() {
    if (this.#mode === 'budget') return { max_mean_kl: dialToKl(Number(this.dial.value)) };
    if (this.#mode === 'fixed') return { bits: this.#bits };
    return { policy: 'dynamic' };
  }

  /**
   * @param {'budget'|'fixed'|'dynamic'} mode
   * @param {string} label
   */
  #modeChoice(mode, label) {
    const input = /** @type {HTMLInputElement} */ (element('input', {
      type: 'radio', name: `${this.#id}-mode`, value: mode, 'aria-describedby': `${this.#id}-hint`,
      onchange: () => {
        this.#touched = true;
        this.choose(mode);
      },
    }));
    this.#modes[mode] = input;
    return element('label', {}, input, element('span', { class: 'segment', text: label }));
  }

  #budgetPanel() {
    this.#panels.budget = element('div', { class: 'panel budget' },
                                  element('div', { class: 'scale' }, this.dial,
                                          element('div', { class: 'ends', id: `${this.#id}-ends` },
                                                  element('span', { text: 'near 8 bits' }),
                                                  element('span', { text: 'fewest bytes' }))),
                                  this.reading);
    return this.#panels.budget;
  }

  #fixedPanel() {
    this.#panels.fixed = element('div', { class: 'panel' }, this.widths);
    return this.#panels.fixed;
  }

  #dynamicPanel() {
    this.#panels.dynamic = element('div', { class: 'panel' }, element('p', {
      class: 'note', text: 'Bits follow the model’s own uncertainty, token by token, without a promise of quality.',
    }));
    return this.#panels.dynamic;
  }

  #update() {
    const kl = formatNats(dialToKl(Number(this.dial.value)));
    this.reading.textContent = `KL ≤ ${kl} nats`;
    this.dial.setAttribute('aria-valuetext', `mean KL up to ${kl} nats`);
    this.dial.style.setProperty('--share', String(Number(this.dial.value) / DIAL_STEPS));
    for (const [mode, input] of Object.entries(this.#modes)) {
      input.checked = mode === this.#mode;
      this.#panels[mode].hidden = mode !== this.#mode;
    }
    for (const input of this.widths.querySelectorAll('input')) input.checked = Number(input.value) === this.#bits;
  }
}
