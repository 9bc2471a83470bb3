// Preflight findings and what to do about them, and what comparisons of both sides say.

import { $, el, fill, text, mark, facts, bar, count, plural, clock, seconds } from './dom.js';
import { levels } from './words.js';
import { place } from './actions.js';
import * as door from './door.js';

export function draw(st) {
  checked(st);
  verified(st);
}

const over = (st) => st.phase === 'COMPLETED' || st.phase === 'CANCELLED';

let loaded = '';

function checked(st) {
  const c = st.checked;
  let lead = 'Nothing was looked at since the sidecar has started.';
  if (c) {
    lead = 'Before a ' + (c.from === 'source' ? 'cutover' : 'rollback') + ', at ' + clock(c.ended) + ': ' +
      (c.fail ? plural(c.fail, 'finding') + ' in the way, ' : 'nothing in the way, ') + count(c.warn) + ' to know, ' + count(c.pass) + ' fine.';
  }
  text($('check-lead'), lead);
  place($('check-actions'), over(st) ? [] : [look]);
  if (c && c.ended !== loaded) {
    loaded = c.ended;
    door.get('/v1/findings').then(findings, () => { loaded = ''; });
  }
}

const look = {
  id: 'check', label: 'Look at both servers …', about: () => ({
    title: 'Look at both servers', path: '/v1/check', does: 'Look', doing: 'Both servers are being looked at',
    will: ['What could stand in the way of the next switch is looked for, on both servers.', 'No setting is changed. A few small keys of ours are written and removed again.'],
    notice: 'nothing.', back: 'none is needed.',
    done: (r) => (r.ok ? 'Nothing stands in the way' : 'Something stands in the way: see Preflight'),
  }),
};

function findings(r) {
  const order = { fail: 0, warn: 1, pass: 2 };
  const list = [...r.findings].sort((a, b) => order[a.level] - order[b.level]);
  const urgent = list.filter((f) => f.level !== 'pass'), fine = list.filter((f) => f.level === 'pass');
  fill($('findings'), list, () => [
    urgent.length ? el('ul', { class: 'findings' }, urgent.map(finding)) : null,
    fine.length ? el('details', {}, el('summary', {}, plural(fine.length, 'finding') + ' that ' + (fine.length === 1 ? 'is' : 'are') + ' fine'), el('ul', { class: 'findings' }, fine.map(finding))) : null,
  ]);
}

function finding(f) {
  const kind = { fail: 'bad', warn: 'warn', pass: 'good' }[f.level];
  return el('li', { 'data-level': f.level }, mark(kind), el('div', {},
    el('strong', {}, f.check), el('span', { class: 'level' }, levels[f.level]),
    el('p', {}, f.what), f.do ? el('p', { class: 'do' }, f.do) : null));
}

const stepWords = { compare: 'values are compared', extras: 'keys that are too much are looked for', settle: 'what differed at first is looked at again' };

function progress(p) {
  return el('p', {}, bar(p.total ? (100 * p.done) / p.total : 0, 'verification of database ' + p.source),
    ` database ${p.source}: ${stepWords[p.step] || p.step}, ${count(p.done)} of about ${count(p.total)}`,
    p.differing ? ', ' + plural(p.differing, 'key') + ' differ' : '');
}

function summary(s, name) {
  const good = s.verdict === 'equal' && !s.differing;
  const words = good ? 'no difference' : s.differing ? plural(s.differing, 'key') + ' differ' : 'it could not tell about ' + plural(s.undecided, 'key');
  return el('li', {}, mark(good ? 'good' : s.differing ? 'bad' : 'warn'), el('div', {},
    el('strong', {}, name + ': ' + words),
    el('p', {}, plural(s.keys, 'key') + (s.sample < 1 ? ` (${(100 * s.sample).toFixed(0)} % of all)` : '') + ', ended at ' + clock(s.ended) +
      (s.repaired ? ', ' + plural(s.repaired, 'key') + ' mended' : '') + (s.moving ? ', ' + plural(s.moving, 'key') + ' changing all the time' : '') + '. ' +
      (s.holds ? 'It still counts: every change since was followed.' : ''))));
}

function verified(st) {
  const v = st.verify, b = v.background;
  // Ages change each second and are not shown.
  const plain = (s) => s && { ...s, age_seconds: 0 };
  fill($('verify'), [v.running, plain(v.last), b.state, b.progress, b.alarms, b.alarm, b.alarm_at, b.walks, plain(b.last)], () => [
    v.running ? [el('p', {}, el('strong', {}, 'A comparison is under way')), progress(v.running)] : null,
    el('ul', { class: 'findings' },
      v.last && v.last.by !== 'background' ? summary(v.last, 'The last one that was asked for') : null,
      b.last ? summary(b.last, 'In the background') : null),
    !v.last && !b.last ? el('p', { class: 'muted' }, 'No comparison has come to its end yet.') : null,
    b.alarms ? el('p', { class: 'why' }, mark('bad'), plural(b.alarms, 'key') + ' differed although the copy claimed to be live. The latest: ' + b.alarm) : null,
    facts([
      ['In the background', b.state === 'off' ? 'switched off' : b.state === 'comparing' ? 'comparing, ' + count(b.keys_per_second) + ' keys/s at most' : 'waiting'],
      b.state !== 'off' && ['Walks through all keys', count(b.walks)],
    ]),
    b.state === 'comparing' && b.progress ? progress(b.progress) : null,
  ]);
  place($('verify-actions'), over(st) || v.running ? [] : [compare(st, false), compare(st, true)]);
}

function compare(st, mend) {
  const other = st.side === 'source' ? 'target' : 'source';
  return {
    id: mend ? 'verify-repair' : 'verify', label: mend ? 'Compare and mend …' : 'Compare all keys …', about: () => ({
      title: mend ? 'Compare all keys and mend what differs' : 'Compare all keys', path: '/v1/verify', free: true, body: () => (mend ? { repair: true } : {}),
      does: mend ? 'Compare and mend' : 'Compare', doing: 'Both sides are being compared',
      meanwhile: 'Keep this page open: it ends when the page is closed.',
      will: ['Each key is read on both servers and compared, while clients go on.', mend ? 'What differs is copied to the ' + other + ' again, and what is too much there is removed.' : 'Nothing is changed, whatever is found.'],
      notice: 'nothing, as a rule: both servers have more to read.', back: mend ? 'none: the side that the clients are on is the truth, and is not changed.' : 'none is needed.',
      done: (r) => (r.verdict === 'equal' ? 'No difference in ' + plural(r.keys, 'key') : r.differing - r.repaired > 0 ? plural(r.differing - r.repaired, 'key') + ' differ' : 'It could not tell about ' + plural(r.undecided, 'key')),
      after: (r) => [el('p', {}, 'It took ' + seconds(r.seconds) + (r.repaired ? '; ' + plural(r.repaired, 'key') + ' mended' : '') + '.')],
    }),
  };
}
