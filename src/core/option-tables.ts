import { cacheTypes } from './cache-types.ts';
import { boolean, choice, filePath, integer, number, path, progress, signal, special, text, type Table } from './options.ts';
import type {
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
} from './option-types.ts';
import type { Gates, HeadChoice } from './duo.ts';

// What a user can say, a table a concept. `npm run generate` writes option-types.ts, docs/options.md and cpp/test/options.json from these and those of src/gates. The library checks the
// same again, for callers of other languages: test/native/options.test.ts and cpp/test/test-options.cpp compare what the two say.

export const modelTable = {
  path: path({
    doc: 'The GGUF model. Of a split model the first part. Relative to the folder that the process is in now.',
    flags: ['-m', '--model'],
    value: 'FILE',
  }),
  gpuLayers: integer({
    min: -1,
    doc: 'Layers on the GPU, -1 for all.',
    otherwise: 'all',
    flags: ['-ngl', '--gpu-layers', '--n-gpu-layers'],
    value: 'N',
  }),
  useMmap: boolean({ default: true, doc: 'Map the file into memory instead of reading it.' }),
  vocabOnly: boolean({ default: false, doc: 'Load the vocabulary only: enough to tokenize.' }),
  weights: boolean({
    default: true,
    doc: 'Load the weights. Without them a model tells what it is, tokenizes and plans contexts, and takes memory for its vocabulary only.',
  }),
} satisfies Table<ModelOptions>;

export const loadModelTable = {
  onProgress: progress('Gets a number that grows from 0 to 1.'),
  signal: signal('Stops the loading; the promise rejects with `signal.reason`.'),
  library: text({ doc: 'The path of the native library.', otherwise: 'LLAMA_DUO_LIBRARY, else the local build', native: null }),
} satisfies Table<LoadModelOptions>;

export const tokenizeTable = {
  addSpecial: boolean({ default: true, doc: 'Add BOS and EOS as the model wants them.' }),
  parseSpecial: boolean({ default: false, doc: 'Read `<|im_start|>` and the like as the tokens that they name.' }),
} satisfies Table<TokenizeOptions>;

export const detokenizeTable = {
  removeSpecial: boolean({ default: false, doc: 'Leave special tokens out.' }),
  renderSpecial: boolean({ default: false, doc: 'Write special tokens as their names.' }),
} satisfies Table<DetokenizeOptions>;

/** How heads are chosen. */
export const headChoiceTable = {
  sparsity: number({
    min: 0,
    max: 1,
    default: 0.5,
    doc: 'Share of KV heads that stream, those with the lowest gates first.',
    flags: ['--duo-sparsity'],
    value: 'S',
  }),
  threshold: number({
    min: 0,
    max: 1,
    doc: 'Instead of a share: a head with at least this gate keeps its whole cache.',
    flags: ['--duo-threshold'],
    value: 'T',
  }),
} satisfies Table<HeadChoice>;

export const duoTable = {
  gates: special<Gates>()({
    doc:
      "How much each head needs its whole cache. A pattern; the path or file URL of a DuoAttention folder, a TSV, JSON or GGUF file; or 'auto': the model's own, from " +
      'its metadata or `model.duo.json` beside it. Of no account at sparsity 0 (every head keeps all) and 1 (every head streams).',
    default: 'auto',
    type: 'Gates',
    accepts: (value) =>
      typeof value === 'string' || value instanceof URL
        ? filePath.accepts(value)
        : typeof value === 'object' && value !== null && !Array.isArray(value),
    expected: '"auto", a path or a gate pattern',
    flags: ['--duo-gates'],
    value: 'FILE|auto',
  }),
  ...headChoiceTable,
  sink: integer({
    min: 0,
    doc: 'First tokens that a streaming head sees.',
    otherwise: "the pattern's, else 64",
    flags: ['--duo-sink'],
    value: 'N',
  }),
  recent: integer({
    min: 0,
    doc: 'Recent tokens that a streaming head sees.',
    otherwise: "the pattern's, else 256",
    flags: ['--duo-recent'],
    value: 'N',
  }),
  windowStep: integer({
    min: 1,
    default: 1,
    doc: "A streaming head's window of recent tokens moves in steps of this many positions. So the head sees up to one less than that more.",
    flags: ['--duo-chunk'],
    value: 'N',
    native: 'chunk',
  }),
} satisfies Table<DuoOptions>;

