// Polling by timers, on every runtime alike. A turn costs about a millisecond and tokens wait natively meanwhile, so only latency is at stake, and
// a tight poll (setImmediate) would take a core from the engine.
const fastestMs = 1;
const slowestMs = 8;

/** Polls what is pending, all of it with one timer: after 1 ms while something happens, else less and less often, down to every 8 ms. */
export class Pump {
  readonly #steps = new Set<() => boolean>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #delayMs = fastestMs;

  /**
   * Calls `step` at each turn until it returns something else than undefined, and resolves with that. The first call comes after a turn, so that a
   * reader who always finds data still leaves time for others. While a step waits its timer keeps the process alive; with none there is no timer.
   */
  until<T>(step: () => T | undefined): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const attempt = (): boolean => {
        try {
          const value = step();
          if (value === undefined) return false;
          resolve(value);
        } catch (error) {
          const reason = error as Error;
          reject(reason);
        }
        this.#steps.delete(attempt);
        return true;
      };
      this.#steps.add(attempt);
      this.wake();
    });
  }

  /** Polls again soon: something has changed. */
  wake(): void {
    this.#schedule(fastestMs);
  }

  #schedule(delayMs: number): void {
    clearTimeout(this.#timer);
    this.#delayMs = delayMs;
    this.#timer = this.#steps.size > 0 ? setTimeout(() => this.#turn(), delayMs) : undefined;
  }

  #turn(): void {
    let busy = false;
    for (const attempt of [...this.#steps]) busy = attempt() || busy;
    this.#schedule(busy ? fastestMs : Math.min(this.#delayMs * 2, slowestMs));
  }
}

/** The process's own. */
export const pump = new Pump();
