import { expect, test } from 'vitest';

import { withoutEscapes } from '../../../src/cli/escapes.ts';

// As string_process_escapes of llama.cpp's common.cpp reads them.
test.each([
  [String.raw`a\nb\tc\rd`, 'a\nb\tc\rd'],
  [String.raw`\\n \" \'`, String.raw`\n " '`],
  [String.raw`\x41\x7A`, 'Az'],
  [String.raw`\xc3\xa4`, 'ä'],
  [String.raw`\x4`, String.raw`\x4`],
  [String.raw`\q \u0041`, String.raw`\q \u0041`],
  ['ends with \\', 'ends with \\'],
  ['äß 漢字 🙂 \\n', 'äß 漢字 🙂 \n'],
  ['', ''],
])('%j is %j', (text, plain) => {
  expect(withoutEscapes(text)).toBe(plain);
});
