import { EvaluationError } from '../errors.ts';
import type { Model } from '../gates/model.ts';
import type { Batch, Item } from './item.ts';

/** Parts of a window that perplexity is told for. */
const parts = 10;

/**
 * Perplexity by position over a text: windows of each length, taken from the text one after another, each read from an empty cache. The log-probabilities
 * of a window's tokens are told in ten parts, and a part's depth is where it begins.
 *
 * @throws EvaluationError where the text has fewer tokens than a window
 */
export function perplexityBatches(model: Model, text: string, lengths: readonly number[], samples: number): Batch[] {
  const tokens = model.tokenize(text, { addSpecial: false });
  const begin = model.info.addBos && model.info.bosToken !== null ? [model.info.bosToken] : [];
  return lengths.map((length) => {
    const step = length - begin.length;
    const windows = Math.floor(tokens.length / step);
    if (windows === 0) {
      throw new EvaluationError(
        `The text has ${tokens.length} tokens and a window of ${length} was asked for: take a longer text or a smaller length.`,
      );
    }
    const window = (index: number): Item => scoring(Int32Array.from([...begin, ...tokens.subarray(index * step, (index + 1) * step)]));
    return {
      task: 'ppl',
      length,
      contextSize: length,
      measure: 'perplexity',
      cells: [{ depth: null, count: Math.min(samples, windows), item: window }],
    };
  });
}

function scoring(tokens: Int32Array): Item {
  return {
    tokens: tokens.length,
    async run(context, { signal, onProgress }) {
      const { logProbabilities, reusedTokens, seconds } = await context.score(tokens, {
        signal,
        onProgress,
      });
      return {
        scores: byPosition(logProbabilities, tokens.length),
        prefill: { tokens: tokens.length - reusedTokens, seconds },
        decode: { tokens: 0, seconds: 0 },
      };
    },
  };
}

/** The mean log-probability of each part of a window whose first token is not scored. */
function byPosition(logProbabilities: Float64Array, length: number): { depth: number; value: number; weight: number }[] {
  return Array.from({ length: parts }, (_, part) => {
    const [from, to] = [Math.ceil((part * length) / parts), Math.ceil(((part + 1) * length) / parts)];
    const within = logProbabilities.subarray(Math.max(0, from - 1), to - 1);
    const sum = within.reduce((total, value) => total + value, 0);
    return { depth: part / parts, value: within.length > 0 ? sum / within.length : 0, weight: within.length };
  });
}
