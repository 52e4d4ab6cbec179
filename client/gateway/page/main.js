import { Column } from './column.js';
import { byId, element } from './dom.js';
import { compareReports } from './report.js';
import { showBits } from './scale.js';
import { ServerPanel } from './server_panel.js';
import { Tooltip } from './tooltip.js';

const KEY = 'flexquant-api-key';
const SEEDS = 2 ** 31;
const EXAMPLES = [
  'Why is the sky blue?', 'Write a short story about a lighthouse.', 'List three uses of a paper clip.',
];

const tooltip = new Tooltip();
const columns = ['A', 'B'].map((name) => new Column(name, tooltip, (column, prompt) => run([column], prompt)));
const [first, second] = columns;
const panel = new ServerPanel(() => byId('api-key').value.trim(), showServer);
/** @type {AbortController|null} */
let running = null;
/** @type {string|undefined} */
let model;
let offered = '';

/** @returns {Column[]} those that can be seen */
function shown() {
  return second.root.hidden ? [first] : columns;
}

/** @param {import('./api.js').ServerState} state */
function showServer(state) {
  const fresh = model === undefined;
  model = state.model;
  const offer = JSON.stringify([state.model, state.precisions, state.calibrated, state.chat]);
  if (offer === offered) return;  // drawing the controls again would take the focus from them
  offered = offer;
  legend(state.precisions);
  for (const column of columns) {
    column.control.setPrecisions(state.precisions);
    column.control.setCalibrated(state.calibrated);
  }
  offerChat(state.chat ?? true);
  // A good first comparison: everything at the top against the budget, or dynamic.
  if (fresh) second.control.choose('fixed', Math.max(...state.precisions.filter((bits) => bits <= 8)));
}

/** @param {boolean} offered whether the model has a chat template */
function offerChat(offered) {
  byId('mode-chat').disabled = !offered;
  byId('mode-note').hidden = offered;
  if (!offered) byId('mode-text').checked = true;
  showMode();
}

function showMode() {
  byId('system').disabled = !byId('mode-chat').checked;
}

/** @param {number[]} precisions in bits */
function legend(precisions) {
  byId('legend').replaceChildren(...precisions.map((bits) => {
    const sample = element('span', { class: 'token sample', text: String(bits) });
    showBits(sample, bits);
    return element('li', {}, sample);
  }));
}

/** @returns {import('./column.js').Settings} */
function settings() {
  const number = (/** @type {string} */ id) => (byId(id).value === '' ? undefined : byId(id).valueAsNumber);
  return {
    chat: byId('mode-chat').checked,
    system: byId('system').value,
    temperature: number('temperature'),
    maxTokens: number('max-tokens'),
    seed: Math.floor(Math.random() * SEEDS),
    // In shared mode two requests could run at one plan: then there is nothing to compare.
    isolated: shown().length > 1,
    model,
    apiKey: byId('api-key').value.trim(),
  };
}

function settingsAreValid() {
  if (byId('settings').checkValidity()) return true;
  openSettings(true);  // what is wrong is pointed at
  return byId('settings').reportValidity();
}

/**
 * @param {Column[]} asked
 * @param {string} prompt
 */
async function run(asked, prompt) {
  if (running || !settingsAreValid()) return;
  byId('intro').hidden = true;
  byId('comparison').textContent = '';
  running = new AbortController();
  showRunning(true);
  say('Answering.');
  const common = settings();
  const { signal } = running;
  const inTurn = byId('in-turn').checked;
  /** @type {(import('./column.js').Outcome|Promise<import('./column.js').Outcome>)[]} */
  const outcomes = [];
  for (const column of asked) {
    const outcome = column.ask(prompt, common, signal);
    if (column === asked[0]) column.showLastTurn();
    outcomes.push(inTurn ? await outcome : outcome);
  }
  conclude(asked, await Promise.all(outcomes), inTurn);
}

/**
 * @param {Column[]} asked
 * @param {import('./column.js').Outcome[]} outcomes of each
 * @param {boolean} inTurn
 */
function conclude(asked, outcomes, inTurn) {
  running = null;
  showRunning(false);
  const texts = asked.map((column, index) => {
    const text = outcomes[index] === 'failed' ? '' : column.last?.text ?? '';
    return shown().length > 1 ? `Answer ${column.name}: ${text}` : text;
  });
  if (shown().length > 1 && first.last && second.last && outcomes.every((outcome) => outcome !== 'failed')) {
    byId('comparison').textContent = compareReports(first.last, second.last, inTurn);
  }
  say(`${texts.join(' ')} ${byId('comparison').textContent}`);
}

