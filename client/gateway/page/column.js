import { Answer } from './answer.js';
import { ApiError, streamAnswer } from './api.js';
import { element } from './dom.js';
import { PrecisionControl, describePrecision } from './precision.js';

/**
 * @typedef {import('./api.js').Message} Message
 * @typedef {import('./tooltip.js').Tooltip} Tooltip
 * @typedef {{chat: boolean, system: string, temperature?: number, maxTokens?: number, seed: number, isolated: boolean,
 *   model?: string, apiKey: string}} Settings What the columns share.
 * @typedef {'done'|'length'|'stopped'|'failed'} Outcome
 */

const NEAR_END = 80;  // pixels from a thread's end at which it still follows new text

/** One setting and its conversation. */
export class Column {
  /**
   * What the model is told of earlier turns.
   * @type {Message[]}
   */
  #history = [];
  /** @type {Answer|null} */
  #last = null;

  /**
   * @param {string} name "A" or "B"
   * @param {Tooltip} tooltip
   * @param {(column: Column, prompt: string) => void} onRetry
   */
  constructor(name, tooltip, onRetry) {
    this.name = name;
    this.tooltip = tooltip;
    this.onRetry = onRetry;
    this.control = new PrecisionControl('Precision');
    this.badge = element('span', { class: 'badge', 'aria-hidden': 'true', text: name });
    this.thread = element('div', { class: 'thread', tabindex: 0, role: 'group', 'aria-label': 'Messages' });
    this.root = element('section', { class: 'column', 'aria-label': 'Conversation' },
                        element('div', { class: 'setting' }, this.badge, this.control.root), this.thread);
  }

  /** The last answer, complete or not. */
  get last() {
    return this.#last;
  }

  /** @param {boolean} together whether another column is beside this one */
  setTogether(together) {
    this.badge.hidden = !together;
    this.control.setTitle(together ? `Precision of ${this.name}` : 'Precision');
    this.root.setAttribute('aria-label', together ? `Conversation ${this.name}` : 'Conversation');
    this.thread.setAttribute('aria-label', together ? `Messages of ${this.name}` : 'Messages');
  }

  clear() {
    this.#history = [];
    this.#last = null;
    this.thread.replaceChildren();
  }

  /** Where columns lie one below the other they scroll together, and the newest turn may be out of sight. */
  showLastTurn() {
    this.thread.lastElementChild?.scrollIntoView();
  }

  /**
   * Goes on from another column's conversation.
   * @param {Column} other
   */
  continueFrom(other) {
    this.clear();
    this.#history = other.#history.slice();
    if (this.#history.length > 0) {
      this.thread.append(element('p', { class: 'note', text: `Goes on from the conversation in ${other.name}.` }));
    }
  }

  /**
   * Sends a prompt and shows the answer. Failures are shown, too, and do not throw.
   * @param {string} prompt
   * @param {Settings} settings
   * @param {AbortSignal} signal
   * @returns {Promise<Outcome>}
   */
  async ask(prompt, settings, signal) {
    const precision = this.control.value();
    const answer = new Answer(this.tooltip);
    this.#last = answer;
    const turn = element('article', { class: 'turn', 'aria-label': 'Question and answer' },
                         element('p', { class: 'question', text: prompt }), answer.root,
                         element('p', { class: 'asked', text: `Asked for: ${describePrecision(precision)}` }));
    this.thread.append(turn);
    this.thread.scrollTop = this.thread.scrollHeight;
    /** @type {Outcome} */
    let outcome = 'done';
    try {
      for await (const piece of streamAnswer(this.#request(prompt, settings, precision), settings.apiKey, signal)) {
        const follow = this.#atEnd();
        answer.add(piece);
        if (piece.finishReason === 'length') outcome = 'length';
        if (follow) this.thread.scrollTop = this.thread.scrollHeight;
      }
    } catch (error) {
      outcome = signal.aborted ? 'stopped' : 'failed';
      if (outcome === 'failed') this.#showFailure(turn, prompt, error);
    }
    const follow = this.#atEnd();
    answer.finish();
    this.#conclude(turn, answer, prompt, settings, outcome);
    if (follow) this.thread.scrollTop = this.thread.scrollHeight;
    return outcome;
  }

  /**
   * @param {string} prompt
   * @param {Settings} settings
   * @param {import('./api.js').Precision} precision
   * @returns {import('./api.js').AnswerRequest}
   */
  #request(prompt, settings, precision) {
    const { model, temperature, maxTokens, seed, isolated } = settings;
    const common = { model, temperature, maxTokens, seed, isolated, precision };
    if (!settings.chat) return { ...common, prompt };
    const system = settings.system.trim() === '' ? [] : [{ role: 'system', content: settings.system }];
    return { ...common, messages: [...system, ...this.#history, { role: 'user', content: prompt }] };
  }

  /**
   * @param {HTMLElement} turn
   * @param {Answer} answer
   * @param {string} prompt
   * @param {Settings} settings
   * @param {Outcome} outcome
   */
  #conclude(turn, answer, prompt, settings, outcome) {
    turn.dataset.outcome = outcome;
    if (outcome === 'failed') return;
    if (outcome === 'stopped') turn.append(element('p', { class: 'note', text: 'Stopped.' }));
    if (outcome === 'length') turn.append(element('p', { class: 'note', text: 'Ended at the limit of tokens.' }));
    if (outcome !== 'stopped' && answer.text === '') {
      turn.append(element('p', { class: 'note', text: 'The model had nothing to say.' }));
    }
    if (settings.chat && answer.text !== '') {
      this.#history.push({ role: 'user', content: prompt }, { role: 'assistant', content: answer.text });
    }
  }

  /**
   * @param {HTMLElement} turn
   * @param {string} prompt
   * @param {unknown} error
   */
  #showFailure(turn, prompt, error) {
    // What is not an ApiError is a fault of this page; the console has it, too.
    if (!(error instanceof ApiError)) console.error(error);
    const sentence = error instanceof ApiError ? error.message : `The page failed: ${error}.`;
    const again = element('button', { type: 'button', class: 'quiet', text: 'Try again', onclick: () => {
      turn.remove();
      this.onRetry(this, prompt);
    } });
    turn.append(element('div', { class: 'failure', role: 'alert' }, element('p', { text: sentence }), again));
  }

  #atEnd() {
    return this.thread.scrollHeight - this.thread.scrollTop - this.thread.clientHeight < NEAR_END;
  }
}
