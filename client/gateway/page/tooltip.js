import { element } from './dom.js';
import { formatBits, formatNats, formatShare, visibleText } from './format.js';
import { showBits } from './scale.js';

/** @typedef {import('./api.js').Token} Token */

const TOP_BITS = 8;
const GAP = 8;  // pixels between a token and its tooltip

/**
 * What is known of a token, as [name, value] pairs.
 * @param {Token} token
 * @returns {[string, string][]}
 */
export function tokenFacts(token) {
  /** @type {[string, string][]} */
  const facts = [
    ['Entropy', `${formatNats(token.entropy)} nats`],
    ['Probability', formatShare(Math.exp(token.logprob))],
    ['Most likely token', formatShare(token.top1_probability)],
    ['Margin', `${token.margin.toFixed(2)} logits`],
  ];
  if (token.level !== undefined) facts.push(['Level on the ladder', String(token.level)]);
  if (token.audit_kl !== undefined) facts.push(['KL, measured', `${formatNats(token.audit_kl)} nats`]);
  return facts;
}

/** The one box that says what is known of the token under the pointer or with the focus. */
export class Tooltip {
  /** @type {HTMLElement|null} */
  #anchor = null;

  constructor() {
    this.root = element('div', { id: 'tooltip', class: 'tooltip', role: 'tooltip', hidden: true });
    document.body.append(this.root);
    document.addEventListener('scroll', () => this.hide(), { capture: true, passive: true });
    window.addEventListener('resize', () => this.hide());
  }

  /**
   * @param {HTMLElement} anchor
   * @param {Token} token
   */
  show(anchor, token) {
    this.hide();
    this.#anchor = anchor;
    anchor.setAttribute('aria-describedby', 'tooltip');
    anchor.classList.add('shown');
    this.root.replaceChildren(...contents(token));
    this.root.hidden = false;
    this.#place(anchor);
  }

  hide() {
    this.#anchor?.removeAttribute('aria-describedby');
    this.#anchor?.classList.remove('shown');
    this.#anchor = null;
    this.root.hidden = true;
  }

  /** @param {HTMLElement} anchor */
  #place(anchor) {
    // A token that is broken over two lines has two boxes; the first one is where reading begins.
    const box = anchor.getClientRects()[0] ?? anchor.getBoundingClientRect();
    const size = this.root.getBoundingClientRect();
    const left = Math.min(Math.max(GAP, box.left + box.width / 2 - size.width / 2), innerWidth - size.width - GAP);
    const above = box.top - size.height - GAP;
    this.root.style.left = `${Math.max(GAP, left)}px`;
    this.root.style.top = `${above >= GAP ? above : box.bottom + GAP}px`;
  }
}

/** @param {Token} token */
function contents(token) {
  const planes = element('div', { class: 'planes', 'aria-hidden': 'true' });
  for (let plane = 0; plane < TOP_BITS; plane++) {
    const cell = element('span');
    cell.style.setProperty('--filled', `${Math.min(1, Math.max(0, token.bits - plane)) * 100}%`);
    planes.append(cell);
  }
  showBits(planes, token.bits);
  const facts = element('dl', {}, ...tokenFacts(token).map(
      ([name, value]) => element('div', {}, element('dt', { text: name }), element('dd', { text: value }))));
  return [
    element('p', { class: 'tooltip-head' }, element('span', { class: 'token-text', text: visibleText(token.text) }),
            ' ', element('strong', { text: `${formatBits(token.bits)} bits` })),
    planes, facts,
  ];
}