/** A context takes memory for all of its tokens at once, and recent models are trained for 131,072 and more. */
export const defaultContextSize = 8192;

const maxContextSize = 2 ** 31 - 256; // so that it can be rounded up
const maxThreads = 512;

export const planTable = {
  contextSize: special<number | 'auto' | 'fit' | 'trained'>()({
    doc:
      "Tokens of one sequence, rounded up to a multiple of 256. 'auto': what the model was trained for, at most " +
      `${defaultContextSize}, and no more than leaves half of the free memory. 'fit': what the model was trained for, or as much as leaves a tenth of the free memory. ` +
      "'trained': as many as the model was trained for, whatever that takes. A larger context than that can be had, and warns.",
    otherwise: "'auto'",
    type: "number | 'auto' | 'fit' | 'trained'",
    accepts: (value) =>
      ['auto', 'fit', 'trained'].includes(value as string) ||
      (Number.isInteger(value) && (value as number) >= 1 && (value as number) <= maxContextSize),
    expected: `an integer from 1 to ${maxContextSize}, "auto", "fit" or "trained"`,
    flags: ['-c', '--ctx-size'],
    value: 'N',
    form: { type: 'integer', min: 0, max: maxContextSize, default: 0 },
  }),
  batchSize: integer({ min: 1, default: 2048, doc: 'Tokens submitted at once.', flags: ['-b', '--batch-size'], value: 'N' }),
  ubatchSize: integer({
    min: 1,
    default: 512,
    doc: "Tokens computed at once. More make prompts faster and streaming heads' rings wider.",
    flags: ['-ub', '--ubatch-size'],
    value: 'N',
  }),
  threads: integer({
    min: 1,
    max: maxThreads,
    doc: 'CPU threads for one token.',
    otherwise: "the machine's cores",
    flags: ['-t', '--threads'],
    value: 'N',
  }),
  threadsBatch: integer({
    min: 1,
    max: maxThreads,
    doc: 'CPU threads while a prompt is read.',
    otherwise: 'as for one token',
    flags: ['-tb', '--threads-batch'],
    value: 'N',
  }),
  typeK: choice(cacheTypes, {
    type: 'CacheType',
    default: 'f16',
    doc: "Type of the cache's K rows.",
    flags: ['-ctk', '--cache-type-k'],
    value: 'TYPE',
  }),
  typeV: choice(cacheTypes, {
    type: 'CacheType',
    default: 'f16',
    doc: "Type of the cache's V rows.",
    flags: ['-ctv', '--cache-type-v'],
    value: 'TYPE',
  }),
  flashAttention: choice(['auto', 'on', 'off'], {
    default: 'auto',
    doc: 'Whether attention is fused. Mixed heads need it not to be off.',
    flags: ['-fa', '--flash-attn'],
    value: 'WHEN',
  }),
  duo: special<DuoOptions>()({
    doc: "Mixed heads; {} takes the model's own gates and half of the heads.",
    otherwise: "none, llama.cpp's own cache",
    type: 'DuoOptions',
    accepts: (value) => typeof value === 'object' && value !== null && !Array.isArray(value),
    expected: 'an object',
    form: { type: 'object' },
  }),
} satisfies Table<PlanOptions>;

export const contextTable = {
  ...planTable,
  signal: signal('Stops the creation; the promise rejects with `signal.reason`.'),
} satisfies Table<ContextOptions>;

