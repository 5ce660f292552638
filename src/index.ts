// Symbol.asyncDispose, for those whose own lib is older.
/// <reference lib="esnext.disposable" preserve="true" />
export { loadModel, type Model } from './gates/model.ts';
export type { CoreModel, ModelInfo } from './core/model.ts';

export { fetchModel } from './core/fetch.ts';
export { devices, type Device, type DeviceMemory } from './core/devices.ts';

export { cacheTypes, type CacheType } from './core/cache-types.ts';
export type { Context, ContextEstimate, ContextInfo, ContextPlan, ContextWarning, MemoryReport } from './core/context.ts';

export type { Completion, Generation, GenerationChunk, GenerationResult, TokenProbability } from './core/generation.ts';
export type { Gap, InfillFile, InfillTokens } from './core/infill.ts';
export { samplers, type LogitBias, type Sampler } from './core/sampling.ts';
export type { Infer, JsonSchema, Schema, StandardSchema, WithSchema } from './core/schema.ts';

export type { Chat } from './core/chat.ts';
export type { ChatPrompt } from './core/chat-prompt.ts';
export type { Reply, ReplyChunk, ReplyResult } from './core/reply.ts';
export type { AssistantMessage, Message, SystemMessage, ToolCall, ToolMessage, UserMessage } from './core/message.ts';
export { tool, type Tool, type ToolContext } from './core/tool.ts';

export type { Score } from './core/score.ts';
export type { Sequence } from './core/sequence.ts';
export type { Tokens } from './core/tokens.ts';

export type { Embedder, EmbedderInfo, Ranked } from './core/embedder.ts';
export type { Lora, LoraInfo, ScaledLora } from './core/lora.ts';

export type {
  AppendOptions,
  ChatOptions,
  ChatPromptOptions,
  ChatTemplateOptions,
  ContextOptions,
  DetokenizeOptions,
  DuoOptions,
  EmbedderOptions,
  FetchOptions,
  GenerateOptions,
  InfillOptions,
  ModelOptions,
  PlanOptions,
  SamplingOptions,
  ScoreOptions,
  SendOptions,
  SpeculativeOptions,
  TokenizeOptions,
  WeightOptions,
} from './core/option-types.ts';

export type { Calibration } from './gates/calibrate.ts';
export { calibrationMethods, type CalibrationMethod } from './gates/calibration-methods.ts';
export { sampleKinds, type SampleKind } from './gates/sample-kinds.ts';

export type {
  CacheTypeLoss,
  CacheTypeLosses,
  FinerLayers,
  GatePatternJson,
  GatePatternLike,
  Gates,
  HeadChoice,
  WindowLosses,
} from './core/duo.ts';
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
  SchemaError,
  StateError,
  TemplateError,
  UnsupportedError,
  errorCodes,
  type ErrorCode,
  type SchemaIssue,
} from './errors.ts';
