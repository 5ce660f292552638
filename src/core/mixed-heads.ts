import type { DuoOptions, PlanOptions } from './option-types.ts';
import { UnsupportedError } from '../errors.ts';
import type { CoreModel } from './model.ts';

/**
 * Makes sure, before any work, that mixed heads apply to a model.
 *
 * @param instead what can be done without them, as a sentence
 * @throws UnsupportedError with the model's own reason
 */
export async function requireMixedHeads(model: CoreModel, plan: PlanOptions & { duo: DuoOptions }, instead: string): Promise<void> {
  const { supported, reason } = await model.planContext(plan);
  if (!supported) throw new UnsupportedError(`Mixed heads do not apply to this model: ${reason}. ${instead}`);
}
