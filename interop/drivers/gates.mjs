// Gates: everything that a queue asks of its cache, and every send, waits until the runner lets it go.

const TURNS = 20; // turns of the event loop after which nothing moves by itself: a few promises and timers at the most

export class Gates {
  on = false;
  #waiting = new Map();
  #given = 0;

  /**
   * Wait here while gates are on.
   * @param {string} at getItem, setItem, removeItem or send
   * @param {string} what the key or the entry's id
   * @returns {Promise<{outcome?: string}>} what the runner said when it let go
   */
  wait(at, what) {
    this.#given += 1;
    const gate = this.#given;
    return new Promise((resolve, reject) => this.#waiting.set(gate, { gate, at, what, resolve, reject }));
  }

  /** Let one gate go; with `fail`, what stands at it fails with that message. */
  pass({ gate, fail, outcome }) {
    const waiting = this.#waiting.get(gate);
    if (waiting === undefined) throw new RangeError(`nothing stands at gate ${gate}`);
    this.#waiting.delete(gate);
    if (fail === undefined) waiting.resolve({ outcome });
    else waiting.reject(new Error(fail));
  }

  /** Returns when nothing moves any more. */
  async settle() {
    for (let turn = 0; turn < TURNS; turn += 1) await new Promise(setImmediate);
  }

  waiting() {
    return [...this.#waiting.values()].map(({ gate, at, what }) => ({ gate, at, what }));
  }

  /** The cache behind gates. */
  around(cache) {
    const gated = (at) => (key, ...rest) => {
      if (!this.on) return cache[at](key, ...rest);
      return this.wait(at, key).then(() => cache[at](key, ...rest));
    };
    return { getItem: gated("getItem"), setItem: gated("setItem"), removeItem: gated("removeItem") };
  }
}
