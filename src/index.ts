// Symbol.asyncDispose, for those whose own lib is older.
/// <reference lib="esnext.disposable" preserve="true" />
export { loadModel, type Model } from './gates/model.ts';
export type { CoreModel, ModelInfo } from './core/model.ts';

export { cacheTypes, type CacheType } from './core/cache-types.ts';
export type { Context, ContextEstimate, ContextInfo, ContextPlan, ContextWarning, DeviceMemory, MemoryReport } from './core/context.ts';

export type { Generation, GenerationChunk, GenerationResult } from './core/generation.ts';

export type { Score } from './core/score.ts';

export type {
  ContextOptions,
  DetokenizeOptions,
  DuoOptions,
  GenerateOptions,
  LoadModelOptions,
  ModelOptions,
  PlanOptions,
  SamplingOptions,
  ScoreOptions,
  TokenizeOptions,
} from './core/option-types.ts';

export type { Calibration } from './gates/calibrate.ts';
export { calibrationMethods, type CalibrationMethod } from './gates/calibration-methods.ts';

export type { GatePatternJson, GatePatternLike, Gates, HeadChoice, WindowLosses } from './core/duo.ts';
export { parseGates, readGates } from './gates/read.ts';
export type { PatternComparison } from './gates/compare.ts';
export type { GatePattern, HeadSelection } from './gates/pattern.ts';
export type { CalibrateOptions, EmbedOptions, ReadGatesOptions } from './gates/option-types.ts';

export { buildInfo, type BuildInfo } from './core/build-info.ts';
export { logLevels, setLog, type LogLevel, type LogLine } from './core/log.ts';

export {
  AbiError,
  CancelledError,
  ContextError,
  ContextFullError,
  DecodeError,
  DisposedError,
  DownloadError,
  GatesError,
  GatesShapeError,
  GrammarError,
  LibraryError,
  LimitError,
  LlamaDuoError,
  MemoryError,
  ModelError,
  OptionError,
  OutputError,
  StateError,
  TemplateError,
  UnsupportedError,
  errorCodes,
  type ErrorCode,
} from './errors.ts';
