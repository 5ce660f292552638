import { describe, expect, test } from 'vitest';

import { UsageError } from '../../../src/cli/flags.ts';
import { choices, different, numbers, texts } from '../../../src/cli/lists.ts';

const any = (): boolean => true;

test('values have commas between, and spaces do not count', () => {
  expect(texts('--task', 'a, b,c')).toEqual(['a', 'b', 'c']);
  expect(numbers('--lengths', '1024, 2048', 'numbers', any)).toEqual([1024, 2048]);
  expect(choices('--modes', 'full,duo', ['duo', 'full'])).toEqual(['full', 'duo']);
  expect(numbers('--lengths', undefined, 'numbers', any)).toBeUndefined();
});

describe('a value that is there twice is refused by name', () => {
  test.each([
    ['1024,2048,1024', /--lengths has 1024 twice/],
    ['0.5,0.50', /--lengths has 0\.5 twice/],
  ])('%s', (given, message) => {
    expect(() => numbers('--lengths', given, 'numbers', any)).toThrow(UsageError);
    expect(() => numbers('--lengths', given, 'numbers', any)).toThrow(message);
  });

  test('words', () => {
    expect(() => different('--modes', ['full', 'duo', 'full'])).toThrow(/--modes has full twice: name each value once\./);
    expect(different('--modes', ['full', 'duo'])).toEqual(['full', 'duo']);
  });
});

test.each([
  ['a,,b', /needs values with commas between, got "a,,b"/],
  ['1,x', /needs numbers, got "x"/],
  ['1,024', /needs numbers, got "024": commas stand between numbers, not within them/],
])('%s is refused', (given, message) => {
  expect(() => numbers('--lengths', given, 'numbers', any)).toThrow(message);
});
