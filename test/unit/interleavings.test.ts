import { expect, test } from 'vitest';

import { JobState } from '../../src/ffi/native.ts';
import type { ModelInfo } from '../../src/core/model.ts';
import { Model } from '../../src/gates/model.ts';
import { checkInterleavings } from '../interleavings.ts';
import { FakeLibrary, type FakeJob } from './fake-library.ts';

const { running, done } = JobState;

test('contexts and generations come and go in any order, and every handle goes back once', { timeout: 120_000 }, async () => {
  let library = new FakeLibrary();
  await checkInterleavings({
    model: () => {
      library = new FakeLibrary({
        llama_duo_context_create: (_, __, ___, job) => {
          library.play([{}, { state: done }], { context: library.jobs.length + 1000, kv: {} });
          return library.submit(job);
        },
        llama_duo_generate: (_, __, ___, ____, _____, ______, _______, job) => {
          const chunk = (index: number): object => ({ text: `${index} `, tokens: [index] });
          library.play([{}, chunk(1), {}, chunk(2), { state: running }, chunk(3), { state: done }], { stop: 'length' });
          return library.submit(job);
        },
      });
      return Promise.resolve(new Model(library.native, { model: 7 } as ModelInfo & { model: number }));
    },
    generate: {},
    runs: 100,
    maxCommands: 60,
    after: () => {
      const kept: FakeJob[] = library.jobs.filter(({ freed }) => !freed);
      expect(kept).toEqual([]);
      expect(new Set(library.freedContexts).size).toBe(library.freedContexts.length);
    },
  });
});
