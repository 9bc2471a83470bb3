// The copy by database, what clients do, and what went wrong.

import { $, el, fill, text, facts, bar, mark, millis, seconds, bytes, count, rate, plural, clock, zero } from './dom.js';
import { place } from './actions.js';

export function draw(st) {
  databases(st);
  notes(st);
  traffic(st.proxy);
  errors(st);
}

const over = (st) => st.phase === 'COMPLETED' || st.phase === 'CANCELLED';
const scanning = (st) => st.databases.some((d) => !d.done && d.total > 0) && !over(st);

function databases(st) {
  const to = st.side === 'source' ? 'the target' : 'the source';
  let lead = 'Each change is on ' + to + ' after ' + millis(st.lag_ms) + '; ' + plural(st.dirty, 'changed key') + ' outstanding.';
  if (over(st)) lead = 'Nothing is copied any more.';
  else if (!st.feed) lead = 'The copy has not begun.';
  else if (scanning(st)) lead = 'Keys are copied to ' + to + ' while clients go on. ' + lead;
  text($('copy-lead'), lead);
  fill($('databases'), st.databases, () => st.databases.map((d) => {
    const percent = d.done ? 100 : d.percent;
    const cell = (label, ...value) => el('td', { class: 'n', role: 'cell', 'data-label': label }, value);
    return el('tr', { role: 'row' }, // roles, since a narrow window shows rows as blocks
      el('th', { scope: 'row', role: 'rowheader' }, d.source + ' → ' + d.target, d.prefix ? el('small', {}, ' with prefix ' + d.prefix) : null),
      el('td', { class: 'progress', role: 'cell' }, bar(percent, 'database ' + d.source), ' ', percent.toFixed(percent < 100 ? 1 : 0) + ' %'),
      cell('Keys', count(d.scanned) + ' of ' + count(d.total)),
      cell('Rate', d.done ? '–' : rate(d.keys_per_second)),
      cell('Left', d.done ? '–' : d.keys_per_second > 0 ? seconds(d.eta_seconds) : 'not known'),
      cell('Dirty', count(d.dirty)),
      cell('Oldest change', d.oldest_change_ms > 0 ? millis(d.oldest_change_ms) : '–'),
      cell('Copied', count(d.copied), el('small', {}, ' ' + bytes(d.bytes))));
  }));
}

function notes(st) {
  const t = st.throttle || {};
  const value = [st.big_keys, st.uncopied_keys, st.resync, st.gaps, st.leave_out, st.only, t, scanning(st)];
  fill($('copy-notes'), value, () => {
    const list = [];
    const note = (kind, ...words) => list.push(el('li', {}, mark(kind), ' ', words));
    if (st.resync) note('warn', 'Everything is compared again: ' + st.resync);
    if (st.gaps) note('warn', plural(st.gaps, 'time') + ' changes may have been missed since the start; each time everything was compared again');
    for (const k of (st.uncopied_keys || []).slice(0, 5)) note('bad', 'Cannot be copied: key ', el('code', {}, k.key), ' of database ' + k.database + ': ' + k.why);
    for (const k of (st.big_keys || []).slice(0, 5)) note('wait', 'Big key ', el('code', {}, k.key), ' of database ' + k.database + ' (' + k.type + ', ' + bytes(k.size) + '): ' + k.percent.toFixed(0) + ' %');
    if (st.leave_out.length) note('warn', 'Databases that stay behind: ' + st.leave_out.join(', '));
    if (st.only) note('warn', 'Only these keys are copied: ' + st.only);
    if (scanning(st)) {
      if (t.paused) note('warn', 'The scan of keys rests; changes are carried all the same.');
      if (t.pace) note('wait', 'For the clients’ sake no more than ' + rate(t.pace) + ' keys are scanned.');
      if (t.held) note('wait', t.slow + ' is slow: no more than ' + rate(t.held) + ' keys are scanned.');
      if (t.window) note('wait', 'The schedule’s window ' + t.window + ' is open' + (zero(t.until) ? '' : ' until ' + clock(t.until)) + '.');
    }
    return list.length ? el('ul', { class: 'notes' }, list) : [];
  });
  const pauses = scanning(st) ? [t.paused ? goOn : pause] : [];
  place($('copy-actions'), pauses);
}

