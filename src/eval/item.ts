import type { Context } from '../core/context.ts';
import { EvaluationError } from '../errors.ts';
import { KeptHaystack } from './kept-haystack.ts';

/** Work done in a time. */
export type Pace = { tokens: number; seconds: number };

/** What one prompt came to. */
export type Outcome = {
  /** One score, or one for each of several depths; the weight is what it counts for in their mean. */
  scores: { depth: number | null; value: number; weight: number }[];
  prefill: Pace;
  decode: Pace;
  /** What the model said, where it said something. */
  answer?: string;
};

export type RunOptions = {
  signal?: AbortSignal | undefined;
  /** Gets a number that grows from 0 to 1. */
  onProgress?: ((progress: number) => void) | undefined;
  /** Of the context, where prompts share haystacks. Default: a new one, which has none. */
  kept?: KeptHaystack | undefined;
};

/** One prompt with its scoring. */
export type Item = {
  /** About how much work it is. */
  tokens: number;
  run: (context: Context, options: RunOptions) => Promise<Outcome>;
};

/** Prompts that give one row of results: those of a task, a length and, where the task has them, a depth. */
export type Cell = {
  depth: number | null;
  count: number;
  /** The prompt with this number; the same number always gives the same prompt. */
  item: (index: number) => Item;
};

/** Cells whose prompts run in contexts of one size. */
export type Batch = {
  task: string;
  length: number;
  contextSize: number;
  /** What the scores are: right or wrong (0 to 1), or log-probabilities. */
  measure: 'accuracy' | 'perplexity';
  /** Whether the prompts with one index, of all such batches of a length, ask about one haystack: they begin alike. */
  shared?: boolean;
  cells: Cell[];
};

/**
 * Tokens that a prompt may have in a context of a length.
 *
 * @throws EvaluationError where its answer may take all of them
 */
export function roomForPrompt(length: number, maxTokens: number): number {
  if (length > maxTokens) return length - maxTokens;
  throw new EvaluationError(
    `A length of ${length} tokens has no room for a prompt: its answer may take ${maxTokens}. Take a greater length.`,
  );
}

/** Tokens of a prompt; where a haystack is shared, apart from the question, and the same array for all of its questions. */
export type PromptTokens = Int32Array | { haystack: Int32Array; question: Int32Array };

/** An item whose answer is generated, greedily. */
export function answering(
  prompt: PromptTokens,
  options: {
    maxTokens: number;
    ignoreEos?: boolean;
    /** Texts that end it. */
    stop?: readonly string[];
    depth: number | null;
    score: (answer: string, signal: AbortSignal | undefined) => number | Promise<number>;
  },
): Item {
  const { maxTokens, ignoreEos = false, stop, depth, score } = options;
  const length = 'haystack' in prompt ? prompt.haystack.length + prompt.question.length : prompt.length;
  return {
    tokens: length + maxTokens,
    async run(context, { signal, onProgress, kept = new KeptHaystack(context) }) {
      const how = { maxTokens, temperature: 0, ignoreEos, stop, signal };
      const held = 'haystack' in prompt ? await kept.holding(prompt.haystack, { signal, onProgress }) : undefined;
      const generation =
        'haystack' in prompt && held
          ? held.sequence.generate(prompt.question, how)
          : context.generate(prompt as Int32Array, { ...how, onProgress });
      const { text, promptTokens, reusedTokens, prefillSeconds, decodeSeconds, decodeTokensPerSecond } = await generation.result();
      return {
        scores: [{ depth, value: await score(text, signal), weight: 1 }],
        prefill: {
          tokens: promptTokens - reusedTokens + (held?.read.tokens ?? 0),
          seconds: prefillSeconds + (held?.read.seconds ?? 0),
        },
        decode: { tokens: Math.round(decodeTokensPerSecond * decodeSeconds), seconds: decodeSeconds },
        answer: text,
      };
    },
  };
}
