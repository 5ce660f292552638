/** What went wrong, for programs to branch on; the message is for people. They stay as they are from version to version. docs/troubleshooting.md explains them. */
export const errorCodes = [
  'option', // a bad argument or option
  'gates', // a bad gate pattern, or one of another model
  'model', // the model cannot be loaded
  'unsupported', // the model or its cache cannot do this: mixed heads, mostly
  'context', // the context cannot be created
  'memory', // the context does not fit the memory that is free
  'download', // a model cannot be loaded from elsewhere
  'full', // the prompt or the answer does not fit the context
  'grammar', // the grammar allows no token of the model's vocabulary
  'schema', // a text is not what its schema describes
  'decode', // the engine failed while it computed
  'state', // a sequence is not, or cannot become, what is asked for
  'template', // a chat template refuses its messages
  'cancelled', // its reader left, or its context was disposed of
  'disposed', // used after it was disposed of
  'evaluation', // what is asked of an evaluation cannot be; the command line alone
  'output', // a file cannot be written
  'limit', // too many things are live at once
  'library', // the native library is missing or cannot be opened
  'abi', // the native library is another version
  'internal', // a bug in llama-duo
] as const;
export type ErrorCode = (typeof errorCodes)[number];

/** The base of every error that llama-duo throws; aborts are the exception, they reject with `signal.reason`. */
export class LlamaDuoError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** A bad argument or option: its `name`, the `value` given and what was `expected`. */
export class OptionError extends LlamaDuoError {
  /** The option, with a dot before a nested key: `duo.sparsity`. */
  readonly option: string;
  readonly value: unknown;
  readonly expected: string;

  constructor(option: string, value: unknown, expected: string, message?: string) {
    super('option', message ?? `Bad value for ${option}: expected ${expected}, got ${describe(value)}.`);
    this.option = option;
    this.value = value;
    this.expected = expected;
  }
}

/** A gate pattern that cannot be read, or does not fit the model. */
export class GatesError extends LlamaDuoError {
  constructor(message: string, options?: ErrorOptions) {
    super('gates', message, options);
  }
}

/** A gate pattern of another model. */
export class GatesShapeError extends GatesError {
  /** KV heads of each layer, of the pattern and of the model. */
  readonly patternShape: readonly number[];
  readonly modelShape: readonly number[];

  constructor(message: string, patternShape: readonly number[], modelShape: readonly number[]) {
    super(message);
    this.patternShape = patternShape;
    this.modelShape = modelShape;
  }
}

/** A model file that is missing, damaged or not understood, or a model that has not what is asked of it: no vocabulary for a text, for instance. */
export class ModelError extends LlamaDuoError {
  constructor(message: string) {
    super('model', message);
  }
}

/** The model or its cache cannot do what is asked for: have mixed heads, fill gaps, draft, copy a sequence. */
export class UnsupportedError extends LlamaDuoError {
  constructor(message: string) {
    super('unsupported', message);
  }
}

/** The context cannot be created. */
export class ContextError extends LlamaDuoError {
  constructor(message: string) {
    super('context', message);
  }
}

/** The context does not fit the memory that is free. Nothing was taken: a smaller one can be created. */
export class MemoryError extends LlamaDuoError {
  /** llama.cpp's name of the device that is short of memory. */
  readonly device: string;
  readonly neededBytes: number;
  readonly freeBytes: number;
  /** The largest `contextSize` that fits; 0 where none does. */
  readonly largestContextSize: number;

  constructor(message: string, failure: { device: string; neededBytes: number; freeBytes: number; largestContextSize: number }) {
    super('memory', message);
    this.device = failure.device;
    this.neededBytes = failure.neededBytes;
    this.freeBytes = failure.freeBytes;
    this.largestContextSize = failure.largestContextSize;
  }
}

/** A model cannot be loaded from elsewhere. */
export class DownloadError extends LlamaDuoError {
  constructor(message: string) {
    super('download', message);
  }
}

/** A sequence is not, or cannot become, what is asked for; or a saved state is of another model, pattern or version. */
export class StateError extends LlamaDuoError {
  /** The shortest length, beside 0, that the sequence can be truncated to, where that was in the way. */
  readonly resumableFrom: number | undefined;

  constructor(message: string, resumableFrom?: number) {
    super('state', message);
    this.resumableFrom = resumableFrom;
  }
}

/** A chat template refuses its messages. */
export class TemplateError extends LlamaDuoError {
  constructor(message: string) {
    super('template', message);
  }
}

/** The prompt or the answer does not fit the context. */
export class ContextFullError extends LlamaDuoError {
  constructor(message: string) {
    super('full', message);
  }
}

