import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { Pump } from '../../../src/ffi/pump.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

test('polls less and less often while nothing happens, down to every 16 ms', async () => {
  const polled: number[] = [];
  const start = Date.now();
  const ended = new Pump().until(() => {
    polled.push(Date.now() - start);
    return polled.length === 7 ? 'done' : undefined;
  });
  await vi.advanceTimersByTimeAsync(100);
  await expect(ended).resolves.toBe('done');
  expect(polled).toEqual([1, 3, 7, 15, 31, 47, 63]);
});

test('polls at once again when something has changed', async () => {
  const pump = new Pump();
  let polls = 0;
  void pump.until(() => {
    polls++;
    return undefined;
  });
  await vi.advanceTimersByTimeAsync(23);
  const before = polls;
  pump.wake();
  await vi.advanceTimersByTimeAsync(1);
  expect(polls).toBe(before + 1);
});

test('never polls in the turn in which it is asked', async () => {
  const step = vi.fn(() => 1);
  const ended = new Pump().until(step);
  await Promise.resolve();
  expect(step).not.toHaveBeenCalled();
  await vi.advanceTimersByTimeAsync(1);
  await expect(ended).resolves.toBe(1);
});

test('one timer serves all; with nothing pending there is none', async () => {
  const pump = new Pump();
  let open = false;
  const first = pump.until(() => (open ? 1 : undefined));
  const second = pump.until(() => (open ? 2 : undefined));
  expect(vi.getTimerCount()).toBe(1);
  open = true;
  await vi.advanceTimersByTimeAsync(10);
  await expect(Promise.all([first, second])).resolves.toEqual([1, 2]);
  expect(vi.getTimerCount()).toBe(0);
});

test('a step that throws rejects, and leaves the others alone', async () => {
  const pump = new Pump();
  let open = false;
  const failing = expect(
    pump.until(() => {
      throw new Error('broken');
    }),
  ).rejects.toThrow('broken');
  const other = pump.until(() => (open ? 'fine' : undefined));
  await vi.advanceTimersByTimeAsync(5);
  open = true;
  await vi.advanceTimersByTimeAsync(10);
  await failing;
  await expect(other).resolves.toBe('fine');
});

test('an observer is called after each turn, until another is given', async () => {
  const pump = new Pump();
  const seen: string[] = [];
  pump.observe(() => seen.push('observed'));
  const ended = pump.until(() => (seen.push('polled') === 3 ? 'done' : undefined));
  await vi.advanceTimersByTimeAsync(3);
  await ended;
  expect(seen).toEqual(['polled', 'observed', 'polled', 'observed']);
  pump.observe(undefined);
  void pump.until(() => seen.push('polled'));
  await vi.advanceTimersByTimeAsync(1);
  expect(seen.slice(4)).toEqual(['polled']);
});
