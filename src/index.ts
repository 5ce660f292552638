// Symbol.asyncDispose, for those whose own lib is older.
/// <reference lib="esnext.disposable" preserve="true" />
export { loadModel } from './model.ts';
export type { DetokenizeOptions, LoadModelOptions, Model, ModelInfo, ModelOptions, TokenizeOptions } from './model.ts';

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
} from './context.ts';

export type { GenerateOptions, Generation, GenerationChunk, GenerationResult, SamplingOptions } from './generation.ts';

export type { Score, ScoreOptions } from './score.ts';

export type { CalibrateOptions, Calibration, CalibrationMethod } from './calibrate.ts';

export { readGates } from './gates.ts';
export type { GatePattern, GatePatternJson, GatesText, HeadChoice, HeadSelection, ReadGatesOptions, WindowLosses } from './gates.ts';

export { buildInfo, type BuildInfo } from './build-info.ts';
export { drainLog, type LogLine } from './log.ts';

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
