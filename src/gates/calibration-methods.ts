/**
 * How heads are scored; docs/calibration.md compares them.
 * - windows: what each head loses at each of several windows, while the heads that are needed less have theirs, and what rows of cache types lose: what a budget
 *   chooses by
 * - combined: the larger of a head's ranks by typical, beyond what rounding makes of any change, and by mass: needed if answers suffer without it, or if they
 *   look where only it would see
 * - typical: what the answers' tokens typically lose where one head sees only sinks and recent keys: ablation by a geometric mean
 * - ablation: what they lose in the mean, DuoAttention's own objective
 * - greedy: typical, step by step: the least needed quarter stays so while the others are measured again
 * - masks: regression of what answers lose on random choices of half of the heads
 * - bosch: the least loss of a share of the heads, searched for as a black box: how many of each layer, then which (in the manner of arXiv 2604.05942)
 * - mass: attention to what a streaming head would not see, while answers are given
 * - kvzip: the most attention that any such key gets while the context is repeated (arXiv 2505.23416)
 * - mean-qk: how far back the mean query looks on mean keys (as kvpress does)
 */
export const calibrationMethods = [
  'windows',
  'combined',
  'typical',
  'ablation',
  'greedy',
  'masks',
  'bosch',
  'mass',
  'kvzip',
  'mean-qk',
] as const;
export type CalibrationMethod = (typeof calibrationMethods)[number];
