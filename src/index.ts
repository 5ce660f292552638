// Symbol.asyncDispose, for those whose own lib is older.
/// <reference lib="esnext.disposable" preserve="true" />
export { loadModel } from './core/model.ts';
export type { DetokenizeOptions, LoadModelOptions, Model, ModelInfo, ModelOptions, TokenizeOptions } from './core/model.ts';

export type {
  CacheType,
  Context,
  ContextInfo,
  ContextOptions,
  ContextPlan,
  ContextWarning,
  DuoOptions,
  MemoryReport,
  PlanOptions,
} from './core/context.ts';

export type { GenerateOptions, Generation, GenerationChunk, GenerationResult, SamplingOptions } from './core/generation.ts';

export type { Score, ScoreOptions } from './core/score.ts';

export type { CalibrateOptions, Calibration, CalibrationMethod } from './gates/calibrate.ts';

export { readGates } from './gates/pattern.ts';
export type { GatePattern, GatePatternJson, GatesText, HeadChoice, HeadSelection, ReadGatesOptions } from './gates/pattern.ts';

export { buildInfo, type BuildInfo } from './core/build-info.ts';
export { drainLog, type LogLine } from './core/log.ts';

export {
  AbiError,
  CancelledError,
  ContextError,
  ContextFullError,
  DecodeError,
  DisposedError,
  EvaluationError,
  GatesError,
  GrammarError,
  LibraryError,
  LlamaDuoError,
  ModelError,
  OptionError,
  UnsupportedError,
  type ErrorCode,
} from './errors.ts';
