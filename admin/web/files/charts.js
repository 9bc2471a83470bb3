// Lines over the last five minutes. The numbers come as they are shown.

import { $, el, svg, text, millis, rate, count } from './dom.js';

const span = 300e3; // ms
const wide = 320, high = 110, left = 2, bottom = 16, top = 8;

const kinds = [
  { id: 'lag', title: 'Lag', unit: millis, lines: [['lag_ms', 'a change until it is on the other server'], ['oldest_change_ms', 'age of the oldest change that is not']] },
  { id: 'rate', title: 'Throughput', unit: rate, lines: [['commands_per_second', 'commands of clients']] },
  { id: 'latency', title: 'Latency', unit: millis, lines: [['p50_ms', 'half of the commands'], ['p99_ms', '99 of a hundred']] },
  { id: 'dirty', title: 'Dirty keys', unit: count, lines: [['dirty', 'changed keys not yet copied']] },
];

let points = [];
const drawn = new Map();

export function begin(past) {
  points = past.map(timed);
}

export function add(point) {
  points.push(timed(point));
  while (points.length && points[0].t < points[points.length - 1].t - span) points.shift();
}

const timed = (p) => ({ ...p, t: Date.parse(p.at) });

// make writes the frames, once.
export function make() {
  if (drawn.size) return;
  for (const kind of kinds) {
    const lines = kind.lines.map((_, i) => svg('path', { class: 'stroke s' + i }));
    const dots = kind.lines.map((_, i) => svg('circle', { class: 'dot s' + i, r: '2.5' }));
    const most = svg('text', { class: 'tick', x: left, y: top + 2 });
    const picture = svg('svg', { viewBox: `0 0 ${wide} ${high}`, role: 'img' },
      svg('line', { class: 'grid', x1: 0, x2: wide, y1: high - bottom, y2: high - bottom }),
      svg('line', { class: 'grid faint', x1: 0, x2: wide, y1: top + 6, y2: top + 6 }),
      most,
      svg('text', { class: 'tick', x: left, y: high - 3 }, '5 min ago'),
      svg('text', { class: 'tick', x: wide - left, y: high - 3, 'text-anchor': 'end' }, 'now'),
      lines, dots);
    const values = kind.lines.map(() => el('strong', {}));
    const legend = el('ul', { class: 'legend' }, kind.lines.map(([, name], i) =>
      el('li', {}, el('span', { class: 'key s' + i, 'aria-hidden': 'true' }), values[i], ' ' + name)));
    $('charts').append(el('figure', {}, el('figcaption', {}, kind.title), picture, legend));
    drawn.set(kind.id, { picture, lines, dots, most, values });
  }
}

// nice rounds up to a number that is easily read.
function nice(n) {
  if (!(n > 0)) return 1;
  const unit = 10 ** Math.floor(Math.log10(n));
  return [1, 2, 5, 10].map((f) => f * unit).find((v) => v >= n);
}

export function draw() {
  make();
  if (!points.length) return;
  const end = points[points.length - 1].t;
  for (const kind of kinds) {
    const at = drawn.get(kind.id);
    const max = nice(Math.max(...points.map((p) => Math.max(...kind.lines.map(([key]) => p[key])))));
    const x = (t) => wide - ((end - t) / span) * wide;
    const y = (v) => high - bottom - (v / max) * (high - bottom - top - 6);
    text(at.most, kind.unit(max));
    kind.lines.forEach(([key], i) => {
      let path = '', before = null;
      for (const p of points) {
        // A gap in time, in which no page was open, is a gap in the line.
        path += (before === null || p.t - before > 5000 ? 'M' : 'L') + x(p.t).toFixed(1) + ' ' + y(p[key]).toFixed(1);
        before = p.t;
      }
      const last = points[points.length - 1];
      at.lines[i].setAttribute('d', path);
      at.dots[i].setAttribute('cx', x(last.t) - 2.5);
      at.dots[i].setAttribute('cy', y(last[key]).toFixed(1));
      text(at.values[i], kind.unit(last[key]));
    });
    const words = kind.lines.map(([key, name]) => `${name}: now ${kind.unit(points[points.length - 1][key])}, at most ${kind.unit(Math.max(...points.map((p) => p[key])))}`);
    at.picture.setAttribute('aria-label', kind.title + ' in the last five minutes. ' + words.join('. '));
  }
}
