// The switch: what it needs, its actions, what it cost, and the end of the migration.

import { $, el, fill, show, text, mark, facts, millis, seconds, clock, count, plural, zero } from './dom.js';
import { steps, fences } from './words.js';
import { back } from './line.js';
import { place } from './actions.js';

const over = (st) => st.phase === 'COMPLETED' || st.phase === 'CANCELLED';
const switching = (st) => ['PREPARED', 'HOLDING', 'SOFT_FENCED', 'HARD_FENCED', 'VERIFYING', 'COMMITTING', 'COMMITTED', 'ABORTING'].includes(st.phase);

export function draw(st) {
  const away = st.side === 'source';
  text($('switch-title'), over(st) ? 'The end' : away ? 'Cutover: move the clients to the target' : 'Rollback: move the clients back to the source');
  text($('switch-lead'), lead(st, away));
  waits(st);
  gates(st);
  place($('actions'), list(st, away));
  report(st);
}

function lead(st, away) {
  if (st.phase === 'COMPLETED') return 'Nothing is copied any more. Point the clients at the target itself one by one, then stop Crossfade.';
  if (st.phase === 'CANCELLED') return 'Nothing is copied any more. Point the clients at the source itself one by one, then stop Crossfade.';
  if (switching(st)) return 'A switch is under way.';
  if (st.ready) return away ? 'A cutover can be made now.' : 'A rollback can be made now.';
  return away ? 'A cutover cannot be made now.' : 'A rollback cannot be made now.';
}

function waits(st) {
  const w = st.waiting, d = st.dropped;
  show($('waiting'), Boolean(w || d));
  fill($('waiting'), [w, d], () => [
    w ? el('p', {}, mark('wait'), el('strong', {}, 'A ' + w.verb + ' waits for its moment'),
      w.for && w.for.length ? ': ' + w.for.join('; ') : '', zero(w.until) ? '' : '. It is given up at ' + clock(w.until) + '.') : null,
    d ? el('p', {}, mark('warn'), el('strong', {}, 'A ' + d.verb + ' that waited was not made'), ' (' + clock(d.at) + '): ' + d.why) : null,
  ]);
}

function gates(st) {
  const c = st.checked;
  fill($('gates'), [st.gates, c && [c.from, c.ended, c.ok, c.warn, c.fail], st.side], () => {
    const list = st.gates.map((g) => item(g.ok ? 'good' : 'bad', g.what, g.why, g.name));
    if (!over(st)) {
      const what = 'both servers were looked at (preflight)';
      if (!c || c.from !== st.side) list.push(item('wait', what, ['not yet from here; a switch looks at them in any case'], 'preflight'));
      else list.push(item(c.fail ? 'bad' : 'good', what, ['at ' + clock(c.ended) + ': ' + (c.fail ? plural(c.fail, 'finding') + ' in the way, see Preflight' : plural(c.warn, 'finding') + ' to know of')], 'preflight'));
    }
    return list;
  });
}

function item(kind, what, why, name) {
  const words = { good: 'open: ', bad: 'shut: ', wait: 'not known: ' };
  return el('li', { class: 'gate ' + kind, 'data-gate': name }, mark(kind), el('span', { class: 'sr' }, words[kind]),
    el('span', {}, what, why.length ? el('ul', {}, why.map((w) => el('li', {}, w))) : null));
}

function list(st, away) {
  if (over(st)) return [];
  const running = switching(st) || Boolean(st.waiting);
  const verb = away ? 'cutover' : 'rollback';
  const all = [
    { id: 'dry-run', label: 'Dry run …', about: () => dryRun(st, verb) },
    { id: 'rehearse', label: 'Rehearse …', about: () => rehearsal(st, verb) },
    { id: verb, label: away ? 'Cut over …' : 'Roll back …', kind: 'primary', about: () => move(st, verb, away) },
  ];
  if (running) all.push({ id: 'abort', label: 'Abort …', kind: 'danger', free: true, about: () => abort(verb) });
  if (!running && !away) all.push({ id: 'complete', label: 'Complete …', about: () => complete(st) });
  if (!running && away) all.push({ id: 'give-up', label: 'Give up …', about: giveUp });
  return all;
}

