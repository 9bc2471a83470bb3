// The audit log, the latest first.

import { $, el, fill, clock } from './dom.js';
import { auditText } from './words.js';
import * as door from './door.js';

let all = [];
let loading = false;

const key = (e) => [e.time, e.event, e.verb, e.to].join(' ');

// load asks for all that the sidecar remembers.
export async function load() {
  if (loading) return;
  loading = true;
  try {
    all = (await door.get('/v1/audit')).audit;
    write();
  } catch { /* the next moment asks again */ }
  loading = false;
}

// draw adds what is new in a status. When more happened than it tells, all is asked for.
export function draw(st) {
  if (loading || !st.audit.length) return;
  const last = all.length ? key(all[all.length - 1]) : '';
  const at = st.audit.findIndex((e) => key(e) === last);
  if (at === st.audit.length - 1) return;
  if (at < 0) {
    load();
    return;
  }
  all = all.concat(st.audit.slice(at + 1)).slice(-200);
  write();
}

function write() {
  const list = [...all].reverse();
  fill($('audit'), list.map(key), () => list.map((e) => el('li', {},
    el('time', { datetime: e.time }, clock(e.time)), el('span', { 'data-result': e.result || null }, auditText(e)))));
}
