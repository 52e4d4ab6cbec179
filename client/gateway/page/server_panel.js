import { ApiError, fetchServerState } from './api.js';
import { byId, element } from './dom.js';
import { formatCount } from './format.js';

/** @typedef {import('./api.js').ServerState} ServerState */

const POLL_MS = 2000;

/** What the server says of itself, asked for every 2 s while somebody can see it. */
export class ServerPanel {
  /** @type {number|undefined} */
  #timer;
  #asking = false;
  #again = false;

  /**
   * @param {() => string} apiKey
   * @param {(state: ServerState) => void} onState
   */
  constructor(apiKey, onState) {
    this.apiKey = apiKey;
    this.onState = onState;
    this.root = byId('server');
    this.chip = byId('model');
    document.addEventListener('visibilitychange', () => this.poll());
  }

  /** Asks now, and again and again. */
  async poll() {
    clearTimeout(this.#timer);
    if (document.hidden) return;
    if (this.#asking) {
      this.#again = true;
      return;
    }
    this.#asking = true;
    try {
      const state = await fetchServerState(this.apiKey());
      this.#show(state);
      this.onState(state);
    } catch (error) {
      const refused = error instanceof ApiError && [401, 403].includes(error.status);
      this.#showFailure(error instanceof Error ? error.message : String(error),
                        refused ? 'API key needed' : 'no server');
    }
    this.#asking = false;
    this.#timer = setTimeout(() => this.poll(), this.#again ? 0 : POLL_MS);
    this.#again = false;
  }

  /** @param {ServerState} state */
  #show(state) {
    this.chip.dataset.state = 'good';
    const calibrated = state.calibrated ? 'calibrated' : 'not calibrated';
    this.chip.replaceChildren(element('span', { class: 'name', text: state.model }),
                              element('span', { class: 'tag', text: calibrated }));
    const facts = [
      ['Running', String(state.load?.running ?? '?')], ['Waiting', String(state.load?.waiting ?? '?')],
      ['Context', state.context_tokens?.toLocaleString('en') ?? '?'],
    ];
    const executors = (state.executors ?? []).map(showExecutor);
    const about = [`Version ${state.server_version}`];
    if (state.model_revision) about.push(`model ${state.model_revision.slice(0, 12)}`);
    this.root.replaceChildren(
        element('dl', { class: 'load' }, ...facts.map(([name, value]) => element(
            'div', {}, element('dt', { text: name }), element('dd', { text: value })))),
        element('ul', { class: 'executors', 'aria-label': 'Executors' }, ...executors),
        element('p', { class: 'note', text: about.join(', ') }));
  }

  /**
   * @param {string} sentence
   * @param {string} name the same in two words
   */
  #showFailure(sentence, name) {
    this.chip.dataset.state = 'bad';
    this.chip.replaceChildren(element('span', { class: 'name', text: name }));
    const said = this.root.querySelector('.failure');
    if (said?.textContent === sentence) return;
    this.root.replaceChildren(element('p', { class: 'failure', text: sentence }));
  }
}

/** @param {NonNullable<ServerState['executors']>[number]} executor */
function showExecutor(executor) {
  const row = element('li', {}, element('p', { class: 'executor' }, element('strong', { text: executor.device }),
                                        element('span', { class: `ready ${executor.ready ? 'good' : 'bad'}`,
                                                          text: executor.ready ? 'ready' : 'not ready' })),
                      element('p', { class: 'note', text: executor.address }));
  if (executor.kv_blocks) {
    const used = executor.kv_blocks_used ?? 0;
    const text = `${used.toLocaleString('en')} of ${formatCount(executor.kv_blocks, 'KV block')}`;
    row.append(element('meter', { min: 0, max: executor.kv_blocks, value: used, 'aria-label': text }),
               element('p', { class: 'note', text }));
  }
  return row;
}
