import type { CacheType } from '../core/cache-types.ts';
import type { DuoOptions, FinerLayers, GatePattern, Model, PlanOptions } from '../index.ts';

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
  /** Layers whose K rows are of a finer type than `typeK`; null: none. */
  finerK: FinerLayers | null;
  retrievalHeads: number;
  streamingHeads: number;
  /** In the unit of the pattern's losses; null where gates only rank, or a window was given that replaces theirs. */
  expectedLoss: number | null;
  /** Where calibration found that rows of these types leave few answers right: the share that they leave. */
  breaks: number | null;
};

/** One whose loss is known. */
export type MeasuredTradeOff = TradeOff & { expectedLoss: number };

/** Budgets to show, as shares: those of the table, and as many between them and everything as make a curve. */
export const budgetsOfTable = [0.5, 0.35, 0.27, 0.2, 0.15, 0.1];
export const budgetsOfCurve = Array.from({ length: 45 }, (_, index) => (49 - index) / 50);
const sparsities = [0.25, 0.5, 0.75];

/** What a context can be had for: full caches of one type, shares of heads that stream, and what budgets choose. */
export async function tradeOffs(
  model: Model,
  plan: PlanOptions,
  gates: GatePattern,
  asked: Pick<DuoOptions, 'sink' | 'recent'>,
  budgets: readonly number[] = budgetsOfTable,
): Promise<TradeOff[]> {
  const losses = asked.recent === undefined ? gates.losses : undefined;
  const full = await sizeOf(model, { ...plan, ...f16 }, { sparsity: 0 });
  if (full === null) return [];

  const rows: TradeOff[] = [];
  const add = async (
    kind: TradeOff['kind'],
    choice: string,
    types: Types,
    duo: DuoOptions,
    known: Partial<TradeOff> = {},
  ): Promise<void> => {
    const kv = await sizeOf(model, { ...plan, ...types }, duo).catch(() => null); // a budget may be too small for this context
    if (!kv) return;
    const { totalBytes: bytes, typeK, typeV, finerK, retrievalHeads, streamingHeads, expectedLoss } = kv;
    const share = bytes / full.totalBytes;
    rows.push({ choice, kind, bytes, share, typeK, typeV, finerK, retrievalHeads, streamingHeads, expectedLoss, breaks: null, ...known });
  };
  // What is asked for, where it is something else than f16, leaves budgets no choice of types.
  const own = { typeK: plan.typeK ?? 'f16', typeV: plan.typeV ?? 'f16' };
  for (const type of ['f16', 'q8_0', 'q4_0'] as const) {
    const types = { typeK: type, typeV: type };
    await add('full', `full ${type}`, types, { sparsity: 0 }, losses && ofTypes(gates, types));
  }
  for (const sparsity of sparsities) {
    const { streaming } = await gates.select({ sparsity });
    const lost = streaming.flatMap((layer, il) => layer.map((streams, ih) => (streams ? (losses?.heads[il]?.[ih]?.at(-1) ?? 0) : 0)));
    const expectedLoss = losses ? lost.reduce((sum, loss) => sum + loss, ofTypes(gates, own).expectedLoss) : null;
    await add(
      'stream',
      `${100 * sparsity}% stream`,
      own,
      { ...asked, gates, sparsity, recent: asked.recent ?? losses?.windows.at(-1) },
      { expectedLoss },
    );
  }
  for (const budget of budgets) await add('budget', `--duo-budget ${budget}`, own, { ...asked, gates, budget });
  return rows.sort((a, b) => b.bytes - a.bytes);
}

type Types = { typeK: CacheType; typeV: CacheType };
const f16: Types = { typeK: 'f16', typeV: 'f16' };

/** What calibration says of rows of these types. */
function ofTypes({ cacheTypes }: GatePattern, { typeK, typeV }: Types): { expectedLoss: number; breaks: number | null } {
  const [k, v] = [cacheTypes?.k[typeK], cacheTypes?.v[typeV]];
  const kept = [
    [k, cacheTypes?.k.f16],
    [v, cacheTypes?.v.f16],
  ].map(([given, right]) => (given && right ? given.correct / Math.max(right.correct, 1e-9) : 1));
  const worst = Math.min(...kept);
  return { expectedLoss: (k?.loss ?? 0) + (v?.loss ?? 0), breaks: worst < 0.9 ? worst : null };
}

async function sizeOf(model: Model, plan: PlanOptions, duo: DuoOptions) {
  return (await model.planContext({ ...plan, duo })).kv;
}
