// The published TypeScript package behind the driver protocol (../protocol.schema.json, ../README.md).

import { createOutboxQueue, drainOutbox } from "@drakkar.software/starfish-outbox";
import { readFileSync } from "node:fs";
import { Gates } from "./gates.mjs";
import { storeOf } from "./stores.mjs";

const PACKAGE = "@drakkar.software/starfish-outbox";
const { packages } = JSON.parse(readFileSync(new URL("../package-lock.json", import.meta.url), "utf8"));
const HELLO = {
  protocol: 1,
  name: "published-typescript",
  version: packages[`node_modules/${PACKAGE}`].version,
  language: "typescript",
  capabilities: ["memory", "files", "sqlite", "gates", "careless"],
};
const OUTCOMES = ["ok", "error"];

class Unsupported extends Error {
  name = "Unsupported";
}

let queue = null;
let store = null;
let gates = new Gates();
let notifications = 0;
let told = 0;
let finished = [];
let heard = [];
let listeners = new Map(); // by name: the function, and what ends its subscriptions

function letGo() {
  store?.close();
  queue = store = null;
}

function parse(item) {
  try {
    return JSON.parse(item);
  } catch (error) {
    throw new Unsupported(`JavaScript reads no such item: ${error.message}`);
  }
}

function matching({ member, equals }) {
  if (member === undefined) return queue.pending();
  return queue.pending((item) => isObject(item) && Object.hasOwn(item, member) && item[member] === equals);
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function subscribe({ name, does }) {
  const listener = () => {
    heard.push(name);
    if (does === "raise") throw new Error("the listener failed, as it was told to");
    if (does === "clear") queue.clear();
    if (does?.subscribe !== undefined && !listeners.has(does.subscribe)) subscribe({ name: does.subscribe });
    if (does?.unsubscribe !== undefined) unsubscribe({ name: does.unsubscribe });
  };
  if (!listeners.has(name)) listeners.set(name, { listener, ends: [] });
  const known = listeners.get(name);
  known.ends.push(queue.subscribe(known.listener));
}

function unsubscribe({ name }) {
  listeners.get(name)?.ends.shift()?.();
}

/** Change an entry in place, as a caller might. */
function meddleWith(entry) {
  Object.assign(entry, { status: "failed", attempts: 99 });
  if (isObject(entry.item)) entry.item.meddled = true;
}

function meddle() {
  const entries = queue.get();
  entries.forEach(meddleWith);
  entries.length = 0;
}

async function drain({ maxAttempts, outcomes = {}, send: kind }) {
  const unknown = Object.values(outcomes).flat().find((outcome) => !OUTCOMES.includes(outcome));
  if (unknown !== undefined) throw new Unsupported(`the package knows no outcome ${unknown}`);
  const sends = [];
  const asked = new Map();
  const begin = (entry) => {
    sends.push(JSON.stringify(entry));
    asked.set(entry.id, (asked.get(entry.id) ?? 0) + 1);
    return asked.get(entry.id);
  };
  const end = (entry, turn, said) => {
    if (kind === "meddling") meddleWith(entry);
    const script = Object.hasOwn(outcomes, entry.id) ? outcomes[entry.id] : ["ok"];
    const outcome = said ?? script[Math.min(turn, script.length) - 1];
    if (outcome !== "ok") throw new Error("the send failed, as it was told to");
  };
  const awaited = async (entry) => {
    const turn = begin(entry);
    end(entry, turn, gates.on ? (await gates.wait("send", String(entry.id))).outcome : undefined);
  };
  const plain = (entry) => end(entry, begin(entry));
  const send = kind === "plain" ? plain : awaited;
  const { sent, failed } = await drainOutbox(queue, send, maxAttempts === undefined ? {} : { maxAttempts });
  return { sent, failed, sends };
}

const QUEUE = {
  hydrate: ({ key }) => {
    store.own(key);
    return queue.hydrate(key);
  },
  enqueue: ({ id, item, ts }) => queue.enqueue(id, parse(item), ts),
  claim: ({ id }) => queue.claim(id),
  remove: ({ id }) => queue.remove(id),
  recordFailure: ({ id, maxAttempts }) => queue.recordFailure(id, maxAttempts),
  markFailed: ({ id }) => queue.markFailed(id),
  retry: ({ id }) => queue.retry(id),
  clear: () => queue.clear(),
  get: () => JSON.stringify(queue.get()),
  pending: (request) => JSON.stringify(matching(request)),
  drain,
};

const HARNESS = {
  hello: () => HELLO,
  open: (request) => {
    letGo();
    gates = new Gates();
    notifications = told = 0;
    finished = [];
    heard = [];
    listeners = new Map();
    store = storeOf(request);
    queue = createOutboxQueue(gates.around(store.cache));
    queue.subscribe(() => {
      notifications += 1;
    });
  },
  close: letGo,
  clock: ({ ms }) => {
    Date.now = () => ms;
  },
  notifications: () => notifications,
  text: ({ key }) => store.text(key),
  put: ({ key, text }) => store.put(key, text),
  gates: ({ on }) => {
    gates.on = on;
  },
  start: ({ task, call }) => {
    outcomeOf(QUEUE[call.op], call).then((outcome) => finished.push({ task, ...outcome }));
    return whatMoved();
  },
  pass: (request) => {
    gates.pass(request);
    return whatMoved();
  },
  subscribe,
  unsubscribe,
  heard: () => heard.splice(0),
  meddle,
  stop: letGo,
};

async function whatMoved() {
  await gates.settle();
  const ended = finished;
  finished = [];
  return { waiting: gates.waiting(), finished: ended };
}

async function outcomeOf(operation, request) {
  try {
    if (operation === undefined) throw new Unsupported(`there is no operation ${request.op}`);
    return { value: (await operation(request)) ?? null };
  } catch (error) {
    const kind = { Unsupported: "unsupported", QueueLockedError: "locked" }[error.name] ?? "other";
    return { error: { kind, name: error.name, message: error.message } };
  }
}

async function perform(request) {
  const { value, error } = await outcomeOf(HARNESS[request.op] ?? QUEUE[request.op], request);
  // What the package started and did not wait for (it waits for no setItem) belongs to this operation.
  if (!gates.on) await new Promise(setImmediate);
  const outcome = error === undefined ? { value } : { error };
  if (request.look === undefined) return outcome;
  return { ...outcome, entries: QUEUE.get(), text: store.text(request.look) };
}

async function answer(request) {
  const { value, error } = await outcomeOf(perform, request);
  const notified = notifications - told;
  told = notifications;
  return { n: request.n, notified, ...(error === undefined ? value : { error }) };
}

async function main() {
  let held = "";
  process.stdin.setEncoding("utf8");
  for await (const chunk of process.stdin) {
    const lines = (held + chunk).split("\n"); // on \n alone: JSON.stringify writes U+2028 as it is
    held = lines.pop();
    for (const line of lines) {
      const request = JSON.parse(line);
      process.stdout.write(`${JSON.stringify(await answer(request))}\n`);
      if (request.op === "stop") return;
    }
  }
  letGo();
}

await main();
