import { evaluate } from '../../src/eval/evaluate.ts';
import type { Mode } from '../../src/eval/modes.ts';
import { planEvaluation } from '../../src/eval/plan.ts';
import { rowsOf, type Row } from '../../src/eval/rows.ts';
import { ResultStore } from '../../src/eval/store.ts';
import type { Model } from '../../src/index.ts';

export type Asked = { tasks: string[]; modes: Mode[]; lengths: number[]; depths?: number[]; samples: number; sparsity?: number };

const plan = { threads: 2 };

/** What `llama-duo eval` finds with the model's own gates. */
export async function measure(model: Model, { depths = [0, 0.25, 0.5, 0.75, 1], sparsity = 0.5, ...asked }: Asked): Promise<Row[]> {
  const { variants, batches, settings } = await planEvaluation(model, {
    ...asked,
    depths,
    gates: 'auto',
    sparsities: [sparsity],
    chunks: [1],
    types: [{ typeK: 'f16', typeV: 'f16' }],
    seed: 1,
    chat: false,
    plan,
  });
  const store = new ResultStore(settings);
  await evaluate(model, batches, variants, store, { plan });
  return rowsOf(store.all(), batches, variants, 1);
}

/** The mean of a variant's rows of a task. */
export function accuracy(rows: Row[], variant: string, task: string): number {
  const mine = rows.filter((row) => row.variant === variant && row.task === task);
  if (mine.length === 0) throw new Error(`There is no row of ${variant}, ${task}.`);
  return mine.reduce((sum, row) => sum + (row.accuracy ?? 0), 0) / mine.length;
}
