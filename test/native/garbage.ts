import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** A collection of all garbage, now, on the runtime at hand. Flags that are set at a process's start would have to pass through vitest to its processes. */
function collector(): () => void {
  const bun = (globalThis as { Bun?: { gc: (synchronous: boolean) => void } }).Bun;
  if (bun) {
    return () => {
      bun.gc(true);
    };
  }
  const given = (globalThis as { gc?: () => void }).gc;
  if (given) return given;
  setFlagsFromString('--expose-gc');
  return runInNewContext('gc') as () => void;
}

const collect = collector();

/** Collects garbage and lets finalisers run, again and again: what hangs on other garbage takes several rounds. */
export async function collectGarbage(rounds = 8): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    collect();
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Collects garbage until something holds. */
export async function collectUntil(holds: () => boolean, timeoutMs = 20_000): Promise<boolean> {
  const end = performance.now() + timeoutMs;
  while (!holds() && performance.now() < end) await collectGarbage(1);
  return holds();
}
