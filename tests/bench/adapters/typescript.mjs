// The published TypeScript package in a process of its own: node typescript.mjs FOLDER. See ../worker.py for what it is
// asked. The package calls setItem and does not wait for it, so the cache below is done when it returns.

import * as fs from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import {
  createOutboxQueue,
  drainOutbox,
} from "../../../interop/node_modules/@drakkar.software/starfish-outbox/dist/index.js";

const KEY = "outbox.bench";
const folder = process.argv[2];
const { items, package: found } = JSON.parse(process.env.OUTBOX_BENCH);
const nowhere = fs.openSync("/dev/null", "w");
const seconds = () => performance.now() / 1000;
const cpuSeconds = (since) => {
  const { user, system } = process.cpuUsage(since);
  return (user + system) / 1e6;
};

/** One file a key, written beside, synced and renamed. */
const cache = {
  async getItem(key) {
    try {
      return fs.readFileSync(join(folder, key), "utf8");
    } catch (error) {
      if (error.code !== "ENOENT") throw error;
      return null;
    }
  },
  setItem(key, value) {
    const beside = join(folder, `${key}.tmp`);
    const file = fs.openSync(beside, "w");
    fs.writeFileSync(file, value);
    fs.fsyncSync(file);
    fs.closeSync(file);
    fs.renameSync(beside, join(folder, key));
    const directory = fs.openSync(folder, "r");
    fs.fsyncSync(directory);
    fs.closeSync(directory);
    return Promise.resolve();
  },
  async removeItem(key) {
    fs.rmSync(join(folder, key), { force: true });
  },
};

let queue;
let length = 0;
let numbers = 0;
const fits = new Map();

function fresh(number, item = "small") {
  return Array.from({ length: number }, () => {
    const k = (BigInt(process.pid) << 40n) + BigInt(numbers++);
    const id = ((k * 0x9e3779b97f4a7c15n) % (1n << 64n)).toString(16).padStart(16, "0");
    return [id, items[item]];
  });
}

function memory() {
  const { maxRSS } = process.resourceUsage();
  return { resident_kib: Math.round(process.memoryUsage.rss() / 1024), peak_kib: maxRSS };
}

async function fitting(what, number, limit, some) {
  const known = limit == null || fits.has(what);
  let count = limit == null ? number : Math.min(fits.get(what) ?? Math.max(1, Math.floor(number / 1000)), number);
  for (;;) {
    const before = process.cpuUsage();
    const wall = await some(count);
    const cpu = cpuSeconds(before);
    if (known || count === number || wall > limit / 3) {
      if (limit != null && !fits.has(what)) fits.set(what, count);
      return { walls: [wall / count], cpu: cpu / count, count };
    }
    count = Math.min(number, count * 10);
  }
}

/** A drain cannot be told how many to take: the send after the last never ends, and the entry is put back. */
async function drainSome(number, sent) {
  const stamps = [];
  let reached;
  const enough = new Promise((resolve) => (reached = resolve));
  const send = (entry) => {
    stamps.push(seconds());
    if (stamps.length > number) {
      reached(entry.id);
      return new Promise(() => {});
    }
    sent.push(entry.id);
    return Promise.resolve();
  };
  const begin = seconds();
  const last = await Promise.race([enough, drainOutbox(queue, send).then(() => null)]);
  const end = seconds();
  if (last !== null) queue.retry(last);
  if (sent.length < number) throw new Error(`${sent.length} entries were sent, ${number} were to be`);
  length -= number;
  return last === null ? end - begin : stamps.at(-1) - stamps[0];
}

async function lateness(limit, number, busy) {
  const late = [];
  const end = seconds() + limit;
  const longest = length + number;
  const ticking = (async () => {
    for (let begin; (begin = seconds()) < end && length < longest; ) {
      await new Promise((resolve) => setTimeout(resolve, 1));
      late.push(seconds() - begin - 0.001);
    }
  })();
  while (busy && seconds() < end && length < longest) {
    queue.enqueue(...fresh(1)[0]);
    length += 1;
    await new Promise((resolve) => setImmediate(resolve));
  }
  await ticking;
  return late;
}

const operations = {
  hello: () => ({ version: found, runtime: `Node ${process.versions.node}`, sqlite: "" }),
  async open() {
    const before = process.cpuUsage();
    const begin = seconds();
    queue = createOutboxQueue(cache);
    await queue.hydrate(KEY);
    const answer = { wall: seconds() - begin, cpu: cpuSeconds(before), ...memory() };
    length = queue.get().length;
    return { ...answer, entries: length };
  },
  async fill({ number }) {
    const entries = fresh(number).map(([id, item], place) => ({
      id, item, status: "queued", attempts: 0, enqueuedAt: 1772354400000 + place,
    }));
    cache.setItem(KEY, JSON.stringify(entries));
    await queue.hydrate(KEY);
    length = queue.get().length;
    return { entries: length };
  },
  lone({ number, seconds: limit, item, mark }) {
    const walls = [];
    const pairs = fresh(number, item);
    const before = process.cpuUsage();
    const started = seconds();
    for (const pair of pairs) {
      const begin = seconds();
      queue.enqueue(...pair);
      const end = seconds();
      walls.push(end - begin);
      if (mark) fs.writevSync(nowhere, [Buffer.from('["done"'), Buffer.from("]\n")]); // two: of one it makes a write()
      if (end - started > limit && walls.length >= 3) break;
    }
    const cpu = cpuSeconds(before) / walls.length;
    length += walls.length;
    return { walls, cpu, count: walls.length };
  },
  at_once: ({ number, seconds: limit }) =>
    fitting("at once", number, limit, (count) => {
      const pairs = fresh(count);
      const begin = seconds();
      for (const pair of pairs) queue.enqueue(...pair);
      length += count;
      return seconds() - begin;
    }),
  many: () => ({ unsupported: "there is no call that takes many" }),
  async drain({ number, concurrency, seconds: limit, ids }) {
    if (concurrency !== 1) return { unsupported: "it sends one at a time" };
    const all = [];
    const answer = await fitting("drain", Math.min(number, length), limit, async (count) => {
      const sent = [];
      const wall = await drainSome(count, sent);
      all.push(...sent);
      return wall;
    });
    return ids ? { ...answer, ids: all } : answer;
  },
  async trim({ number, seconds: limit }) {
    const end = seconds() + limit;
    while (length > number * 1.01 && seconds() < end) {
      await drainSome(Math.min(length - number, fits.get("drain") ?? 1), []);
    }
    return { entries: length };
  },
  again({ number }) {
    const [pair] = fresh(1);
    queue.enqueue(...pair);
    length += 1;
    const walls = [];
    const before = process.cpuUsage();
    for (let k = 0; k < number; k++) {
      const begin = seconds();
      queue.enqueue(...pair);
      walls.push(seconds() - begin);
    }
    return { walls, cpu: cpuSeconds(before) / number, count: number };
  },
  async late({ seconds: limit, number }) {
    const idle = await lateness(limit, number, false);
    const busy = await lateness(limit, number, true);
    return { idle, walls: busy, cpu: null, count: busy.length };
  },
  count: () => ({ entries: queue.get().length, expected: length }),
  read_all() {
    const before = process.cpuUsage();
    const begin = seconds();
    const entries = queue.get().map((entry) => entry.item).length;
    return { wall: seconds() - begin, cpu: cpuSeconds(before), entries, ...memory() };
  },
  close: () => ({}),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { op, ...order } = JSON.parse(line);
  process.stdout.write(`${JSON.stringify(await operations[op](order))}\n`);
}