const pause = {
  id: 'pause', label: 'Pause the scan …', about: () => ({
    title: 'Pause the scan', path: '/v1/throttle', body: () => ({ paused: true }), does: 'Pause', doing: 'The scan is being paused',
    will: ['No more keys are scanned until it goes on. Changes of clients are carried all the same.'], notice: 'nothing, or that the servers are quicker.',
    back: 'go on, here on this page.', done: () => 'The scan rests',
  }),
};

const goOn = {
  id: 'go-on', label: 'Go on with the scan …', about: () => ({
    title: 'Go on with the scan', path: '/v1/throttle', body: () => ({ paused: false }), does: 'Go on', doing: 'The scan is being taken up again',
    will: ['Keys are scanned again, as fast as the clients do not feel it or as configured.'], notice: 'nothing, as a rule.',
    back: 'pause it again.', done: () => 'The scan goes on',
  }),
};

function traffic(p) {
  fill($('traffic'), p, () => {
    if (!p) return el('p', { class: 'muted' }, 'The proxy has no numbers.');
    const r = p.recent;
    return [
      facts([
        ['Connected', count(p.clients.shared + p.clients.pinned), p.clients.shared + ' share connections, ' + p.clients.pinned + ' have their own'],
        ['Commands', rate(r.commands_per_second), count(p.commands) + ' since the start'],
        ['Latency, half of the commands', millis(r.total_ms.p50)],
        ['99 of a hundred', millis(r.total_ms.p99), 'of which ' + millis(r.upstream_ms.p99) + ' in the server'],
        ['999 of a thousand', millis(r.total_ms.p999)],
        ['In flight', count(p.in_flight.shared + p.in_flight.pinned)],
        ['Refused, too many', count(p.clients.refused)],
        ['Closed, did not read', count(p.clients.output_limit)],
      ]),
      p.families.length ? el('details', {}, el('summary', {}, 'By kind of command, since the start'),
        el('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Commands by kind' }, el('table', {},
          el('thead', {}, el('tr', {}, ['Kind', 'Commands', 'Half', '99 of 100'].map((h, i) => el('th', { scope: 'col', class: i ? 'n' : null }, h)))),
          el('tbody', {}, p.families.map((f) => el('tr', {}, el('th', { scope: 'row' }, f.family), el('td', { class: 'n' }, count(f.commands)),
            el('td', { class: 'n' }, millis(f.total_ms.p50)), el('td', { class: 'n' }, millis(f.total_ms.p99)))))))) : null,
    ];
  });
  // What is open stays open: the frame is made anew each second.
  const details = $('traffic').querySelector('details');
  if (details) {
    details.open = opened;
    details.ontoggle = () => { opened = details.open; };
  }
}

let opened = false;

function errors(st) {
  const p = st.proxy;
  const replies = p ? Object.entries(p.errors || {}).sort((a, b) => b[1] - a[1]) : [];
  fill($('errors'), [st.errors, replies], () => [
    el('h3', {}, 'Of the copy'),
    st.errors.length ? el('ul', { class: 'errors' }, st.errors.map((e) => el('li', {}, mark('warn'), el('span', {},
      el('strong', {}, e.kind), ' ' + plural(e.count, 'time') + ', last at ' + clock(e.last), el('br', {}), el('span', { class: 'example' }, e.text)))))
      : el('p', { class: 'muted' }, 'None.'),
    el('h3', {}, 'Error replies to clients'),
    replies.length ? el('ul', { class: 'errors' }, replies.slice(0, 12).map(([kind, n]) => el('li', {}, mark('warn'), el('span', {}, el('strong', {}, kind), ' ' + plural(n, 'time')))))
      : el('p', { class: 'muted' }, 'None.'),
  ]);
}
