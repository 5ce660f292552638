import type { CacheType } from '../core/cache-types.ts';
import type { DuoOptions, GatePattern, Model, PlanOptions } from '../index.ts';

/** What a cache keeps, what it takes, and what calibration says that it loses. */
export type TradeOff = {
  choice: string;
  /** Full heads of one type, a share of heads that stream, or what a budget chose. */
  kind: 'full' | 'stream' | 'budget';
  bytes: number;
  /** Of a full f16 cache. */
  share: number;
  typeK: CacheType;
  typeV: CacheType;
  retrievalHeads: number;
  streamingHeads: number;
  /** In the unit of the pattern's losses. */
  expectedLoss: number;
  /** Where calibration found that rows of these types leave few answers right: the share that they leave. */
  breaks: number | null;
};

/** Budgets to show, as shares: those of the table, and as many between them and everything as make a curve. */
export const budgetsOfTable = [0.5, 0.35, 0.27, 0.2, 0.15, 0.1];
export const budgetsOfCurve = Array.from({ length: 45 }, (_, index) => (49 - index) / 50);
const sparsities = [0.25, 0.5, 0.75];

/**
 * What a context can be had for: full caches of one type, shares of heads that stream, and what budgets choose.
 *
 * @param gates a pattern with losses
 */
export async function tradeOffs(
  model: Model,
  plan: PlanOptions,
  gates: GatePattern,
  budgets: readonly number[] = budgetsOfTable,
): Promise<TradeOff[]> {
  const { losses, cacheTypes } = gates;
  const largest = losses?.windows.at(-1);
  if (!losses || largest === undefined) return [];
  const types: readonly CacheType[] = ['f16', 'q8_0', 'q4_0'];
  const measured = types.filter((type) => type === 'f16' || cacheTypes?.k[type] !== undefined);
  const full = await sizeOf(model, plan, { sparsity: 0 });
  if (full === null) return [];

  const rows: TradeOff[] = [];
  const add = async (
    kind: TradeOff['kind'],
    choice: string,
    loss: number | null,
    breaks: number | null,
    duo: DuoOptions,
    typed: CacheType = 'f16',
  ): Promise<void> => {
    const kv = await sizeOf(model, { ...plan, typeK: typed, typeV: typed }, duo).catch(() => null); // a budget may be too small for this context
    if (!kv) return;
    const { totalBytes: bytes, typeK, typeV, retrievalHeads, streamingHeads } = kv;
    const expectedLoss = loss ?? kv.expectedLoss ?? 0;
    rows.push({ choice, kind, bytes, share: bytes / full.totalBytes, typeK, typeV, retrievalHeads, streamingHeads, expectedLoss, breaks });
  };
  for (const type of measured) {
    const [k, v] = [cacheTypes?.k[type], cacheTypes?.v[type]];
    const [k16, v16] = [cacheTypes?.k.f16, cacheTypes?.v.f16];
    const worst = Math.min(
      ...[
        [k, k16],
        [v, v16],
      ].map(([given, right]) => (given && right ? given.correct / Math.max(right.correct, 1e-9) : 1)),
    );
    await add('full', `full ${type}`, (k?.loss ?? 0) + (v?.loss ?? 0), worst < 0.9 ? worst : null, { sparsity: 0 }, type);
  }
  for (const sparsity of sparsities) {
    const { streaming } = await gates.select({ sparsity });
    const lost = streaming.flatMap((layer, il) => layer.map((streams, ih) => (streams ? (losses.heads[il]?.[ih]?.at(-1) ?? 0) : 0)));
    await add(
      'stream',
      `${100 * sparsity}% stream`,
      lost.reduce((sum, loss) => sum + loss, 0),
      null,
      { gates, sparsity, recent: largest },
    );
  }
  for (const budget of budgets) await add('budget', `--duo-budget ${budget}`, null, null, { gates, budget });
  return rows.sort((a, b) => b.bytes - a.bytes);
}

async function sizeOf(model: Model, plan: PlanOptions, duo: DuoOptions) {
  return (await model.planContext({ ...plan, duo })).kv;
}
