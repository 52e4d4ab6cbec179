// Colours and weights of bits. Blue = few, amber = many: an axis that the common colour vision deficiencies keep, with
// lightness that moves one way, too. Colour is never alone: the underline's thickness and a bar's height say the same.

/** Colours at some bits, on a light and on a dark background; steepest where most tokens lie. */
const ANCHORS = {
  light: [[3, '#4a97e6'], [4.5, '#6a90c8'], [5.5, '#87868d'], [6.5, '#aa713a'], [8, '#b84e00']],
  dark: [[3, '#4d82da'], [4.5, '#7a9fd6'], [5.5, '#aaaeb4'], [6.5, '#dcae62'], [8, '#ffb938']],
};

/**
 * The colour of so many bits as [red, green, blue] in 0 to 255. Beyond the scale: its end.
 * @param {number} bits
 * @param {'light'|'dark'} theme
 * @returns {number[]}
 */
export function bitsColor(bits, theme) {
  const anchors = /** @type {[number, string][]} */ (ANCHORS[theme]);
  const above = anchors.findIndex(([at]) => bits <= at);
  if (above === 0) return parseColor(anchors[0][1]);
  if (above < 0) return parseColor(anchors[anchors.length - 1][1]);
  const [[low, from], [high, to]] = anchors.slice(above - 1, above + 1);
  const share = (bits - low) / (high - low);
  const start = parseColor(from);
  return parseColor(to).map((end, channel) => Math.round(start[channel] + share * (end - start[channel])));
}

/**
 * The colour as CSS, which follows the theme that is in force.
 * @param {number} bits
 */
export function bitsCssColor(bits) {
  const [light, dark] = [bitsColor(bits, 'light'), bitsColor(bits, 'dark')];
  return `light-dark(rgb(${light.join(' ')}), rgb(${dark.join(' ')}))`;
}

/**
 * Thickness of a token's underline in pixels: 1 at 3 bits, 4 at 8.
 * @param {number} bits
 */
export function bitsWeight(bits) {
  return Math.min(4, Math.max(1, 1 + (bits - 3) * 0.6));
}

/**
 * Marks an element with the bits it stands for: CSS finds --bits-color and --bits-weight.
 * @param {HTMLElement|SVGElement} target
 * @param {number} bits
 */
export function showBits(target, bits) {
  target.style.setProperty('--bits-color', bitsCssColor(bits));
  target.style.setProperty('--bits-weight', `${bitsWeight(bits).toFixed(2)}px`);
}

/**
 * WCAG's contrast of two colours, 1 to 21.
 * @param {number[]} one
 * @param {number[]} other
 */
export function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

/** @param {number[]} color */
function luminance(color) {
  const [red, green, blue] = color.map((channel) => {
    const value = channel / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/** @param {string} hex such as '#4a97e6' */
function parseColor(hex) {
  return [1, 3, 5].map((at) => Number.parseInt(hex.slice(at, at + 2), 16));
}
