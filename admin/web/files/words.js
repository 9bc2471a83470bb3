// What phases, steps and stations are called here.

export const stations = [
  { id: 'preflight', name: 'Preflight', does: 'both servers are looked at' },
  { id: 'copy', name: 'First copy', does: 'every key is copied' },
  { id: 'follow', name: 'Following', does: 'changes follow at once' },
  { id: 'switch', name: 'Switch', does: 'clients change over' },
  { id: 'target', name: 'On the target', does: 'the way back is open' },
  { id: 'done', name: 'Completed', does: 'all is tidied up' },
];

// phases says at which station each phase is, and what is going on.
export const phases = {
  IDLE: ['preflight', 'Nothing has begun yet.'],
  PREFLIGHT: ['preflight', 'Both servers are looked at before anything is copied.'],
  COPYING: ['copy', 'The first copy is under way. Clients work on the source as before.'],
  TAILING: ['follow', 'The copy is complete, and every change on the source follows within moments.'],
  RESYNC: ['copy', 'Changes may have been missed, so everything is compared and copied again. Clients notice nothing of it.'],
  PREPARED: ['switch', 'A switch is being made ready. Clients notice nothing yet.'],
  HOLDING: ['switch', 'A switch is under way: clients are held for a moment.'],
  SOFT_FENCED: ['switch', 'A switch is under way: writers past the proxy are paused too.'],
  HARD_FENCED: ['switch', 'A switch is under way: the old server takes no more writes, and the rest is copied.'],
  VERIFYING: ['switch', 'A switch is under way: both servers stand still and are compared.'],
  COMMITTING: ['switch', 'The switch is decided and is being carried through.'],
  COMMITTED: ['switch', 'The switch is made; the way back is being opened.'],
  ABORTING: ['switch', 'The switch is being taken back. Nothing has happened.'],
  REVERSE_TAILING: ['target', 'Clients are on the target, and every change there goes to the source as well.'],
  REVERSE_LOST: ['target', 'Clients are on the target. The source may lack some changes and is being compared again.'],
  ROLLED_BACK: ['follow', 'Clients are back on the source. The target is being brought level again.'],
  COMPLETED: ['done', 'The migration is complete. Clients belong to the target.'],
  CANCELLED: ['done', 'The migration was given up. Clients belong to the source.'],
};

// oneWayWords are the sentences that are others behind a switch that nobody can take back.
export const oneWayWords = {
  COMMITTED: 'The switch is made.',
  REVERSE_LOST: 'Clients are on the target. What was written since the switch is not on the source, and does not go there.',
};

// steps are those of a switch; held is while clients wait.
export const steps = {
  preflight: ['look at both servers', false],
  prepare: ['make everything ready', false],
  replicas: ['log in to the replicas', false],
  'lag-gate': ['wait until the copy is level', false],
  hold: ['hold the clients', true],
  'soft-fence': ['pause writers past the proxy', true],
  'drain-1': ['copy what is outstanding', true],
  'hard-fence': ['close the old server for writes', true],
  'drain-2': ['copy the rest', true],
  check: ['compare while both stand still', true],
  journal: ['note the decision on the old server', true],
  commit: ['commit it on the new server', true],
  release: ['let the clients go on', true],
  after: ['keep the way back open', false],
};

export const fences = {
  F0: 'nothing but cooperation',
  F1: 'a fence that sidecars read, and connections that are closed',
  F2: 'the old server refuses every write, ours too: no way back',
  F3: 'the old server refuses every user but ours',
};

export const levels = { pass: 'fine', warn: 'to know', fail: 'stops it' };

// auditText is one entry of the log in a line.
export function auditText(e) {
  let text;
  const took = (ms) => (ms ? ' after ' + (ms < 1000 ? Math.round(ms) + ' ms' : (ms / 1000).toFixed(1) + ' s') : '');
  switch (e.event) {
    case 'asked': {
      const asked = e.asked && Object.keys(e.asked).length ? ' ' + JSON.stringify(e.asked) : '';
      text = who(e.who) + ' asks: ' + e.verb + asked;
      break;
    }
    case 'answered':
      text = e.verb + ' of ' + who(e.who) + ': ' + e.result + took(e.ms);
      break;
    case 'phase':
      text = e.from + ' → ' + e.to + (e.verb ? ' (' + e.verb + ')' : '');
      break;
    default:
      text = e.event + (e.verb ? ': ' + e.verb : '') + (e.result ? ': ' + e.result + took(e.ms) : '');
  }
  return e.why ? text + ': ' + e.why : text;
}

function who(w) {
  if (!w) return '';
  const name = w.user || (w.uid !== undefined ? 'uid ' + w.uid : w.address || '');
  return w.page ? name + ' (dashboard)' : name;
}
