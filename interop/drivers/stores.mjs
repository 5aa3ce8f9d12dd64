// Where a driver's queue lives: the cache it uses, and a way past the queue to look at a stored text and to put one.

import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { FileCache, fileName } from "../caches/file-cache.mjs";
import { SqliteCache } from "../caches/sqlite-cache.mjs";

class Memory {
  #texts = new Map();

  constructor() {
    this.cache = {
      getItem: async (key) => this.text(key),
      setItem: async (key, value) => this.put(key, value),
      removeItem: async (key) => this.put(key, null),
    };
  }

  own() {}

  text(key) {
    return this.#texts.get(key) ?? null;
  }

  put(key, text) {
    if (text === null) this.#texts.delete(key);
    else this.#texts.set(key, text);
  }

  close() {}
}

class Files {
  #directory;

  constructor(directory) {
    this.#directory = directory;
    this.cache = new FileCache(directory);
  }

  own(key) {
    this.cache.acquire(key);
  }

  text(key) {
    return this.cache.peek(key);
  }

  /** As a program would that takes no lock. */
  put(key, text) {
    const path = join(this.#directory, fileName(key));
    if (text === null) rmSync(path, { force: true });
    else writeFileSync(path, text);
  }

  close() {
    this.cache.close();
  }
}

class Sqlite {
  constructor(path) {
    this.cache = new SqliteCache(path);
  }

  own() {}

  text(key) {
    return this.cache.peek(key);
  }

  put(key, text) {
    return text === null ? this.cache.removeItem(key) : this.cache.setItem(key, text);
  }

  close() {
    this.cache.close();
  }
}

const KINDS = { memory: Memory, files: Files, sqlite: Sqlite };

/** The store that an `open` request names. */
export function storeOf({ store, path }) {
  return new KINDS[store](path);
}
