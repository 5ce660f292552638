import { fileURLToPath } from 'node:url';

import { expect, test } from 'vitest';

import { coreTypesFile, gatesTypesFile, nativeFile, referenceFile } from './option-files.ts';

test.each([
  ['src/core/option-types.ts', coreTypesFile],
  ['src/gates/option-types.ts', gatesTypesFile],
  ['docs/options.md', referenceFile],
  ['cpp/test/options.json', nativeFile],
])('%s is what the tables say (npm run generate)', async (name, write) => {
  const file = fileURLToPath(new URL(`../../../${name}`, import.meta.url));
  await expect(await write(file)).toMatchFileSnapshot(file);
});
