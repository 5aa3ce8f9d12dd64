// A LocalCache for Node over the database of starfish_outbox's SQLiteCache, which Python keeps one row an entry. See
// starfish_outbox/caches/rows.py for the tables.
//
// getItem answers the JSON array that the rows spell. setItem stores the text whole and removes the rows; a Python
// queue takes it apart when it opens. As the package keeps a queue in memory from hydrate() on, a text is only taken
// while nobody else has the database open and nobody changed the key meanwhile. All is done before a method returns,
// and what fails is thrown at the caller (see file-cache.mjs). Ids that Python's ledger knows as delivered are not
// looked at, and what the package delivers is not added to them: an array cannot say why an entry is gone.

import Database from "better-sqlite3";
import { randomBytes } from "node:crypto";
import { lstatSync, mkdirSync, readdirSync, realpathSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { OwnerLock, QueueLockedError } from "./owner.mjs";
import { fromUtf8, fromUtf8WithSurrogates, pythonBytes, pythonFloat } from "./text.mjs";

const APPLICATION_ID = 0x53464f42; // "SFOB"
const VERSION = 1;
const BUSY_MS = 60_000;
const CHECKED = ["key", "id", "status", "attempts", "enqueued_at", "item", "more", "owner", "claim"];
const ROWS =
  `SELECT seq, checksum, enqueued_at AS at, typeof(id) AS id_type, typeof(status) AS status_type, ` +
  `typeof(enqueued_at) AS at_type, ${CHECKED.map((name) => `CAST(${name} AS BLOB) AS ${name}`).join(", ")} ` +
  `FROM entries WHERE +key = ? ORDER BY seq`;
const SET_ASIDE = /(\.quarantine|\.corrupt\.[0-9]+)$/;

/** Strings by key in one SQLite file; this process counts as one of its owners until `close`. */
export class SqliteCache {
  #connection;
  #owners;
  #lock;
  #seen = new Map(); // the text of each key as it was last read or written here
  #unread = new Set(); // keys whose last read failed: what is there must not be written over

  /** @param {string} path a database that starfish_outbox made */
  constructor(path) {
    if (lstatSync(path).isSymbolicLink()) throw new Error(`${path} is a symbolic link; name the file itself`);
    this.#owners = `${realpathSync(path)}-owners`;
    this.#register(); // first, so that whoever repairs the file knows of us, or we of them
    try {
      if (new OwnerLock(join(this.#owners, "repair.lock"), "").heldByAnother()) {
        throw new QueueLockedError(`${path} is being repaired by another process; try again`, "");
      }
      this.#connection = connect(realpathSync(path));
    } catch (error) {
      this.#leave();
      throw error;
    }
  }

  /** @param {string} key @returns {Promise<string | null>} */
  async getItem(key) {
    this.#unread.add(key);
    const text = this.peek(key);
    this.#seen.set(key, text);
    this.#unread.delete(key);
    return text;
  }

  /** What lies under the key, for somebody who only looks: the queue does not hear of it. */
  peek(key) {
    requireText(key, key);
    return this.#connection.transaction(() => this.#text(key)).deferred();
  }

  /**
   * Store the text; it survives a power cut when this returns. Throws at once, not later, when it cannot.
   * @param {string} key @param {string} value @returns {Promise<void>}
   */
  setItem(key, value) {
    requireText(key, value);
    this.#replace(key, value);
    return Promise.resolve();
  }

  /** @param {string} key */
  async removeItem(key) {
    this.#replace(key, null);
  }

  /** Be an owner no more. */
  close() {
    this.#connection.close();
    this.#leave();
  }

  #register() {
    for (;;) {
      mkdirSync(this.#owners, { mode: 0o700, recursive: true });
      const name = join(this.#owners, randomBytes(16).toString("hex"));
      this.#lock = new OwnerLock(`${name}.lock`, `${name}.owner`);
      try {
        if (this.#lock.acquire()) return;
      } catch (error) {
        if (error.code !== "ENOENT") throw error; // the last owner left, and took the directory along
      }
    }
  }

  #leave() {
    this.#lock.release({ remove: true });
    try {
      rmdirSync(this.#owners);
    } catch (error) {
      if (!["ENOTEMPTY", "EEXIST", "ENOENT"].includes(error.code)) throw error; // others are in it
    }
  }

  #replace(key, text) {
    requireText(key, key);
    if (this.#unread.has(key)) throw new Error(`"${key}" could not be read, so it is not written over`);
    this.#connection
      .transaction(() => {
        // An exclusive transaction keeps readers out as well: whoever joins from now on waits, and reads what we wrote.
        const [other] = SET_ASIDE.test(key) ? [] : this.#others();
        if (other !== undefined) throw new QueueLockedError(`"${key}" is open in ${other || "another process"}`, other);
        if (this.#seen.has(key) && this.#seen.get(key) !== this.#text(key)) {
          throw new Error(`"${key}" was changed by another program since it was read; hydrate again`);
        }
        this.#connection.prepare("DELETE FROM entries WHERE +key = ?").run(key);
        this.#connection.prepare("DELETE FROM keys WHERE key = ?").run(key);
        if (text !== null) this.#connection.prepare("INSERT INTO keys (key, text) VALUES (?, ?)").run(key, text);
      })
      .exclusive();
    this.#seen.set(key, text);
  }

  /** What is known of the other live owners. */
  #others() {
    return readdirSync(this.#owners)
      .filter((name) => /^[0-9a-f]{32}\.lock$/.test(name))
      .map((name) => join(this.#owners, name.slice(0, -".lock".length)))
      .map((name) => new OwnerLock(`${name}.lock`, `${name}.owner`))
      .filter((lock) => lock.path !== this.#lock.path && lock.heldByAnother({ remove: true }))
      .map((lock) => lock.owner());
  }

  #text(key) {
    const row = this.#connection.prepare("SELECT CAST(text AS BLOB) AS bytes FROM keys WHERE key = ?").get(key);
    if (row === undefined) return null;
    if (row.bytes !== null) return fromUtf8(row.bytes);
    return `[${this.#connection.prepare(ROWS).all(key).map(entryText).join(",")}]`;
  }
}

/** SQLite would store a replacement for a lone surrogate. */
function requireText(key, text) {
  if (!text.isWellFormed()) throw new Error(`${JSON.stringify(key)}: a lone surrogate is no Unicode text`);
}

function connect(path) {
  const connection = new Database(path, { timeout: BUSY_MS, fileMustExist: true });
  try {
    connection.pragma("trusted_schema = OFF");
    const application = connection.pragma("application_id", { simple: true });
    const version = connection.pragma("user_version", { simple: true });
    if (application !== APPLICATION_ID || version !== VERSION) {
      throw new Error(`${path} is no outbox of format ${VERSION} (${application}, ${version}); Python makes them`);
    }
    // TRUNCATE with FULL survives a power cut; SQLite's default, DELETE with FULL, does not.
    connection.pragma("journal_mode = TRUNCATE");
    connection.pragma("synchronous = FULL");
    const settings = ["journal_mode", "synchronous"].map((name) => connection.pragma(name, { simple: true }));
    if (settings.join() !== "truncate,2") throw new Error(`${path}: ${settings} instead of truncate,2: not durable`);
  } catch (error) {
    connection.close();
    throw error;
  }
  return connection;
}

/** The JSON text of one entry as it stands in the array, byte for byte what Python answers. Columns come as bytes. */
function entryText(row) {
  if (checksum(row) !== row.checksum) {
    throw new Error(`entry ${row.seq} does not match its checksum; open the queue in Python, which sets it aside`);
  }
  const item = fromUtf8(row.item);
  if (row.id_type === "null") return item; // an element whose id is no string: its whole text
  const status = fromUtf8(row.status);
  const members = [
    `"id":${JSON.stringify(row.id_type === "blob" ? fromUtf8WithSurrogates(row.id) : fromUtf8(row.id))}`,
    `"item":${item}`,
    `"status":${row.status_type === "blob" ? status : JSON.stringify(status)}`,
    `"attempts":${fromUtf8(row.attempts)}`,
    `"enqueuedAt":${row.at_type === "real" ? row.at : fromUtf8(row.enqueued_at)}`,
  ];
  if (row.more !== null) members.push(fromUtf8(row.more));
  return `{${members.join(",")}}`;
}

/** CRC-32 over what Python's str() makes of the columns, with NUL between them. */
function checksum(row) {
  const python = {
    ...row,
    id: row.id_type === "blob" ? pythonBytes(row.id) : row.id,
    status: row.status_type === "blob" ? pythonBytes(row.status) : row.status,
    enqueued_at: row.at_type === "real" ? pythonFloat(row.at) : row.enqueued_at,
  };
  const parts = CHECKED.flatMap((name) => [Buffer.from([0]), Buffer.from(python[name] ?? "None")]);
  return crc32(Buffer.concat(parts.slice(1)));
}
