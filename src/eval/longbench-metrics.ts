// LongBench's published metrics (arXiv 2308.14508): what each compares, not its code.
import { EvaluationError } from '../errors.ts';

/** Scores an answer against one of the right answers, 0 to 1. */
export type Metric = (answer: string, truth: string, classes: readonly string[]) => number;

/** Cuts a Chinese text into words. */
export type Segmenter = (text: string) => string[];

/**
 * Jieba's cut, which LongBench's metrics for Chinese are defined with.
 *
 * @throws EvaluationError where the package is not installed
 */
export async function loadSegmenter(): Promise<Segmenter> {
  try {
    const { cut } = await import('jieba-wasm');
    return (text) => cut(text, true);
  } catch (error) {
    throw new EvaluationError(
      `LongBench's metrics for Chinese need the package jieba-wasm: "npm install jieba-wasm" (${error instanceof Error ? error.message : String(error)}).`,
    );
  }
}

/** The metrics by name. */
export function metricsWith(segment: Segmenter) {
  return {
    wordF1,
    chineseWordF1: chineseWordF1(segment),
    rougeL,
    chineseRougeL: chineseRougeL(segment),
    classification,
    rightNumbers,
    codeSimilarity,
  } satisfies Record<string, Metric>;
}

// --- F1 of words, for questions ---

/** Python's string.punctuation. */
const asciiPunctuation = /[!-/:-@[-`{-~]/g;

export const wordF1: Metric = (answer, truth) => f1(normalWords(answer), normalWords(truth));

/** The Chinese punctuation that LongBench's metrics.py leaves out. Some is not in it (《, 〈, 〉, ·), and so counts as a word. */
const chinesePunctuation =
  /[！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏.]/g;

export function chineseWordF1(segment: Segmenter): Metric {
  const words = (text: string): string[] =>
    segment(text)
      .map((word) => word.toLowerCase().replaceAll(asciiPunctuation, '').replaceAll(chinesePunctuation, '').replaceAll(/\s/g, ''))
      .filter((word) => word !== '');
  return (answer, truth) => f1(words(answer), words(truth));
}

/** Small letters, without punctuation and articles. */
function normalWords(text: string): string[] {
  const plain = text.toLowerCase().replaceAll(asciiPunctuation, '');
  return plain.split(/\s+/).filter((word) => word !== '' && !/^(a|an|the)$/.test(word));
}

/** The harmonic mean of precision and recall; a word counts as often as both have it. */
function f1(answer: readonly string[], truth: readonly string[]): number {
  const left = new Map<string, number>();
  for (const word of truth) left.set(word, (left.get(word) ?? 0) + 1);
  let common = 0;
  for (const word of answer) {
    const count = left.get(word) ?? 0;
    if (count === 0) continue;
    left.set(word, count - 1);
    common++;
  }
  return common === 0 ? 0 : (2 * common) / (answer.length + truth.length);
}

// --- ROUGE-L, for summaries ---

/**
 * ROUGE-L of whole texts as the Python package `rouge` 1.0.1 has it: sentences end at full stops; the words that are in a longest common subsequence of
 * any two sentences are counted, each of them once, and so are the words of either text.
 */
export const rougeL: Metric = (answer, truth) => {
  const [said, wanted] = [sentences(answer), sentences(truth)];
  if (said.length === 0 || wanted.length === 0) return 0;
  const union = new Set(wanted.flatMap((reference) => said.flatMap((sentence) => commonSubsequence(reference, sentence))));
  const precision = union.size / new Set(said.flat()).size;
  const recall = union.size / new Set(wanted.flat()).size;
  return (2 * precision * recall) / (precision + recall + 1e-8);
};

export function chineseRougeL(segment: Segmenter): Metric {
  return (answer, truth, classes) => rougeL(segment(answer).join(' '), segment(truth).join(' '), classes);
}

function sentences(text: string): string[][] {
  return text
    .split('.')
    .filter((sentence) => sentence !== '')
    .map((sentence) => sentence.trim().split(/\s+/));
}

/** A longest common subsequence; of several, the one whose words come last in `a`. */
function commonSubsequence(a: readonly string[], b: readonly string[]): string[] {
  const lengths = table(a, b);
  const common: string[] = [];
  let [i, j] = [a.length, b.length];
  while (i > 0 && j > 0) {
    const word = a[i - 1] ?? '';
    if (word === b[j - 1]) {
      common.push(word);
      i--;
      j--;
    } else if ((lengths[i - 1]?.[j] ?? 0) > (lengths[i]?.[j - 1] ?? 0)) i--;
    else j--;
  }
  return common.reverse();
}

/** `table(a, b)[i][j]`: the length of a longest common subsequence of the first i of a and the first j of b. */
function table(a: ArrayLike<string>, b: ArrayLike<string>): Uint32Array[] {
  const rows = [new Uint32Array(b.length + 1)];
  for (let i = 1; i <= a.length; i++) {
    const [above, row] = [rows[i - 1] ?? new Uint32Array(), new Uint32Array(b.length + 1)];
    for (let j = 1; j <= b.length; j++) {
      row[j] = a[i - 1] === b[j - 1] ? (above[j - 1] ?? 0) + 1 : Math.max(above[j] ?? 0, row[j - 1] ?? 0);
    }
    rows.push(row);
  }
  return rows;
}

// --- the rest ---

/**
 * Whether the right class is in the answer, divided by the classes that are in it. Names that are a part of the right one do not count: they are in it
 * whenever it is.
 */
export const classification: Metric = (answer, truth, classes) => {
  const named = classes.filter((name) => answer.includes(name) && (name === truth || !truth.includes(name)));
  return named.includes(truth) ? 1 / named.length : 0;
};

/** The share of the numbers in the answer that are the right one: the number of a paragraph, or how many there are. */
export const rightNumbers: Metric = (answer, truth) => {
  const wanted = /\d+/.exec(truth)?.[0];
  const said = answer.match(/\d+/g) ?? [];
  return said.length === 0 ? 0 : said.filter((number) => number === wanted).length / said.length;
};

/** How alike the answer's first line of code and the right one are: 1 less their edits (a replacement counts twice) a character of both, in percents. */
export const codeSimilarity: Metric = (answer, truth) => {
  const line = answer
    .replace(/^\n+/, '')
    .split('\n')
    .find((text) => !/[`#]|\/\//.test(text));
  const [a, b] = [Array.from(line ?? ''), Array.from(truth)];
  if (a.length === 0 || b.length === 0) return 0;
  const common = table(a, b).at(-1)?.at(-1) ?? 0;
  return Math.round((200 * common) / (a.length + b.length)) / 100;
};
