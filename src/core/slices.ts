/** Work on the JavaScript thread stops for others after this long: far less than what anybody notices. */
const sliceMs = 8;

/**
 * Runs work that yields between its steps, each of them short, and lets the event loop go on from time to time.
 *
 * @throws what the work throws; `signal.reason` when aborted
 */
export async function inSlices<T>(work: Generator<void, T, void>, signal?: AbortSignal): Promise<T> {
  let began = performance.now();
  for (;;) {
    signal?.throwIfAborted();
    const step = work.next();
    if (step.done) return step.value;
    if (performance.now() - began < sliceMs) continue;
    await new Promise((resolve) => setTimeout(resolve, 0));
    began = performance.now();
  }
}

/** The result of such work, at once. */
export function atOnce<T>(work: Generator<void, T, void>): T {
  for (;;) {
    const step = work.next();
    if (step.done) return step.value;
  }
}
