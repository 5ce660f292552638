import { expect, test } from 'vitest';

import { UsageError } from '../../../src/cli/flags.ts';
import { readVariables } from '../../../src/cli/variables.ts';

const flags = {
  model: { names: ['-m', '--model'], kind: 'path', value: 'FILE', help: 'the model' },
  count: { names: ['-n'], kind: 'integer', min: 0, value: 'N', help: 'how many' },
  offline: { names: ['--offline'], kind: 'switch', help: 'no network' },
} as const;
const variables = { model: 'LLAMA_ARG_MODEL', count: 'LLAMA_ARG_N', offline: 'LLAMA_ARG_OFFLINE' };

test.each([
  [{}, {}],
  [
    { LLAMA_ARG_MODEL: 'm.gguf', LLAMA_ARG_N: '3', OTHER: 'x' },
    { model: 'm.gguf', count: 3 },
  ],
  [{ LLAMA_ARG_MODEL: '-n', LLAMA_ARG_N: '' }, { model: '-n' }],
  [{ LLAMA_ARG_OFFLINE: '1' }, { offline: true }],
  [{ LLAMA_ARG_OFFLINE: 'on' }, { offline: true }],
  [{ LLAMA_ARG_OFFLINE: '0' }, {}],
])('%j', (environment, expected) => {
  expect(readVariables(flags, variables, environment)).toEqual(expected);
});

test('a wrong value is told with its variable', () => {
  const read = (): unknown => readVariables(flags, variables, { LLAMA_ARG_N: 'three' });
  expect(read).toThrow(UsageError);
  expect(read).toThrow('LLAMA_ARG_N: -n needs an integer of at least 0, got "three".');
});
