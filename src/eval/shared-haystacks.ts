import { EvaluationError } from '../errors.ts';
import type { Model } from '../gates/model.ts';
import { keys, texts } from '../synthetic/language.ts';
import { Random } from '../synthetic/random.ts';
import type { Batch, Item } from './item.ts';
import { PromptWriter } from './prompt.ts';
import { answerTokens, asking, type SyntheticOptions } from './synthetic-batches.ts';
import type { FactMaker } from './synthetic.ts';

/** A task whose facts can lie beside others. */
export type SharingTask = { name: string; hasDepth: boolean; fact: FactMaker };

/** Words for each question, which no other question of the haystack has: variable tracking takes the most, two chains of three. */
const leastWords = 6;

/**
 * Tasks in haystacks that they share: each hides the facts of all of them, a needle for each depth, and the prompts with one index differ in the question at their
 * end alone: {@link KeptHaystack} reads it once for all of them.
 *
 * @throws EvaluationError where there are more questions than words
 */
export function sharedBatches(tasks: readonly SharingTask[], model: Model, options: SyntheticOptions): Batch[] {
  const { frame, sight, lengths, depths, samples, seed } = options;
  const writer = new PromptWriter(model, frame, sight);
  const asked = tasks.flatMap((task) => (task.hasDepth ? depths : [null]).map((depth) => ({ ...task, depth })));
  const most = Math.floor(keys.length / leastWords);
  if (asked.length > most)
    throw new EvaluationError(`A haystack has words for ${most} questions, and ${asked.length} are asked: take fewer --depths or tasks.`);

  const items = (length: number, index: number): Item[] => {
    const random = new Random(seed, 'shared', length, index, ...asked.flatMap(({ name, depth }) => [name, depth ?? 'any']));
    const words = random.shuffle(keys);
    const questions = asked.map(({ fact, depth }, hand) => {
      const own = words.filter((_, at) => at % asked.length === hand);
      const { statements, question, expected } = fact(random, own, frame);
      return { statements, expected, depth, tokens: writer.question(question), maxTokens: answerTokens(writer, options, expected) };
    });
    // The haystack is as long as the question with the longest answer lets it be.
    const tail = Math.max(...questions.map(({ tokens, maxTokens }) => tokens.length + maxTokens));
    const anywhere = questions.filter(({ depth }) => depth === null).map(({ statements }) => statements);
    const hidden = [
      ...random.interleave(anywhere).map((text) => ({ text, depth: null })),
      ...questions.flatMap(({ statements, depth }) => (depth === null ? [] : statements.map((text) => ({ text, depth })))),
    ];
    // What calibration's samples, which hide the same facts, begin with.
    const haystack = Int32Array.from(writer.haystack({ length, tail }, texts('multi-key').intro, hidden, random));
    return questions.map(({ tokens, ...question }) => asking({ haystack, question: Int32Array.from(tokens) }, question, options));
  };

  return lengths.flatMap((length) => {
    const ofHaystack = keepingLast((index) => items(length, index));
    const itemOf = (at: number, index: number): Item => ofHaystack(index)[at] as Item;
    return tasks.map(({ name }): Batch => ({
      task: name,
      length,
      contextSize: length,
      measure: 'accuracy',
      shared: true,
      cells: asked.flatMap((question, at) =>
        question.name === name ? [{ depth: question.depth, count: samples, item: (index: number) => itemOf(at, index) }] : [],
      ),
    }));
  });
}

/** A function that keeps its last result: the questions of a haystack come one after another. */
function keepingLast<T>(make: (index: number) => T): (index: number) => T {
  let last: { index: number; made: T } | undefined;
  return (index) => {
    if (last?.index !== index) last = { index, made: make(index) };
    return last.made;
  };
}
