// Numbers as people read them. Everything here is a function of its arguments alone.

/** @param {number} bits */
export function formatBits(bits) {
  return Number.isInteger(bits) ? String(bits) : bits.toFixed(1);
}

/**
 * Nats of KL or entropy to two significant digits where they are small.
 * @param {number} nats
 */
export function formatNats(nats) {
  if (nats === 0) return '0';
  if (nats >= 1) return nats.toFixed(2);
  if (nats < 0.0001) return nats.toExponential(1);
  return String(Number(nats.toPrecision(2)));
}

/** @param {number} bytes */
export function formatBytes(bytes) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];
  let unit = 0;
  while (bytes >= 999.5 && unit + 1 < units.length) {
    bytes /= 1000;
    unit += 1;
  }
  return `${unit > 0 && bytes < 9.95 ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
}

/** @param {number} share of 1 */
export function formatShare(share) {
  const percent = share * 100;
  if (percent > 0 && percent < 1) return `${percent.toFixed(1)} %`;
  return `${Math.round(percent)} %`;
}

/** @param {number} milliseconds */
export function formatDuration(milliseconds) {
  return milliseconds < 999.5 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

/** @param {number} rate tokens a second */
export function formatRate(rate) {
  return rate < 9.95 ? rate.toFixed(1) : String(Math.round(rate));
}

/**
 * "1 token", "2 tokens".
 * @param {number} count
 * @param {string} word
 */
export function formatCount(count, word) {
  return `${count.toLocaleString('en')} ${word}${count === 1 ? '' : 's'}`;
}

/**
 * A token's text with blanks that can be seen.
 * @param {string} text
 */
export function visibleText(text) {
  if (text === '') return '(no text of its own)';
  return text.replaceAll('\n', '↵').replaceAll('\t', '⇥')
      .replace(/^ +| +$/g, (blanks) => '␣'.repeat(blanks.length));
}
