// The line of stations, and where the migration stands on it.

import { $, el, fill, text, mark } from './dom.js';
import { stations, phases, oneWayWords, fences } from './words.js';

export function sentence(st) {
  const known = phases[st.phase];
  if (oneWay(st) && oneWayWords[st.phase]) return oneWayWords[st.phase];
  return known ? known[1] : 'The migration is in phase ' + st.phase + '.';
}

const lost = (st) => st.phase === 'REVERSE_LOST' || st.phase === 'RESYNC';

// oneWay reports whether clients went to the target by a switch that nobody can take back.
const oneWay = (st) => st.side === 'target' && (Boolean(st.no_way_back) || st.fence === 'F2');

export function draw(st) {
  ['source', 'target'].forEach((side) => end(st, side));
  const [now] = phases[st.phase] || ['switch'];
  const at = stations.findIndex((s) => s.id === now);
  const over = st.phase === 'COMPLETED' || st.phase === 'CANCELLED';
  fill($('stations'), [st.phase, st.side, oneWay(st)], () => stations.map((s, i) => {
    let state = 'to come';
    if (i < at || over) state = 'done';
    if (st.phase === 'CANCELLED' && i > 2 && s.id !== 'done') state = 'left out';
    if (i === at && !over) state = lost(st) ? 'here, with trouble' : 'here';
    return el('li', { class: 'station ' + state.replace(/\W+/g, '-'), 'aria-current': i === at ? 'step' : null },
      el('span', { class: 'stop', 'aria-hidden': 'true' }, state === 'done' ? mark('good') : null),
      el('span', { class: 'name' }, s.id === 'done' && st.phase === 'CANCELLED' ? 'Given up' : s.name),
      el('small', {}, s.id === 'target' && oneWay(st) ? 'there is no way back' : s.does),
      el('span', { class: 'sr' }, ' (' + state + ')'));
  }));
  text($('phase'), sentence(st));
  fill($('back'), back(st), () => [mark(back(st).open ? 'good' : 'warn'), el('strong', {}, 'The way back: '), back(st).words]);
}

// back says what leads back from here.
export function back(st) {
  if (st.phase === 'COMPLETED') return { open: false, words: 'there is none any more. The source is as it was when the migration was completed.' };
  if (st.phase === 'CANCELLED') return { open: true, words: 'none is needed. Clients never left the source.' };
  if (st.side === 'source') return { open: true, words: 'clients are on the source. Nothing has to be taken back; a switch that fails undoes itself.' };
  if (st.fence === 'F2') return { open: false, words: 'there is none: the source refuses our writes too, so it lacks what was written since the switch.' };
  if (st.no_way_back) return { open: false, words: 'there is none: ' + st.no_way_back + '.' };
  if (st.phase === 'REVERSE_TAILING') return { open: true, words: 'open. A rollback brings the clients to the source again, with everything that was written since.' };
  return { open: false, words: 'not at this moment. It opens when the source is level again.' };
}

function end(st, side) {
  const here = st.side === side;
  const fence = st.fence && !here ? st.fence : '';
  const master = st[side + '_master'] || '';
  fill($('end-' + side), [st[side], master, here, fence, st.phase], () => [
    el('h3', {}, side === 'source' ? 'Source' : 'Target'),
    el('p', { class: 'address' }, st[side], master ? el('small', {}, ' the master is ' + master) : null),
    here ? el('p', { class: 'badge here' }, 'clients are here') : el('p', { class: 'badge' }, side === 'target' ? 'follows the source' : 'follows the target'),
    fence ? el('p', { class: 'badge fence', title: fences[fence] || '' }, 'closed for others (' + fence + ')') : null,
  ]);
  $('end-' + side).classList.toggle('here', here);
}