const here = (verb) => (verb === 'cutover' ? 'source' : 'target');
const there = (verb) => (verb === 'cutover' ? 'target' : 'source');

function dryRun(st, verb) {
  return {
    title: 'Dry run of a ' + verb, path: '/v1/' + verb, body: () => ({ dry_run: true }), does: 'Make the dry run', doing: 'A dry run is being made',
    will: ['Both servers are looked at, and everything is made ready as for a ' + verb + '.', 'It ends before clients would wait, and all of it is taken back.'],
    notice: 'nothing.', back: 'none is needed. Clients stay on the ' + here(verb) + '.',
    done: () => 'The dry run went well: a ' + verb + ' can be made now', after: () => [el('p', {}, 'Nothing was changed. Clients are on the ' + here(verb) + '.')],
  };
}

function rehearsal(st, verb) {
  const most = millis(st.limits.max_stall_ms);
  return {
    title: 'Rehearse a ' + verb, path: '/v1/' + verb, body: () => ({ rehearse: true }), does: 'Rehearse', doing: 'A ' + verb + ' is being rehearsed',
    will: ['Clients are held, what is outstanding is copied, and both servers are compared while they stand still.', 'Then clients go on where they were. The servers are not told of any decision, and nobody is shut out.'],
    notice: 'a pause of some milliseconds, ' + most + ' at most: past that it is taken back.', back: 'none is needed. Clients stay on the ' + here(verb) + '.',
    done: (r) => 'The rehearsal went well: the ' + verb + ' would hold clients for about ' + millis(r.estimate_ms),
    after: (r) => [el('p', {}, 'This time they were held for ' + millis(r.held_ms) + ', and ' + count(r.checked) + ' keys were compared. Clients are on the ' + here(verb) + ' as before.')],
  };
}

function move(st, verb, away) {
  const most = millis(st.limits.max_stall_ms);
  const wait = el('input', { type: 'checkbox', id: 'when-ready' });
  return {
    title: away ? 'Cut over to the target' : 'Roll back to the source', kind: 'primary', word: verb, path: '/v1/' + verb,
    does: away ? 'Cut over' : 'Roll back', doing: away ? 'The clients are being moved to the target' : 'The clients are being moved back to the source',
    meanwhile: 'It can be aborted as long as it is not decided.',
    options: [el('p', { class: 'option' }, wait, el('label', { for: 'when-ready' }, 'If it cannot be made at once, wait until it can'))],
    body: () => (wait.checked ? { when_ready: true } : {}),
    will: [
      'Clients are held, the ' + here(verb) + ' stops taking writes, the rest is copied, and both servers are compared.',
      'Then clients go on at the ' + there(verb) + ', and from then on every change there goes to the ' + here(verb) + ' as well.',
      st.ready ? 'All that it needs is there at this moment.' : 'At this moment something is missing: ' + (st.reasons[0] || 'see above') + '.',
    ],
    notice: 'a pause of some milliseconds. If it would last longer than ' + most + ', it is taken back and nothing has happened.',
    back: away ? 'a rollback, here on this page, for as long as the migration is not completed. Nothing that is written meanwhile is lost by it.' : 'another cutover, here on this page.',
    done: (r) => (away ? 'The cutover is done' : 'The rollback is done') + ': clients are on the ' + there(verb) + ', and were held for ' + millis(r.held_ms),
    after: () => [el('p', {}, el('strong', {}, 'The way back: '), away ? 'Roll back, as long as you have not completed the migration.' : 'Cut over again.')],
    failed: 'What was begun was taken back: clients are where they were. If that is not so, it stands at the top of this page.',
  };
}

function abort(verb) {
  return {
    title: 'Abort the ' + verb, kind: 'danger', free: true, path: '/v1/abort', does: 'Abort', doing: 'The switch is being aborted',
    will: ['A switch that waits will wait no more. One that is under way is taken back, unless it is decided already.'],
    notice: 'nothing, or the end of a short pause.', back: 'another ' + verb + ' at any time.',
    done: () => 'The switch is being taken back, or waits no more',
  };
}

