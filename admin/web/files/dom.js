// Small things to write elements and numbers with.

const svgNS = 'http://www.w3.org/2000/svg';

export const $ = (id) => document.getElementById(id);

// el makes an element: el('p', {class: 'x'}, 'text', child). What is null is left out.
export function el(name, attributes, ...children) {
  return build(document.createElement(name), attributes, children);
}

// svg is el for what is drawn.
export function svg(name, attributes, ...children) {
  return build(document.createElementNS(svgNS, name), attributes, children);
}

function build(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? '' : value);
  }
  node.append(...children.flat(3).filter((c) => c !== null && c !== undefined && c !== false && c !== ''));
  return node;
}

const written = new WeakMap();

// fill replaces what a node holds when the value it is made of is another one than last
// time: what has not changed keeps its focus, and a screen reader's place.
export function fill(node, value, make) {
  const key = JSON.stringify(value) ?? '';
  if (written.get(node) === key) return false;
  written.set(node, key);
  const made = make();
  node.replaceChildren(...[made].flat(3).filter((c) => c !== null && c !== undefined && c !== false && c !== ''));
  return true;
}

// text sets a node's text when it is another one.
export function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

export function show(node, yes) {
  if (node.hidden === yes) node.hidden = !yes;
}

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

export function count(n) {
  if (n >= 1e7) return (n / 1e6).toFixed(1) + ' M';
  return whole.format(n);
}

export const plural = (n, one, many) => count(n) + ' ' + (n === 1 ? one : many || one + 's');

// rate writes how many a second.
export const rate = (n) => (n > 0 && n < 10 ? n.toFixed(1) : count(n)) + '/s';

// millis writes milliseconds in the unit that fits.
export function millis(ms) {
  if (!(ms > 0)) return '0 ms';
  if (ms < 1) return ms.toFixed(2) + ' ms';
  if (ms < 10) return ms.toFixed(1) + ' ms';
  if (ms < 1000) return ms.toFixed(0) + ' ms';
  return seconds(ms / 1000);
}

export function seconds(s) {
  if (s < 10) return s.toFixed(1) + ' s';
  if (s < 120) return s.toFixed(0) + ' s';
  if (s < 7200) return Math.round(s / 60) + ' min';
  if (s < 48 * 3600) return Math.round(s / 3600) + ' h';
  return Math.round(s / 86400) + ' days';
}

export function bytes(n) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let i = 0;
  while (n >= 1024 && i < units.length - 1) { n /= 1024; i++; }
  return (i === 0 || n >= 100 ? n.toFixed(0) : n.toFixed(1)) + ' ' + units[i];
}

// clock writes a time of today by the clock alone.
export function clock(when) {
  const t = new Date(when);
  const time = t.toLocaleTimeString('en-GB');
  return t.toDateString() === new Date().toDateString() ? time : t.toLocaleDateString('en-GB') + ' ' + time;
}

export const zero = (when) => !when || when.startsWith('0001-');

// mark is a sign that is not told by its colour alone.
export function mark(kind) {
  const paths = { good: 'M3 8.5l3.2 3.2L13 5', bad: 'M4 4l8 8M12 4l-8 8', warn: 'M8 3v6M8 12.4v.6', wait: 'M8 4v4l3 2' };
  return svg('svg', { class: 'sign ' + kind, viewBox: '0 0 16 16', 'aria-hidden': 'true' }, svg('path', { d: paths[kind] }));
}

// facts is a list of names and values.
export function facts(pairs) {
  return el('dl', { class: 'facts' }, pairs.filter(Boolean).map(([name, value, note]) =>
    el('div', {}, el('dt', {}, name), el('dd', {}, value, note ? el('small', {}, ' ' + note) : null))));
}

// bar is how far something has come, in percent.
export function bar(percent, label) {
  return el('progress', { max: '100', value: Math.min(100, Math.max(0, percent)).toFixed(1), 'aria-label': label });
}
