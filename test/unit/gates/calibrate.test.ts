import { expect, test } from 'vitest';

import { calibrate } from '../../../src/gates/calibrate.ts';
import { OptionError, UnsupportedError } from '../../../src/errors.ts';
import type { Model } from '../../../src/gates/model.ts';
import { FakeLibrary } from '../fake-library.ts';

const { native } = new FakeLibrary();
const handle = (): never => {
  throw new Error('nothing is asked of the library');
};

test('a model without heads that could stream is refused before any work', async () => {
  const model = {
    info: { path: '/none.gguf', gatedHeads: [0, 0], trainedContextSize: 1 << 20 },
    planContext: () => Promise.resolve({ supported: false, reason: 'it has no KV heads' }),
  } as unknown as Model;
  const found = calibrate(native, model, handle, {});
  await expect(found).rejects.toThrow(UnsupportedError);
  await expect(found).rejects.toThrow('it has no KV heads. There is nothing to calibrate');
});

test('more samples than a context has sequences are refused before any work', async () => {
  await expect(calibrate(native, {} as unknown as Model, handle, { samples: 257 })).rejects.toThrow(OptionError);
});
