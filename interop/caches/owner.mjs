// Ownership that dies with the process: an exclusive transaction held open on a small SQLite file.
//
// starfish_outbox/caches/owner.py does the same with Python's sqlite3, so the two languages refuse each other. The lock
// is held while the process is stopped (a sleeping laptop) and free as soon as it is killed.

import Database from "better-sqlite3";
import { closeSync, constants, existsSync, fchmodSync, openSync, readFileSync, rmSync, writeSync } from "node:fs";
import { hostname } from "node:os";

const NEW = constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY | (constants.O_NOFOLLOW ?? 0);

/** Another owner holds the key or the file. `owner` says who, as far as it is known. */
export class QueueLockedError extends Error {
  name = "QueueLockedError";

  /** @param {string} message @param {string} owner such as "pid 4711 on lab-3", or "" */
  constructor(message, owner) {
    super(message);
    this.owner = owner;
  }
}

/**
 * Open a file that must not be there yet; only its owner may read it, whatever the umask.
 * @param {string} path
 * @returns {number} its descriptor
 */
export function openNew(path) {
  const descriptor = openSync(path, NEW, 0o600);
  fchmodSync(descriptor, 0o600);
  return descriptor;
}

/** A lock file; held from `acquire` to `release` or to the end of the process. */
export class OwnerLock {
  #connection = null;

  /** @param {string} path the lock file @param {string} note a file that says who holds it */
  constructor(path, note) {
    this.path = path;
    this.note = note;
  }

  get held() {
    return this.#connection !== null;
  }

  /** Take the lock and say so in the note; false when another owner holds it. */
  acquire() {
    if (this.held) return true;
    if (!this.#take()) return false;
    rmSync(this.note, { force: true });
    const descriptor = openNew(this.note);
    writeSync(descriptor, `pid ${process.pid} on ${hostname()}`);
    closeSync(descriptor);
    return true;
  }

  /** Give the lock back. `remove` deletes the file of a lock that only one owner ever takes. */
  release({ remove = false } = {}) {
    if (!this.held) return;
    rmSync(this.note, { force: true });
    this.#letGo(remove);
  }

  /** What the note says of the owner, or "". */
  owner() {
    try {
      return readFileSync(this.note, "utf8").trim();
    } catch (error) {
      if (error.code === "ENOENT") return "";
      throw error;
    }
  }

  /** Whether another owner holds the lock. `remove` deletes what a dead one left behind. */
  heldByAnother({ remove = false } = {}) {
    if (!existsSync(this.path)) return false;
    if (!this.#take()) return existsSync(this.path);
    if (remove) rmSync(this.note, { force: true });
    this.#letGo(remove);
    return false;
  }

  #take() {
    createPrivate(this.path);
    let connection;
    try {
      connection = new Database(this.path, { timeout: 0, fileMustExist: true });
      connection.pragma("journal_mode = MEMORY"); // nothing is ever written: no file beside it
      connection.exec("BEGIN EXCLUSIVE");
    } catch (error) {
      connection?.close();
      // Gone between our look and our lock: somebody took it for a dead owner's and cleaned it away.
      if (error.code?.startsWith("SQLITE_BUSY") || !existsSync(this.path)) return false;
      throw error;
    }
    if (!existsSync(this.path)) {
      connection.close();
      return false;
    }
    this.#connection = connection;
    return true;
  }

  #letGo(remove) {
    if (remove) rmSync(this.path, { force: true });
    this.#connection.close();
    this.#connection = null;
  }
}

// An existing file is never opened: closing it would drop the POSIX locks that this process holds on it.
function createPrivate(path) {
  try {
    closeSync(openNew(path));
  } catch (error) {
    if (error.code !== "EEXIST") throw error;
  }
}
