// A LocalCache for Node over the directory of starfish_outbox's FileCache: one .json file a key, the same names, the
// same atomic and durable write, the same lock. See starfish_outbox/caches/file.py.
//
// The published package calls setItem and does not wait for it. So everything here is done before it returns: entries
// survive process.exit() right after enqueue(), writes cannot overtake one another, and what fails is thrown at the
// caller.

import { createHash, randomBytes } from "node:crypto";
import * as fs from "node:fs";
import { join } from "node:path";
import { openNew, OwnerLock, QueueLockedError } from "./owner.mjs";
import { fromUtf8, toUtf8WithSurrogates } from "./text.mjs";

const LONGEST_NAME = 180;
const WINDOWS_DEVICE = /^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)/;
const SET_ASIDE = /(\.quarantine|\.corrupt\.[0-9]+)$/;

/**
 * The file name of a key: distinct keys have distinct names, also where case is folded, and on Windows.
 * Texts that were set aside get no .json, so that no program takes them for a queue.
 * @param {string} key
 */
export function fileName(key) {
  let name = "";
  for (const byte of toUtf8WithSurrogates(key)) {
    const character = String.fromCharCode(byte);
    name += /[a-z0-9._-]/.test(character) ? character : percent(byte);
  }
  if (name.startsWith(".") || WINDOWS_DEVICE.test(name)) name = percent(name.charCodeAt(0)) + name.slice(1);
  if (name.length > LONGEST_NAME) {
    name = `${name.slice(0, LONGEST_NAME)}~${sha256(name.slice(LONGEST_NAME))}`;
  }
  return SET_ASIDE.test(key) ? name : `${name}.json`;
}

/** Strings by key, one file each; a key belongs to one owner at a time, from its first use to `close`. */
export class FileCache {
  #directory;
  #locks = new Map();
  #stamps = new Map(); // what each file looked like when it was last read or written here
  #unread = new Set(); // keys whose last read failed: what is there must not be written over

  /** @param {string} directory made with 0700 where it is missing; refused when others may write to it */
  constructor(directory) {
    fs.mkdirSync(directory, { mode: 0o700, recursive: true });
    this.#directory = fs.realpathSync(directory);
    const info = fs.statSync(this.#directory);
    if (process.geteuid && (info.uid !== process.geteuid() || info.mode & 0o022)) {
      throw new Error(`${this.#directory} is not yours alone; run: chmod go-w, or choose another directory`);
    }
  }

  /**
   * Own the key. The other methods do so by themselves; but the package's hydrate() goes on with an empty queue when
   * they throw, so a program that wants to know calls this first.
   * @param {string} key
   * @throws {QueueLockedError} another process owns it
   */
  acquire(key) {
    const name = fileName(key);
    const path = join(this.#directory, `${name}.lock`);
    const lock = this.#locks.get(key) ?? new OwnerLock(path, `${path}.owner`);
    if (lock.held) return;
    if (!lock.acquire()) {
      const owner = lock.owner();
      throw new QueueLockedError(`"${key}" in ${this.#directory} is owned by ${owner || "another process"}`, owner);
    }
    this.#locks.set(key, lock);
    this.#sweep(name);
  }

  /** @param {string} key @returns {Promise<string | null>} */
  async getItem(key) {
    this.#unread.add(key);
    this.acquire(key);
    const { text, seen } = this.#read(key);
    this.#stamps.set(key, seen);
    this.#unread.delete(key);
    return text;
  }

  /** What lies under the key, for somebody who only looks: no lock is taken, and the queue does not hear of it. */
  peek(key) {
    return this.#read(key).text;
  }

  /**
   * Store the text; it survives a power cut when this returns. Throws at once, not later, when it cannot.
   * @param {string} key @param {string} value @returns {Promise<void>}
   */
  setItem(key, value) {
    if (!value.isWellFormed()) throw new Error(`"${key}": a lone surrogate is no Unicode text`);
    this.acquire(key);
    if (this.#unread.has(key)) throw new Error(`"${key}" could not be read, so it is not written over`);
    if (this.#stamps.has(key) && this.#stamps.get(key) !== stampOf(this.#path(key))) {
      throw new Error(`${this.#path(key)} was written by a program that takes no lock`);
    }
    this.#stamps.set(key, this.#write(fileName(key), value));
    syncDirectory(this.#directory);
    return Promise.resolve();
  }

  /** @param {string} key */
  async removeItem(key) {
    this.acquire(key);
    fs.rmSync(this.#path(key), { force: true });
    this.#stamps.set(key, null);
    syncDirectory(this.#directory);
  }

  /** Give all keys back. */
  close() {
    for (const lock of this.#locks.values()) lock.release();
    this.#locks.clear();
    this.#stamps.clear();
    this.#unread.clear();
  }

  #path(key) {
    return join(this.#directory, fileName(key));
  }

  #read(key) {
    let descriptor;
    try {
      descriptor = fs.openSync(this.#path(key), fs.constants.O_RDONLY | (fs.constants.O_NOFOLLOW ?? 0));
    } catch (error) {
      if (error.code !== "ENOENT") throw error;
      return { text: null, seen: null };
    }
    try {
      const seen = stamp(fs.fstatSync(descriptor, { bigint: true }));
      return { text: fromUtf8(fs.readFileSync(descriptor)), seen };
    } finally {
      fs.closeSync(descriptor);
    }
  }

  #write(name, value) {
    const beside = join(this.#directory, `${besides(name)}${randomBytes(8).toString("hex")}.tmp`);
    try {
      const descriptor = openNew(beside);
      let written;
      try {
        fs.writeFileSync(descriptor, value);
        fs.fsyncSync(descriptor);
        written = stamp(fs.fstatSync(descriptor, { bigint: true }));
      } finally {
        fs.closeSync(descriptor);
      }
      fs.renameSync(beside, join(this.#directory, name));
      return written;
    } catch (error) {
      fs.rmSync(beside, { force: true });
      throw error;
    }
  }

  /** Remove what a writer left that was killed before its rename. */
  #sweep(name) {
    for (const left of fs.readdirSync(this.#directory)) {
      if (left.startsWith(besides(name))) fs.rmSync(join(this.#directory, left), { force: true });
    }
  }
}

/** How the temporary files of one key's file begin. */
function besides(name) {
  return `.${sha256(name)}.`;
}

function sha256(text) {
  return createHash("sha256").update(text).digest("hex").slice(0, 32);
}

function percent(byte) {
  return `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
}

function stamp(info) {
  return `${info.ino}.${info.size}.${info.mtimeNs}`;
}

function stampOf(path) {
  const info = fs.lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return info ? stamp(info) : null;
}

/** Make renames survive a power cut (Windows does so by itself and cannot open a directory). */
function syncDirectory(path) {
  if (process.platform === "win32") return;
  const descriptor = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY);
  try {
    fs.fsyncSync(descriptor);
  } finally {
    fs.closeSync(descriptor);
  }
}
