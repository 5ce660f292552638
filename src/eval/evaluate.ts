import type { ContextOptions, PlanOptions } from '../core/option-types.ts';
import type { Model } from '../gates/model.ts';
import type { Batch } from './item.ts';
import type { Variant } from './modes.ts';
import type { ResultStore } from './store.ts';

export type EvaluateOptions = {
  /** Threads, batch sizes: the same for all contexts. */
  plan: PlanOptions;
  signal?: AbortSignal | undefined;
  /** Gets the share of all prompts' tokens that are done, and what is under way. */
  onProgress?: ((progress: Progress) => void) | undefined;
};

export type Progress = {
  /** Tokens of prompts that are done, of which those that an earlier run did, and of all. */
  done: number;
  resumed: number;
  total: number;
  task: string;
  length: number;
  variant: string;
};

/** Runs every prompt in every variant that the store has no result of yet. Each length has a context of its own, so that its KV bytes are its own. */
export async function evaluate(
  model: Model,
  batches: readonly Batch[],
  variants: readonly Variant[],
  store: ResultStore,
  options: EvaluateOptions,
): Promise<void> {
  const { signal, onProgress } = options;
  const work = batches.flatMap((batch) => variants.map((variant) => ({ batch, variant, prompts: promptsOf(batch, variant) })));
  const total = work.reduce((sum, { batch, prompts }) => sum + prompts.length * batch.length, 0);
  const resumed = work.reduce((sum, { batch, prompts }) => sum + prompts.filter((prompt) => store.has(prompt)).length * batch.length, 0);
  let done = resumed;

  for (const { batch, variant, prompts } of work) {
    const waiting = prompts.filter((prompt) => !store.has(prompt));
    const report = (extra: number): void =>
      onProgress?.({ done: done + extra, resumed, total, task: batch.task, length: batch.length, variant: variant.label });
    for (let draw = 0; draw < variant.draws; draw++) {
      const drawn = waiting.filter(({ index }) => index % variant.draws === draw);
      if (drawn.length === 0) continue;
      report(0);
      await using context = await model.createContext(contextOptions(batch, variant, draw, options));
      for (const { item, ...prompt } of drawn) {
        const outcome = await item().run(context, { signal, onProgress: (share) => report(share * batch.length) });
        store.add({ ...prompt, kv: context.memory(), outcome });
        done += batch.length;
        report(0);
      }
    }
  }
}

function contextOptions(
  { contextSize }: Batch,
  { typeK, typeV, duo }: Variant,
  draw: number,
  { plan, signal }: EvaluateOptions,
): ContextOptions {
  return { ...plan, contextSize, typeK, typeV, duo: duo?.(draw), signal };
}

function promptsOf(batch: Batch, variant: Variant) {
  const { task, length, cells } = batch;
  return cells.flatMap(({ depth, count, item }) =>
    Array.from({ length: count }, (_, index) => ({ variant: variant.label, task, length, depth, index, item: () => item(index) })),
  );
}
