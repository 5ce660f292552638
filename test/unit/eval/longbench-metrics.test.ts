import { beforeAll, describe, expect, test } from 'vitest';

import { loadSegmenter, metricsWith } from '../../../src/eval/longbench-metrics.ts';

let metrics: ReturnType<typeof metricsWith>;
beforeAll(async () => {
  metrics = metricsWith(await loadSegmenter());
});

describe('F1 of words', () => {
  test.each([
    ['Paris', 'Paris', 1],
    ['The answer is Paris.', 'paris', 0.5], // 1 of 3 words (the article is none), 1 of 1: 2 / (3 + 1)
    ['the cat, a cat', 'The cat!', 2 / 3], // twice and once
    ['an apple', 'The apple', 1],
    ["don't", 'dont', 1],
    ['London', 'Paris', 0],
    ['', 'Paris', 0],
    ['a an the', 'the', 0],
  ])('%j for %j is %d', (answer, truth, score) => {
    expect(metrics.wordF1(answer, truth, [])).toBeCloseTo(score, 10);
  });

  test.each([
    ['北京清华大学', '清华大学', 2 / 3], // 北京, 清华大学
    ['答案是：北京。', '北京', 0.5], // 答案, 是, 北京
    ['上海', '北京', 0],
    ['《红楼梦》', '红楼梦', 2 / 3], // 《 and 红楼梦: the published punctuation has only 》
    ['“红楼梦”！(…)', '红楼梦', 1],
    ['三·国', '三国', 0], // 三, ·, 国
  ])('%j for %j is %d', (answer, truth, score) => {
    expect(metrics.chineseWordF1(answer, truth, [])).toBeCloseTo(score, 10);
  });
});

// By the package `rouge` 1.0.1 to 16 digits; the second is Lin's own example: 4 words in the union, of 8 that were said and 5 that were wanted.
test.each([
  ['the cat sat on the mat', 'the cat is on the mat', 0.7999999950000002],
  ['w1 w2 w6 w7 w8. w1 w3 w8 w9 w5', 'w1 w2 w3 w4 w5', 0.6153846106508877],
  ['a b c. d e f.', 'd e. a c x.', 0.7272727223140496],
  ['one two three. ', 'three two one.', 0.2857142808163266],
  ['Police killed the gunman. He ran. ', 'the gunman was killed by police. He ran away', 0.4999999950781251],
  ['', 'x', 0],
  ['x', '', 0],
  ['...', 'x', 0],
])('ROUGE-L: %j for %j is %d', (answer, truth, score) => {
  expect(metrics.rougeL(answer, truth, [])).toBeCloseTo(score, 14);
});

test('ROUGE-L of Chinese is of words', () => {
  // 他, 来到, 了, 北京 and 她, 来到, 了, 上海: 2 of 4 and 2 of 4
  expect(metrics.chineseRougeL('他来到了北京', '她来到了上海', [])).toBeCloseTo(0.5, 6);
});

test.each([
  ['Number of something', 1],
  ['Number of something, or Date', 0.5],
  ['Date', 0],
  ['', 0],
])('a class: %j is worth %d', (answer, score) => {
  // "Number" is within the right name, and no other answer.
  expect(metrics.classification(answer, 'Number of something', ['Number', 'Number of something', 'Date'])).toBe(score);
});

test.each([
  ['Paragraph 12', 'Paragraph 12', 1],
  ['12 or 13', 'Paragraph 12', 0.5],
  ['Paragraph 1', 'Paragraph 12', 0],
  ['段落12', '段落12', 1],
  ['none', '7', 0],
  ['7', '7', 1],
])('numbers: %j for %j is worth %d', (answer, truth, score) => {
  expect(metrics.rightNumbers(answer, truth, [])).toBe(score);
});

test.each([
  ['return a + b', 'return a + b', 1],
  ['\n# the sum\nreturn a + b\nmore', 'return a + b', 1],
  ['```python\nreturn a', 'return a', 1],
  ['abcd', 'bcde', 0.75], // 3 in common: 2 * 3 / 8
  ['abc', 'abd', 0.67], // a replacement is two edits: 1 - 2 / 6
  ['', 'x', 0],
  ['// nothing', 'x', 0],
])('code: %j for %j is worth %d', (answer, truth, score) => {
  expect(metrics.codeSimilarity(answer, truth, [])).toBe(score);
});