/** A grammar came to where it allows no token of the model's vocabulary, before its text was complete. */
export class GrammarError extends LlamaDuoError {
  /** All that was generated. */
  readonly text: string;

  constructor(message: string, text: string) {
    super('grammar', message);
    this.text = text;
  }
}

/** Where a value is not what a schema describes. */
export type SchemaIssue = {
  /** Keys with dots between them; '' for the whole value. */
  path: string;
  message: string;
};

/** A text is not what its schema describes: it was cut off, or the schema asks for what a grammar cannot say. */
export class SchemaError extends LlamaDuoError {
  /** All that was generated. */
  readonly text: string;
  readonly issues: readonly SchemaIssue[];

  constructor(message: string, text: string, issues: readonly SchemaIssue[]) {
    super('schema', message);
    this.text = text;
    this.issues = issues;
  }
}

/** The engine failed while it computed. */
export class DecodeError extends LlamaDuoError {
  constructor(message: string) {
    super('decode', message);
  }
}

/** What {@link Generation.result} rejects with where its reader left the loop, or its context was disposed. */
export class CancelledError extends LlamaDuoError {
  constructor(message: string) {
    super('cancelled', message);
  }
}

/** A model or context was used after it was disposed. */
export class DisposedError extends LlamaDuoError {
  constructor(what: string) {
    super('disposed', `This ${what} has been disposed: load or create it again.`);
  }
}

/** What is asked of an evaluation cannot be: a prompt too short for its needles, a data file that is not what it should be. */
export class EvaluationError extends LlamaDuoError {
  constructor(message: string) {
    super('evaluation', message);
  }
}

/** A file cannot be written, or must not be. */
export class OutputError extends LlamaDuoError {
  constructor(message: string, options?: ErrorOptions) {
    super('output', message, options);
  }
}

/** Too many models, contexts, sequences, adapters and pieces of work are live at once: 16,384. Dispose of those that are no longer needed. */
export class LimitError extends LlamaDuoError {
  constructor(message: string) {
    super('limit', message);
  }
}

/** The native library is missing or cannot be opened; the message lists what was tried and what to do. */
export class LibraryError extends LlamaDuoError {
  constructor(message: string, options?: ErrorOptions) {
    super('library', message, options);
  }
}

/** The native library was built from another version of llama-duo. */
export class AbiError extends LlamaDuoError {
  readonly expected: number;
  readonly found: number;

  constructor(path: string, expected: number, found: number) {
    super(
      'abi',
      `The library ${path} has ABI version ${found}, this version of llama-duo needs ${expected}: install the packages again, all of one version, or in a clone build it again with "npm run setup".`,
    );
    this.expected = expected;
    this.found = found;
  }
}

/** What a failed job says of itself. */
type JobFailure = {
  code: string;
  message: string;
  name?: string;
  value?: unknown;
  expected?: string;
  text?: string;
  patternShape?: number[];
  modelShape?: number[];
  device?: string;
  neededBytes?: number;
  freeBytes?: number;
  largestContextSize?: number;
  resumableFrom?: number;
};

const byCode: Record<string, (message: string, failure: JobFailure) => LlamaDuoError> = {
  gates: (message, { patternShape, modelShape }) =>
    patternShape && modelShape ? new GatesShapeError(message, patternShape, modelShape) : new GatesError(message),
  model: (message) => new ModelError(message),
  unsupported: (message) => new UnsupportedError(message),
  context: (message) => new ContextError(message),
  memory: (message, { device = '', neededBytes = 0, freeBytes = 0, largestContextSize = 0 }) =>
    new MemoryError(message, { device, neededBytes, freeBytes, largestContextSize }),
  download: (message) => new DownloadError(message),
  full: (message) => new ContextFullError(message),
  grammar: (message, { text }) => new GrammarError(message, text ?? ''),
  decode: (message) => new DecodeError(message),
  state: (message, { resumableFrom }) => new StateError(message, resumableFrom),
  template: (message) => new TemplateError(message),
  output: (message) => new OutputError(message),
  limit: (message) => new LimitError(message),
};

/** The typed error for a failed job's JSON. */
export function errorFromJob(json: string): LlamaDuoError {
  const failure = JSON.parse(json) as JobFailure;
  if (failure.code === 'option') {
    return new OptionError(failure.name ?? '', failure.value, failure.expected ?? '', failure.message);
  }
  return byCode[failure.code]?.(failure.message, failure) ?? new LlamaDuoError('internal', failure.message);
}

/** A value as a message shows it: short, and telling a string from a number. */
export function describe(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}...` : value);
  if (typeof value === 'function') return 'a function';
  if (value instanceof URL) return value.href;
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (typeof value === 'object' && value !== null) return 'an object';
  if (typeof value === 'bigint') return `${value}n`;
  return String(value);
}
