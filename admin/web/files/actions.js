// Actions: what one will do is said before it is done, and how it ended afterwards.

import { $, el, show, text, fill } from './dom.js';
import * as door from './door.js';

let say = () => {};
let allowed = false, online = false, busy = '';
let agreed = null; // what the dialog is about
const buttons = new Map();

export function begin(speak) {
  say = speak;
  const dialog = $('ask');
  $('ask-leave').onclick = () => dialog.close();
  $('ask-word').oninput = typed;
  $('ask-form').onsubmit = (e) => {
    e.preventDefault();
    if ($('ask-do').disabled) return;
    const body = agreed.body ? agreed.body($('ask-options')) : {};
    dialog.close();
    run(agreed, body);
  };
  $('outcome-close').onclick = () => {
    show($('outcome'), false);
    $('main').focus();
  };
}

export function allow(yes) { allowed = yes; refresh(); }
export function connected(yes) { online = yes; refresh(); }

// button makes the one of an action: id, label, kind (primary, danger), and what about()
// tells of it when it is pressed. free says that it can be used beside another one.
function button(a) {
  const b = el('button', { type: 'button', id: 'do-' + a.id, class: a.kind || null }, a.label);
  b.onclick = () => open(buttons.get(b).about());
  buttons.set(b, a);
  return b;
}

function refresh() {
  for (const [b, a] of buttons) b.disabled = !allowed || !online || (busy !== '' && !a.free);
  text($('actions-why'), allowed ? '' : 'Your token may look only.');
}

// open says what an action will do: title, will (sentences), notice (what clients
// notice), back (the way back), word (to be typed), options (elements), doing, does,
// path and body.
function open(about) {
  agreed = about;
  text($('ask-title'), about.title);
  $('ask-body').replaceChildren(
    el('p', { class: 'ask-name' }, 'What will happen'),
    el('ul', {}, about.will.map((w) => el('li', {}, w))),
    el('p', {}, el('strong', {}, 'What clients notice: '), about.notice),
    el('p', { class: 'ask-back' }, el('strong', {}, 'The way back: '), about.back),
  );
  $('ask-options').replaceChildren(...(about.options || []));
  text($('ask-do'), about.does);
  $('ask-do').className = about.kind || 'primary';
  show($('ask-typed'), Boolean(about.word));
  text($('ask-want'), about.word || '');
  $('ask-word').value = '';
  typed();
  $('ask').showModal();
  ($('ask-word').offsetParent ? $('ask-word') : $('ask-leave')).focus();
}

function typed() {
  const word = agreed?.word;
  $('ask-do').disabled = Boolean(word) && $('ask-word').value.trim().toLowerCase() !== word;
}

async function run(about, body) {
  if (!about.free) busy = about.doing;
  refresh();
  outcome('under-way', about.doing + ' …', [el('p', {}, about.meanwhile || 'You will be told here how it ended.')], false);
  try {
    const answer = await door.ask(about.path, body);
    outcome('good', about.done(answer, body), about.after ? about.after(answer, body) : [], true);
  } catch (e) {
    failed(about, e);
  } finally {
    if (!about.free) busy = '';
    refresh();
  }
}

function failed(about, e) {
  if (!(e instanceof door.Refusal)) {
    outcome('bad', 'The connection was lost before the answer came', [el('p', {}, 'The sidecar may have begun it, and goes on with it. What is shown here when the connection is back is what counts.')], true);
    return;
  }
  const refused = e.code === 409;
  const reasons = e.reasons.length ? e.reasons : [e.message];
  outcome('bad', refused ? about.title + ': refused, and nothing was changed' : about.title + ': it did not work',
    [el('ul', {}, reasons.map((r) => el('li', {}, r))), e.hint ? el('p', {}, e.hint) : null, about.failed ? el('p', {}, about.failed) : null], true);
}

function outcome(kind, title, body, over) {
  $('outcome').dataset.kind = kind;
  text($('outcome-title'), title);
  $('outcome-text').replaceChildren(...body.filter(Boolean));
  show($('outcome-close'), over);
  show($('outcome'), true);
  say(title);
  const free = document.activeElement === document.body || document.activeElement?.disabled;
  if (over && free) $('outcome-title').focus(); // whoever does something else meanwhile is left alone
  if (over) $('outcome').scrollIntoView({ block: 'nearest' });
}

// place puts the buttons of actions into a node; those that are there already stay.
export function place(node, list) {
  const changed = fill(node, list.map((a) => [a.id, a.label, a.kind]), () => list.map(button));
  for (const b of buttons.keys()) {
    if (b.parentNode === node) buttons.set(b, list.find((a) => 'do-' + a.id === b.id));
    else if (!b.isConnected) buttons.delete(b);
  }
  if (changed) refresh();
}
