import { Worker } from 'node:worker_threads';

import { expect } from 'vitest';

// How late a timer of 5 ms is at worst while the library is at work. A machine that is busy with other things makes every timer late, so a worker of this
// process, which does nothing, has the same timer, and what is late there too is not ours. Both are late at other moments, though, so the best of a
// few rounds counts: what the JavaScript thread does itself it does in each of them.
const intervalMs = 5;
const leastAllowedMs = 50;
const rounds = 5;

const control = `
  const { parentPort } = require('node:worker_threads');
  let last, worst = 0, timer;
  const tick = () => { const now = performance.now(); worst = Math.max(worst, now - last - ${intervalMs}); last = now; };
  parentPort.on('message', (begin) => {
    clearInterval(timer);
    if (begin) { worst = 0; last = performance.now(); timer = setInterval(tick, ${intervalMs}); }
    parentPort.postMessage(worst);
  });
`;

/** Measures how late timers are; to be closed. */
export class Lateness {
  readonly #worker = new Worker(control, { eval: true });

  async close(): Promise<void> {
    await this.#worker.terminate();
  }

  /** The worst lateness in milliseconds while something works, here and in the control. */
  async measure(work: () => Promise<unknown>): Promise<{ worst: number; control: number }> {
    await this.#controlled(true);
    let worst = 0;
    let last = performance.now();
    const tick = (): void => {
      const now = performance.now();
      worst = Math.max(worst, now - last - intervalMs);
      last = now;
    };
    const timer = setInterval(tick, intervalMs);
    try {
      await work();
    } finally {
      tick(); // it may be late just now
      clearInterval(timer);
    }
    return { worst, control: await this.#controlled(false) };
  }

  /**
   * The event loop goes on while something works: no timer is 50 ms later than the machine makes it.
   *
   * @param copied bytes that the work copies at once, into memory that is fresh: what that takes is the machine's, and ten times as much where memory that was free is the host's
   */
  async expectPrompt(work: () => Promise<unknown>, copied = 0): Promise<void> {
    const measured: string[] = [];
    for (let round = 0; round < rounds; round++) {
      const began = performance.now();
      new Uint8Array(copied).fill(1);
      const allowedMs = leastAllowedMs + 2 * (performance.now() - began);
      const { worst, control } = await this.measure(work);
      measured.push(`${worst.toFixed(1)} ms (control ${control.toFixed(1)} ms)`);
      if (worst - control < allowedMs) {
        console.log(`late by ${measured.join(', ')}`);
        return;
      }
    }
    expect.fail(`The event loop stood still: late by ${measured.join(', ')}`);
  }

  /** Starts the control's timer, or stops it and gives its worst lateness. */
  #controlled(begin: boolean): Promise<number> {
    return new Promise((resolve) => {
      this.#worker.once('message', resolve);
      this.#worker.postMessage(begin);
    });
  }
}
