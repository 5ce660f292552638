import { expect, test } from 'vitest';

import { messagesOf } from '../../../src/cli/user-messages.ts';

async function* given(lines: string[]): AsyncGenerator<string> {
  for (const line of lines) yield await Promise.resolve(line);
}

test.each([
  [['Hello'], ['Hello']],
  [
    ['one', 'two'],
    ['one', 'two'],
  ],
  // As llama.cpp's tools read lines.
  [['one\\', 'two'], ['one\ntwo']],
  [
    ['one\\', 'two\\', 'three', 'four'],
    ['one\ntwo\nthree', 'four'],
  ],
  [['one/'], ['one']],
  [
    ['one\\', 'two/', 'three'],
    ['one\ntwo', 'three'],
  ],
  [
    ['a/b', 'c\\d'],
    ['a/b', 'c\\d'],
  ],
  // Nothing was said.
  [['', 'one', '', ''], ['one']],
  [[], []],
  // The end ends a message, too.
  [['one\\'], ['one']],
])('%j is %j', async (lines, expected) => {
  const found: string[] = [];
  for await (const message of messagesOf(given(lines))) found.push(message);
  expect(found).toEqual(expected);
});
