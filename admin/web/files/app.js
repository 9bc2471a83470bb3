// The page: it follows the stream and hands each moment to what shows it.

import { $, show, text, clock } from './dom.js';
import * as door from './door.js';
import * as charts from './charts.js';
import * as line from './line.js';
import * as change from './switch.js';
import * as panels from './panels.js';
import * as proof from './proof.js';
import * as audit from './audit.js';
import * as actions from './actions.js';

const patience = 20e3; // ms that a page may be hidden before it lets the stream go

let stream = null;     // what ends it
let newest = 0;        // when the last moment came
let wait = 500;        // ms before the next try
let said = { phase: '', ready: null };

// say has a screen reader tell something when it has the time.
export function say(words) { text($('said'), words); }

function shown(status, role) {
  line.draw(status);
  change.draw(status, role);
  panels.draw(status, role);
  proof.draw(status, role);
  audit.draw(status);
  if (said.phase && said.phase !== status.phase) say(line.sentence(status));
  else if (said.ready !== null && said.ready !== status.ready) say(status.ready ? 'A switch can be made now.' : 'No switch can be made now: ' + (status.reasons[0] || ''));
  said = { phase: status.phase, ready: status.ready };
}

let role = '';

function tell(name, data) {
  if (name === 'hello') {
    door.greet(data);
    role = data.role;
    text($('role'), role === 'operator' ? 'You may change things' : 'You may look only');
    text($('version'), ' ' + data.version);
    show($('signout'), door.token() !== '');
    charts.begin(data.past);
    actions.allow(role === 'operator');
    audit.load();
  } else if (name === 'status') {
    newest = Date.now();
    wait = 500;
    show($('login'), false);
    show($('outage'), false);
    show($('board'), true);
    link('live', 'Live');
    actions.connected(true);
    charts.add(data.point);
    charts.draw();
    shown(data.status, role);
  }
}

function link(state, words) {
  $('link').dataset.state = state;
  text($('link'), words);
}

function lost(why) {
  actions.connected(false);
  link('lost', 'Not connected');
  const since = newest ? ' What you see is from ' + clock(newest) + '.' : '';
  text($('outage'), 'The sidecar cannot be reached: ' + why + '.' + since + ' This page goes on trying.');
  show($('outage'), true);
}

async function run() {
  for (;;) {
    if (document.hidden) await visible();
    stream = new AbortController();
    let why = 'it has ended the connection, or it is stopping';
    try {
      await door.follow(stream.signal, tell);
    } catch (e) {
      if (e instanceof door.Refusal && e.code === 401) {
        await login(door.token() ? 'The token is wrong.' : '');
        continue;
      }
      why = e instanceof door.Refusal ? e.message : 'no answer';
    }
    if (stream.signal.aborted) continue; // by ourselves: nobody looked
    lost(why);
    await new Promise((done) => setTimeout(done, wait + Math.random() * wait));
    wait = Math.min(2 * wait, 5000);
  }
}

function visible() {
  return new Promise((done) => document.addEventListener('visibilitychange', done, { once: true }));
}

// login waits until a token was given.
function login(why) {
  door.keepToken('');
  show($('board'), false);
  show($('outage'), false);
  show($('signout'), false);
  show($('login'), true);
  link('', '');
  text($('login-why'), why);
  $('token').value = '';
  $('token').focus();
  return new Promise((done) => {
    $('login').onsubmit = (e) => {
      e.preventDefault();
      door.keepToken($('token').value.trim());
      done();
    };
  });
}

let hiding = 0;
document.addEventListener('visibilitychange', () => {
  clearTimeout(hiding);
  if (document.hidden) hiding = setTimeout(() => stream?.abort(), patience);
});

$('signout').onclick = () => {
  door.keepToken('');
  location.reload();
};

actions.begin(say);
run();
