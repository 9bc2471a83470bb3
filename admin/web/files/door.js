// The way to the sidecar: the token, requests, and the stream of what happens.

const kept = 'crossfade-token';

let nonce = ''; // of the server's run: what requests that change something show

export const token = () => sessionStorage.getItem(kept) || '';

export function keepToken(value) {
  if (value) sessionStorage.setItem(kept, value);
  else sessionStorage.removeItem(kept);
}

export function greet(hello) { nonce = hello.page; }

function headers(more) {
  const all = { ...more };
  if (token()) all.Authorization = 'Bearer ' + token();
  return all;
}

// Refusal is an answer that is not the one that was hoped for.
export class Refusal extends Error {
  constructor(code, answer) {
    super(answer.error || 'the sidecar answered with status ' + code);
    this.code = code;
    this.reasons = answer.reasons || [];
    this.hint = answer.hint || '';
  }
}

async function read(response) {
  let answer = {};
  try { answer = await response.json(); } catch { /* not ours: the status says enough */ }
  if (!response.ok) throw new Refusal(response.status, answer);
  return answer;
}

export async function get(path) {
  return read(await fetch(path, { headers: headers(), cache: 'no-store' }));
}

// ask has something done, and waits for its end.
export async function ask(path, body) {
  return read(await fetch(path, {
    method: 'POST', body: JSON.stringify(body), cache: 'no-store',
    headers: headers({ 'Content-Type': 'application/json', 'X-Crossfade-Page': nonce }),
  }));
}

// follow reads the stream until it ends or signal says so; tell gets each event's name
// and data. Browsers' own EventSource cannot show a token.
export async function follow(signal, tell) {
  const response = await fetch('/v1/events', { headers: headers({ Accept: 'text/event-stream' }), cache: 'no-store', signal });
  if (!response.ok) return read(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return null;
    rest += value;
    for (let end = rest.indexOf('\n\n'); end >= 0; end = rest.indexOf('\n\n')) {
      const event = rest.slice(0, end);
      rest = rest.slice(end + 2);
      let name = '', data = '';
      for (const line of event.split('\n')) {
        if (line.startsWith('event: ')) name = line.slice(7);
        else if (line.startsWith('data: ')) data += line.slice(6);
      }
      if (data) tell(name, JSON.parse(data));
    }
  }
}
