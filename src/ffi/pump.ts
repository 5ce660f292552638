// Polling by timers, on every runtime alike. A turn costs about a millisecond and tokens wait natively meanwhile, so only latency is at stake, and
// a tight poll (setImmediate) would take a core from the engine.
const fastestMs = 1;
const slowestMs = 16;

/** Polls what is pending, all of it with one timer: after 1 ms while something happens, else less and less often, down to every 16 ms or what a step asks for. */
export class Pump {
  /** Each step, with what it keeps alive and how soon it is polled. */
  readonly #steps = new Map<() => boolean, { owner: object | undefined; firstMs: number }>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #dueAt = 0;
  #delayMs = fastestMs;
  #observer: (() => void) | undefined;

  /**
   * Calls `step` at each turn until it returns something else than undefined, and resolves with that. The first call comes after a turn, so that a
   * reader who always finds data still leaves time for others. While a step waits its timer keeps the process alive; with none there is no timer.
   *
   * @param owner is not collected as garbage before that: its finaliser would end the work that the step waits for
   * @param firstMs after which it is polled first: what comes again and again need not be looked for at once, since each look takes a core from the engine
   */
  until<T>(step: () => T | undefined, owner?: object, firstMs = fastestMs): Promise<T> {
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
      this.#steps.set(attempt, { owner, firstMs });
      this.#schedule(firstMs);
    });
  }

  /** Calls back after each turn from now on, until another is given: whatever the library does, it does while something is polled. */
  observe(observer: (() => void) | undefined): void {
    this.#observer = observer;
  }

  /** Polls again soon: something has changed. */
  wake(): void {
    this.#schedule(fastestMs);
  }

  /** Polls after a time, or sooner where that is due already: waking often must not put a poll off. */
  #schedule(delayMs: number): void {
    this.#delayMs = delayMs;
    if (this.#steps.size === 0) return;
    const dueAt = performance.now() + delayMs;
    if (this.#timer !== undefined && this.#dueAt <= dueAt) return;
    clearTimeout(this.#timer);
    this.#dueAt = dueAt;
    this.#timer = setTimeout(() => this.#turn(), delayMs);
  }

  #firstMs(): number {
    return Math.min(...[...this.#steps.values()].map(({ firstMs }) => firstMs));
  }

  #turn(): void {
    this.#timer = undefined;
    let busy = false;
    for (const attempt of [...this.#steps.keys()]) busy = attempt() || busy;
    this.#observer?.();
    const firstMs = this.#firstMs();
    this.#schedule(busy ? firstMs : Math.min(this.#delayMs * 2, Math.max(firstMs, slowestMs)));
  }
}

/** The process's own. */
export const pump = new Pump();
