import { expect, test } from 'vitest';

import { Pump } from '../../src/ffi/pump.ts';

// On the real timers of each runtime: a server that submits and cancels all the time wakes the pump more often than once a millisecond.
test('woken all the time it still polls', async () => {
  const pump = new Pump();
  let wakes = 0;
  let polls = 0;
  const end = performance.now() + 500;
  const busy = (): void => {
    const until = performance.now() + 0.4;
    while (performance.now() < until);
    pump.wake();
    wakes++;
    if (performance.now() < end) setImmediate(busy);
  };
  busy();
  await pump.until(() => {
    polls++;
    return performance.now() < end ? undefined : true;
  });
  expect(polls).toBeGreaterThan(wakes / 10);
});
