import type { Model } from '../gates/model.ts';
import type { Frame } from './frame.ts';
import { answering, roomForPrompt, type Batch, type Item, type PromptTokens } from './item.ts';
import { keys } from '../synthetic/language.ts';
import { PromptWriter, type Sight } from './prompt.ts';
import { Random } from '../synthetic/random.ts';
import { scoreAnswer, type Expected } from './scoring.ts';
import type { SyntheticTask } from './synthetic.ts';

export type SyntheticOptions = {
  frame: Frame;
  sight: Sight;
  lengths: readonly number[];
  /** 0 to 1, for tasks with one needle. */
  depths: readonly number[];
  samples: number;
  seed: number;
  /** Tokens to generate after the answer, whatever they are. */
  extraTokens: number;
};

/** Tokens that an answer may have beyond the expected ones: a number must be seen to end, and those who chat use more words. */
const slack = { raw: 2, chat: 32 };

const vocabulary = new Set(keys);

/** Tokens that an answer may have. */
export function answerTokens({ encoder }: PromptWriter, { frame, extraTokens }: SyntheticOptions, expected: Expected): number {
  return encoder.next(expected.text).length + (frame.chat ? slack.chat : slack.raw) + extraTokens;
}

/** An item of a prompt whose answer is known. */
export function asking(
  prompt: PromptTokens,
  { expected, maxTokens, depth }: { expected: Expected; maxTokens: number; depth: number | null },
  { extraTokens }: SyntheticOptions,
): Item {
  return answering(prompt, {
    maxTokens,
    ignoreEos: extraTokens > 0,
    depth,
    score: (answer) => scoreAnswer(expected, answer, vocabulary),
  });
}

/** A task's prompts at each length and depth. A length is the whole context: the prompt and room for its answer. */
export function syntheticBatches(name: string, task: SyntheticTask, model: Model, options: SyntheticOptions): Batch[] {
  const { frame, sight, lengths, depths, samples, seed } = options;
  const writer = new PromptWriter(model, frame, sight);
  const item = (length: number, depth: number | null, index: number): Item => {
    const { expected, write } = task.sketch(new Random(seed, name, length, depth ?? 'any', index), frame);
    const maxTokens = answerTokens(writer, options, expected);
    return asking(write(writer, roomForPrompt(length, maxTokens), depth), { expected, maxTokens, depth }, options);
  };
  return lengths.map((length) => ({
    task: name,
    length,
    contextSize: length,
    measure: 'accuracy',
    cells: (task.hasDepth ? depths : [null]).map((depth) => ({ depth, count: samples, item: (index) => item(length, depth, index) })),
  }));
}
