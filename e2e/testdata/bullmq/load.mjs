// BullMQ as a load: jobs of several kinds, workers that do them, and listeners that
// count every event. It reads one command a line ("count", "end") and answers each with
// a line of JSON. It ends after "end", or when nobody listens any more.
import { createInterface } from 'node:readline';
import { FlowProducer, MetricsTime, Queue, QueueEvents, Worker } from 'bullmq';
import { Redis } from 'ioredis';

const port = Number(process.argv[2]);
const trouble = [];
const note = (what) => (error) => trouble.push(`${what}: ${error?.message ?? error ?? ''}`);

// Counted tells of every connection that somebody else has ended, and of those that its
// library makes for itself out of one of ours.
let ending = false;
class Counted extends Redis {
  constructor(options) {
    super(options);
    this.on('error', note('a connection'));
    this.on('close', () => ending || trouble.push('a connection has ended'));
    this.on('reconnecting', () => ending || trouble.push('a connection is made again'));
  }

  duplicate(override) {
    return new Counted({ ...this.options, ...override });
  }
}
const connect = (protocol = 3) => new Counted({ host: '127.0.0.1', port, protocol, connectTimeout: 60_000, maxRetriesPerRequest: null });

const name = 'jobs';
const queue = new Queue(name, { connection: connect(), streams: { events: { maxLen: 20_000 } } });
const flows = new FlowProducer({ connection: connect() });
const events = new QueueEvents(name, { connection: connect(), lastEventId: '0' });
for (const [what, o] of Object.entries({ queue, flows, events })) o.on('error', note(what));

const added = new Set(); // jobs that BullMQ has taken
const runs = new Map(); // how often each was done
const told = new Map(); // the events of each, in order

const workers = Array.from({ length: 4 }, (_, i) => {
  const worker = new Worker(
    name,
    async (job) => {
      runs.set(job.id, (runs.get(job.id) ?? 0) + 1);
      await job.updateProgress(50);
      if (job.name === 'logged') await job.log('half done');
      return job.id;
    },
    {
      connection: connect(2 + (i % 2)),
      concurrency: 8,
      lockDuration: 20_000,
      stalledInterval: 2_000,
      drainDelay: 1,
      removeOnComplete: { count: 1000 },
      metrics: { maxDataPoints: MetricsTime.ONE_HOUR },
    },
  );
  worker.on('error', note('a worker'));
  worker.on('failed', (job, error) => trouble.push(`job ${job?.id} has failed: ${error}`));
  worker.on('stalled', (id) => trouble.push(`job ${id} has stalled`));
  return worker;
});

for (const event of ['added', 'active', 'progress', 'completed']) {
  events.on(event, ({ jobId }) => {
    if (!told.has(jobId)) told.set(jobId, []);
    told.get(jobId).push(event);
  });
}
for (const event of ['failed', 'stalled', 'retries-exhausted', 'duplicated']) {
  events.on(event, ({ jobId }) => trouble.push(`event ${event} of job ${jobId}`));
}

// add adds a burst: plain jobs, some at once, one that waits, one that goes first, and a
// parent that waits for its children.
let n = 0;
async function add() {
  const id = (kind) => `${kind}-${n++}`;
  const take = (job) => added.add(job.id);
  for (const kind of ['plain', 'logged']) take(await queue.add(kind, {}, { jobId: id(kind) }));
  take(await queue.add('later', {}, { jobId: id('later'), delay: 100 }));
  take(await queue.add('first', {}, { jobId: id('first'), priority: 1 + (n % 5) }));
  const bulk = ['bulk', 'bulk', 'bulk'].map((kind) => ({ name: kind, data: {}, opts: { jobId: id(kind) } }));
  (await queue.addBulk(bulk)).forEach(take);
  const child = () => ({ name: 'child', queueName: name, data: {}, opts: { jobId: id('child') } });
  const flow = await flows.add({ name: 'parent', queueName: name, data: {}, opts: { jobId: id('parent') }, children: [child(), child()] });
  take(flow.job);
  flow.children.forEach((c) => take(c.job));
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
let adding = true;
const producer = (async () => {
  while (adding) {
    await add().catch(note('adding jobs'));
    await pause(20); // in which workers find nothing, and wait
  }
})();

// settled waits until nothing is left to be done and every last event has come.
async function settled() {
  for (;;) {
    const counts = await queue.getJobCounts();
    const { completed, ...others } = counts;
    const left = Object.values(others).reduce((a, b) => a + b, 0);
    const heard = [...told.values()].filter((list) => list.includes('completed')).length;
    if (trouble.length > 0 || (left === 0 && heard >= added.size)) return counts;
    await pause(50);
  }
}

// account is what BullMQ itself has counted, and what it has kept of the last jobs.
async function account() {
  const wrong = [];
  let jobs = 0;
  const total = async (state) => (await queue.getMetrics(state)).meta.count;
  const completed = await total('completed');
  const failed = await total('failed');
  for (let start = 0; ; start += 1000) {
    const page = await queue.getJobs(['completed'], start, start + 999, true);
    if (page.length === 0) break;
    for (const job of page) {
      jobs++;
      if (!added.has(job.id)) wrong.push(`job ${job.id} was never added`);
      if (job.attemptsMade !== 1 || job.stalledCounter || job.failedReason)
        wrong.push(`job ${job.id}: ${job.attemptsMade} attempts, stalled ${job.stalledCounter} times, ${job.failedReason}`);
      if (job.returnvalue !== job.id) wrong.push(`job ${job.id} has returned ${job.returnvalue}`);
    }
  }
  return { completed, failed, jobs, wrong };
}

async function end() {
  adding = false;
  await producer;
  const counts = await settled();
  const { completed, failed, jobs, wrong } = await account();
  for (const id of added) {
    if (runs.get(id) !== 1) wrong.push(`job ${id} was done ${runs.get(id) ?? 0} times`);
    const heard = (told.get(id) ?? []).join(' ');
    if (heard !== 'added active progress completed') wrong.push(`the events of job ${id}: ${heard}`);
  }
  for (const id of runs.keys()) if (!added.has(id)) wrong.push(`job ${id} was done and never added`);
  ending = true;
  await Promise.all([...workers, queue, flows, events].map((o) => o.close()));
  return { added: added.size, completed, failed, kept: jobs, counts, wrong, trouble };
}

const answer = (o) => process.stdout.write(`${JSON.stringify(o)}\n`);
const lines = createInterface({ input: process.stdin });
lines.on('line', async (line) => {
  if (line === 'count') return answer({ done: runs.size, trouble: trouble.slice(0, 10) });
  answer(await end().catch((error) => ({ wrong: [`the load itself: ${error.stack}`], trouble })));
  process.exit(0);
});
lines.on('close', () => process.exit(1));