export const samplingTable = {
  temperature: number({
    min: 0,
    default: 0.8,
    doc: '0 is greedy: always the likeliest token.',
    flags: ['--temp', '--temperature'],
    value: 'T',
  }),
  topK: integer({ min: 0, default: 40, doc: 'Sample from the K likeliest tokens, 0 for all.', flags: ['--top-k'], value: 'K' }),
  topP: number({
    min: 0,
    max: 1,
    default: 0.95,
    doc: 'Sample from the likeliest tokens that together have this probability.',
    flags: ['--top-p'],
    value: 'P',
  }),
  minP: number({
    min: 0,
    max: 1,
    default: 0.05,
    doc: 'Leave out tokens less likely than this share of the likeliest.',
    flags: ['--min-p'],
    value: 'P',
  }),
  typicalP: number({ min: 0, max: 1, default: 1, doc: 'Locally typical sampling, 1 for none.' }),
  repeatPenalty: number({
    min: 0.001,
    max: 1000,
    default: 1,
    doc: 'Above 1 makes tokens less likely that occur in the last `repeatLastN`; 1 does nothing.',
  }),
  repeatLastN: integer({ min: -1, default: 64, doc: "Tokens that penalties look back on, -1 for the context's size." }),
  frequencyPenalty: number({ default: 0, doc: 'Taken off the logit of a token, as often as it occurs there.' }),
  presencePenalty: number({ default: 0, doc: 'Taken off the logit of a token that occurs there, once.' }),
  seed: integer({
    min: 0,
    max: 2 ** 32 - 1,
    doc: 'The same seed gives the same text.',
    otherwise: 'another each time',
    flags: ['-s', '--seed'],
    value: 'N',
  }),
  grammar: text({
    doc:
      'A GBNF grammar that the text has to follow. Its end is the end of the text, with `ignoreEos`, too. Where it allows no token before that, reading throws a ' +
      'GrammarError, which has the text so far.',
  }),
} satisfies Table<SamplingOptions>;

export const generateTable = {
  ...samplingTable,
  maxTokens: integer({
    min: -1,
    default: -1,
    doc: 'Tokens to generate at most, -1 for as many as the context holds.',
    flags: ['-n', '--predict', '--n-predict'],
    value: 'N',
  }),
  ignoreEos: boolean({ default: false, doc: 'Go on after the token that ends a text.', flags: ['--ignore-eos'] }),
  stop: special<string | readonly string[]>()({
    doc: 'Generation ends before a text that is one of these. None may be empty.',
    otherwise: 'none',
    type: 'string | readonly string[]',
    accepts: (value) => [value].flat().every((item) => typeof item === 'string' && item !== ''),
    expected: 'a non-empty string, or an array of them',
    form: { type: 'strings' },
  }),
  specialTokens: boolean({ default: false, doc: 'Write special tokens as their names.' }),
  parseSpecial: boolean({
    default: false,
    doc:
      'Read the names of special tokens in a prompt that is text, such as `<|im_start|>`, as those tokens. Only for prompts that the program has made itself: in a ' +
      "user's text they could end a turn and begin another.",
  }),
  reuse: boolean({ default: true, doc: 'Reuse what the cache holds of the prompt already.' }),
  readAhead: integer({
    min: 1,
    default: 256,
    doc: 'Tokens that may wait for the reader before the engine pauses. It does not pause where other work of the context waits.',
    native: 'window',
  }),
  onProgress: progress('Gets a number that grows from 0 to 1 while the prompt is read.'),
  signal: signal('Ends the generation; the reader gets `signal.reason` thrown.'),
} satisfies Table<GenerateOptions>;

export const scoreTable = {
  from: integer({ min: 1, default: 1, doc: 'The index of the first token that is scored: 1 for all that have a token before them.' }),
  parseSpecial: boolean({ default: false, doc: 'Read the names of special tokens in a text as those tokens, as for a prompt.' }),
  onProgress: progress('Gets a number that grows from 0 to 1.'),
  signal: signal('Ends the work; the promise rejects with `signal.reason`.'),
} satisfies Table<ScoreOptions>;
