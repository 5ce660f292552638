import type { ContextOptions, PlanOptions } from '../core/option-types.ts';
import type { Model } from '../gates/model.ts';
import type { Batch, Item } from './item.ts';
import { KeptHaystack } from './kept-haystack.ts';
import type { Variant } from './modes.ts';
import type { Result, ResultStore } from './store.ts';

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

/**
 * Runs every prompt in every variant that the store has no result of yet. Each length has a context of its own, so that its KV bytes are its own. Prompts about one
 * haystack follow each other in it, so that what they begin with is read once.
 */
export async function evaluate(
  model: Model,
  batches: readonly Batch[],
  variants: readonly Variant[],
  store: ResultStore,
  options: EvaluateOptions,
): Promise<void> {
  const { signal, onProgress } = options;
  const work = together(batches).flatMap((group) => variants.map((variant) => ({ group, variant, prompts: promptsOf(group, variant) })));
  const tokens = (prompts: readonly { length: number }[]): number => prompts.reduce((sum, { length }) => sum + length, 0);
  const total = tokens(work.flatMap(({ prompts }) => prompts));
  const resumed = tokens(work.flatMap(({ prompts }) => prompts.filter((prompt) => store.has(prompt))));
  let done = resumed;

  for (const { group, variant, prompts } of work) {
    const waiting = prompts.filter((prompt) => !store.has(prompt));
    for (let draw = 0; draw < variant.draws; draw++) {
      const drawn = waiting.filter(({ index }) => index % variant.draws === draw);
      const [first] = drawn;
      if (!first) continue;
      const report = ({ task, length }: Pick<Prompt, 'task' | 'length'>, extra: number): void =>
        onProgress?.({ done: done + extra, resumed, total, task, length, variant: variant.label });
      report(first, 0);
      await using context = await model.createContext(contextOptions(group, variant, draw, options));
      await using kept = new KeptHaystack(context);
      for (const { item, ...prompt } of drawn) {
        const outcome = await item().run(context, { signal, kept, onProgress: (share) => report(prompt, share * prompt.length) });
        store.add({ ...prompt, kv: context.memory(), outcome });
        done += prompt.length;
        report(prompt, 0);
      }
    }
  }
}

/** Batches that share their haystacks, as one piece of work; each other one is one by itself. */
function together(batches: readonly Batch[]): Batch[][] {
  const groups = new Map<unknown, Batch[]>();
  for (const batch of batches) {
    const key = batch.shared ? batch.length : batch;
    groups.set(key, [...(groups.get(key) ?? []), batch]);
  }
  return [...groups.values()];
}

function contextOptions(
  group: readonly Batch[],
  { typeK, typeV, duo }: Variant,
  draw: number,
  { plan, signal }: EvaluateOptions,
): ContextOptions {
  const contextSize = Math.max(...group.map((batch) => batch.contextSize));
  return { ...plan, contextSize, typeK, typeV, duo: duo?.(draw), signal };
}

type Prompt = Omit<Result, 'kv' | 'outcome'> & { item: () => Item };

/** In the order of their indices: those about one haystack together. */
function promptsOf(group: readonly Batch[], variant: Variant): Prompt[] {
  return group
    .flatMap(({ task, length, cells }) =>
      cells.flatMap(({ depth, count, item }) =>
        Array.from({ length: count }, (_, index) => ({ variant: variant.label, task, length, depth, index, item: () => item(index) })),
      ),
    )
    .sort((a, b) => a.index - b.index);
}
