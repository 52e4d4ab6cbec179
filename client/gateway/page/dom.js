/**
 * Makes an element. Attributes: `class`, `text` (its text content), functions under `onEVENT`, booleans as boolean
 * attributes, everything else as it is.
 * @param {string} name
 * @param {Record<string, any>} [attributes]
 * @param {...(Node|string)} children
 * @returns {HTMLElement}
 */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  setAttributes(made, attributes);
  made.append(...children);
  return made;
}

/**
 * As `element`, in SVG's namespace.
 * @param {string} name
 * @param {Record<string, any>} [attributes]
 * @param {...(Node|string)} children
 * @returns {SVGElement}
 */
export function svgElement(name, attributes = {}, ...children) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  setAttributes(made, attributes);
  made.append(...children);
  return made;
}

/**
 * The element with this id, which the page has.
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`no element with id ${id}`);
  return found;
}

/**
 * @param {Element} target
 * @param {Record<string, any>} attributes
 */
function setAttributes(target, attributes) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key === 'text') target.textContent = value;
    else if (typeof value === 'function') target.addEventListener(key.slice(2), value);
    else if (typeof value === 'boolean') target.toggleAttribute(key, value);
    else if (value !== undefined) target.setAttribute(key, String(value));
  }
}