function complete(st) {
  return {
    title: 'Complete the migration', kind: 'danger', word: 'complete', path: '/v1/complete', does: 'Complete', doing: 'The migration is being completed',
    will: [
      'The source is not kept level any more, and it is opened again for whoever knows it.',
      'Settings that were changed are put back; our keys and our user are removed from both servers.',
    ],
    notice: 'nothing. They stay on the target.',
    back: back(st).open ? 'there is none afterwards: from then on the source lacks what is written. A rollback is possible only before.' : 'there is none afterwards.',
    done: () => 'The migration is complete', after: did, failed: 'It may be asked for again, and does then what is left.',
  };
}

function giveUp() {
  return {
    title: 'Give the migration up', kind: 'danger', word: 'give up', path: '/v1/complete', body: () => ({ stay_on_source: true }), does: 'Give up', doing: 'The migration is being given up',
    will: ['Nothing is copied any more. Settings that were changed are put back; our keys and our user are removed from both servers.', 'Keys that were copied stay on the target: empty it yourself.'],
    notice: 'nothing. They stay on the source.', back: 'none is needed: nothing was moved. A new migration copies everything again.',
    done: () => 'The migration was given up', after: did, failed: 'It may be asked for again, and does then what is left.',
  };
}

const did = (r) => [el('ul', {}, (r.done || []).map((d) => el('li', {}, d)))];

function title(r) {
  const verb = r.from === 'source' ? 'cutover' : 'rollback';
  const kind = r.dry_run ? 'Dry run of a ' + verb : r.rehearsal ? 'Rehearsal of a ' + verb : verb === 'cutover' ? 'Cutover' : 'Rollback';
  return kind + ' at ' + clock(r.started);
}

function report(st) {
  const r = st.last_cutover;
  fill($('report-body'), r, () => {
    if (!r) return el('p', { class: 'muted' }, 'There was none yet. A rehearsal tells beforehand what a switch would cost.');
    const held = r.steps.some((s) => (steps[s.name] || ['', false])[1]);
    const longest = Math.max(...r.steps.map((s) => s.ms), 0.001);
    return [
      el('p', {}, mark(r.ok ? 'good' : 'bad'), el('strong', {}, title(r)), r.ok ? (r.dry_run || r.rehearsal ? ': it went well' : ': clients were moved to the ' + r.to) : ': it was taken back'),
      r.error ? el('p', { class: 'why' }, r.error) : null,
      facts([
        held && ['Clients were held for', millis(r.held_ms)],
        r.estimate_ms && ['The switch itself would hold for', 'about ' + millis(r.estimate_ms)],
        held && ['Longest wait of a client', millis(r.stall_ms.max), 'half of them ' + millis(r.stall_ms.p50)],
        held && ['Clients that had work and waited', count(r.sessions)],
        held && ['Keys compared meanwhile', count(r.checked)],
        r.fence && [r.dry_run || r.rehearsal ? 'Fence that a switch would raise' : 'Fence', r.fence, fences[r.fence] || ''],
      ]),
      el('table', { class: 'steps' }, el('caption', {}, 'Where the time went'),
        el('thead', {}, el('tr', {}, el('th', { scope: 'col' }, 'Step'), el('th', { scope: 'col', class: 'n' }, 'Time'), el('td', { 'aria-hidden': 'true' }))),
        el('tbody', {}, r.steps.map((s) => row(s, longest)))),
      held ? el('p', { class: 'muted' }, 'Clients wait in the marked steps only. ', r.rehearsal ? 'Steps in italics were not taken: their time is that of their round trips.' : '') : el('p', { class: 'muted' }, 'Clients did not wait.'),
      (r.findings || []).length ? el('ul', {}, r.findings.map((f) => el('li', {}, f))) : null,
    ];
  });
}

function row(s, longest) {
  const [words, held] = steps[s.name] || [s.name, false];
  const fillBar = el('span', { class: 'fill' });
  fillBar.style.width = Math.max(1, (s.ms / longest) * 100).toFixed(1) + '%';
  return el('tr', { class: [held ? 'held' : '', s.estimated ? 'estimated' : ''].join(' ').trim() || null },
    el('th', { scope: 'row' }, words, el('span', { class: 'sr' }, held ? ' (clients wait)' : '', s.estimated ? ' (estimated)' : '')),
    el('td', { class: 'n' }, s.ms < 1000 ? millis(s.ms) : seconds(s.ms / 1000)),
    el('td', { class: 'share', 'aria-hidden': 'true' }, fillBar));
}
