// Symbol.asyncDispose, for those whose own lib is older.
/// <reference lib="esnext.disposable" preserve="true" />
export { loadModel, type Model } from './gates/model.ts';
export type { CoreModel, DetokenizeOptions, LoadModelOptions, ModelInfo, ModelOptions, TokenizeOptions } from './core/model.ts';

export type {
  CacheType,
  Context,
  ContextInfo,
  ContextOptions,
  ContextPlan,
  ContextWarning,
  MemoryReport,
  PlanOptions,
} from './core/context.ts';

export type { GenerateOptions, Generation, GenerationChunk, GenerationResult, SamplingOptions } from './core/generation.ts';

export type { Score, ScoreOptions } from './core/score.ts';

export type { CalibrateOptions, Calibration, CalibrationMethod } from './gates/calibrate.ts';

export type { DuoOptions, GatePatternJson, GatePatternLike, HeadChoice } from './core/duo.ts';

export { readGates, type GatesText, type ReadGatesOptions } from './gates/read.ts';
export type { EmbedOptions, GatePattern, HeadSelection } from './gates/pattern.ts';

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
