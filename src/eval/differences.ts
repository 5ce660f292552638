import { Random } from '../synthetic/random.ts';
import type { Batch } from './item.ts';
import type { Variant } from './modes.ts';
import type { Result } from './store.ts';
import { syntheticTasks } from './synthetic.ts';

/** How a variant's accuracy differs from another's on the same prompts. In points, hundredths of the mean over tasks. */
export type Difference = {
  variant: string;
  /** The label of the other variant. */
  against: string;
  /** A benchmark, or `made-up tasks`. */
  of: string;
  length: number;
  tasks: number;
  /** What was drawn anew: prompts, or haystacks where prompts share them. */
  units: number;
  points: number;
  /** The 95% interval. */
  from: number;
  to: number;
  /** Whether the interval reaches at most {@link tellingPoints} to each side: a wider one shows nothing. */
  tells: boolean;
};

export const tellingPoints = 2.5;

const resamples = 4_000;

/**
 * What each variant's mean over tasks differs by from that of another, with a 95% interval by paired bootstrap: prompts are drawn anew within each task, the same
 * ones for both. Prompts about one haystack are drawn together, for what makes it hard is common to them. Where no prompt's scores differ a bootstrap sees no
 * spread; the interval is then what as many prompts leave open, 3 in their number.
 *
 * @param against the label of the other variant
 */
export function differences(
  results: readonly Result[],
  batches: readonly Batch[],
  variants: readonly Variant[],
  against: string,
  seed: number,
): Difference[] {
  const groups = new Map<string, Batch[]>();
  for (const batch of batches.filter(({ measure }) => measure === 'accuracy')) {
    const key = JSON.stringify([nameOf(batch), isPooled(batch) || batch.length]);
    groups.set(key, [...(groups.get(key) ?? []), batch]);
  }
  return variants.flatMap(({ label: variant }) =>
    variant === against
      ? []
      : [...groups.values()].flatMap((group) => {
          const [first] = group;
          const pairs = group.flatMap((batch) => pairsOf(results, batch, variant, against));
          if (!first || pairs.length === 0) return [];
          const [of, length] = [nameOf(first), Math.max(...group.map((batch) => batch.length))];
          return [{ variant, against, of, length, ...spreadOf(pairs, new Random(seed, 'bootstrap', variant, of, length)) }];
        }),
  );
}

function nameOf({ task }: Batch): string {
  return Object.hasOwn(syntheticTasks, task) ? 'made-up tasks' : (task.split('/')[0] ?? task);
}

/** MMLU's subjects have lengths of their own, and what is published is the mean of all questions. */
function isPooled({ task }: Batch): boolean {
  return task.startsWith('mmlu/');
}

/** What two variants' scores of one prompt differ by. Prompts of one unit are drawn together, from the units of one stratum. */
type Pair = { task: string; stratum: string; unit: string; difference: number };

function pairsOf(results: readonly Result[], batch: Batch, variant: string, against: string): Pair[] {
  const ofBatch = results.filter(({ task, length }) => task === batch.task && length === batch.length);
  const promptOf = ({ depth, index }: Result): string => JSON.stringify([depth, index]);
  const others = new Map(ofBatch.filter((result) => result.variant === against).map((result) => [promptOf(result), scoreOf(result)]));
  const task = isPooled(batch) ? nameOf(batch) : batch.task;
  return ofBatch.flatMap((result) => {
    const other = result.variant === variant ? others.get(promptOf(result)) : undefined;
    if (other === undefined) return [];
    const [stratum, unit] = batch.shared ? ['shared', String(result.index)] : [batch.task, promptOf(result)];
    return [{ task, stratum, unit, difference: scoreOf(result) - other }];
  });
}

function scoreOf({ outcome }: Result): number {
  return outcome.scores.reduce((sum, { value }) => sum + value, 0) / outcome.scores.length;
}

function spreadOf(pairs: readonly Pair[], random: Random): Omit<Difference, 'variant' | 'against' | 'of' | 'length'> {
  const tasks = [...new Set(pairs.map(({ task }) => task))];
  const strata = new Map<string, Map<string, { task: number; difference: number }[]>>();
  for (const { task, stratum, unit, difference } of pairs) {
    const units = strata.get(stratum) ?? new Map<string, { task: number; difference: number }[]>();
    strata.set(stratum, units.set(unit, [...(units.get(unit) ?? []), { task: tasks.indexOf(task), difference }]));
  }
  const drawn = [...strata.values()].map((units) => [...units.values()]);
  const counts = drawn.map((units) => units.length);
  const units = counts.reduce((sum, count) => sum + count, 0);

  const points = meanOfTasks(tasks.length, drawn.flat());
  let [from, to] = [points - 300 / Math.min(...counts), points + 300 / Math.min(...counts)];
  if (pairs.some(({ difference }) => difference !== 0)) {
    const means = Array.from({ length: resamples }, () =>
      meanOfTasks(
        tasks.length,
        drawn.flatMap((all) => all.map(() => random.pick(all))),
      ),
    ).sort((a, b) => a - b);
    [from, to] = [means[Math.floor(0.025 * resamples)] ?? from, means[Math.ceil(0.975 * resamples) - 1] ?? to];
  }
  return { tasks: tasks.length, units, points, from, to, tells: (to - from) / 2 <= tellingPoints };
}

function meanOfTasks(count: number, units: readonly (readonly { task: number; difference: number }[])[]): number {
  const sums = new Array<number>(count).fill(0);
  const prompts = new Array<number>(count).fill(0);
  for (const unit of units) {
    for (const { task, difference } of unit) {
      sums[task] = (sums[task] ?? 0) + difference;
      prompts[task] = (prompts[task] ?? 0) + 1;
    }
  }
  return (100 * sums.reduce((total, sum, task) => total + sum / (prompts[task] ?? 1), 0)) / count;
}