/** @param {boolean} busy */
function showRunning(busy) {
  // Hiding the button that was pressed must not lose the focus.
  const pressed = [byId(busy ? 'send' : 'stop'), document.body].includes(document.activeElement);
  byId('send').hidden = busy;
  byId('stop').hidden = !busy;
  if (pressed) byId(busy ? 'stop' : 'send').focus();
  byId('clear').disabled = busy;
  byId('compare').disabled = busy;
  for (const column of columns) column.root.setAttribute('aria-busy', String(busy));
}

/**
 * Tells those who listen instead of looking; once an answer is whole, not with each token.
 * @param {string} text
 */
function say(text) {
  byId('status').textContent = text;
}

function submit() {
  const prompt = byId('prompt').value;
  if (running || prompt.trim() === '' || !settingsAreValid()) return;
  byId('prompt').value = '';
  fitPrompt();
  run(shown(), byId('mode-chat').checked ? prompt.trim() : prompt);
}

function stop() {
  running?.abort();
}

function clear() {
  for (const column of columns) column.clear();
  first.thread.append(byId('intro-template').content.cloneNode(true));
  byId('examples').replaceChildren(...EXAMPLES.map((example) => element('button', {
    type: 'button', class: 'quiet', text: example, onclick: () => {
      byId('prompt').value = example;
      byId('prompt').focus();
      submit();
    },
  })));
  byId('comparison').textContent = '';
  byId('prompt').focus();
}

/** @param {boolean} together */
function compare(together) {
  byId('compare').setAttribute('aria-pressed', String(together));
  byId('comparison').textContent = '';
  document.body.classList.toggle('together', together);
  second.root.hidden = !together;
  byId('in-turn-choice').hidden = !together;
  if (together) second.continueFrom(first);
  for (const column of columns) column.setTogether(together);
}

/** @param {boolean} open */
function openSettings(open) {
  byId('settings-toggle').setAttribute('aria-expanded', String(open));
  document.body.classList.toggle('settings-open', open);
}

/** The prompt's field is as high as its text, within what its style allows. */
function fitPrompt() {
  const field = byId('prompt');
  field.style.height = 'auto';
  field.style.height = `${field.scrollHeight}px`;
}

/**
 * @param {() => void} action on a storage that the browser may refuse
 */
function withStorage(action) {
  try {
    action();
  } catch {
    // The choice lasts as long as the page.
  }
}

function wireComposer() {
  byId('composer').addEventListener('submit', (/** @type {Event} */ event) => {
    event.preventDefault();
    submit();
  });
  byId('prompt').addEventListener('keydown', (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  });
  byId('prompt').addEventListener('input', fitPrompt);
  byId('stop').addEventListener('click', stop);
  document.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape') return;
    tooltip.hide();
    if (running) stop();
    else openSettings(false);
  });
}

function wireSettings() {
  byId('settings').addEventListener('submit', (/** @type {Event} */ event) => event.preventDefault());
  byId('settings-toggle').addEventListener('click', () => {
    openSettings(byId('settings-toggle').getAttribute('aria-expanded') !== 'true');
  });
  byId('compare').addEventListener('click', () => compare(second.root.hidden));
  byId('clear').addEventListener('click', clear);
  const theme = byId('theme');
  theme.value = document.documentElement.dataset.theme;
  theme.addEventListener('change', () => {
    document.documentElement.dataset.theme = theme.value;
    withStorage(() => localStorage.setItem('flexquant-theme', theme.value));
  });
  const key = byId('api-key');
  withStorage(() => {
    key.value = sessionStorage.getItem(KEY) ?? '';
  });
  key.addEventListener('change', () => {
    withStorage(() => sessionStorage.setItem(KEY, key.value.trim()));
    panel.poll();
  });
  for (const mode of ['mode-chat', 'mode-text']) byId(mode).addEventListener('change', showMode);
}

byId('columns').append(...columns.map((column) => column.root));
legend([3, 4, 5, 6, 8]);
wireComposer();
wireSettings();
clear();
compare(false);
panel.poll();
