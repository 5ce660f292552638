import { cacheTypes } from './cache-types.ts';
import {
  boolean,
  choice,
  filePath,
  floatMaximum,
  integer,
  isObject,
  number,
  progress,
  signal,
  special,
  text,
  texts,
  without,
  type Table,
} from './options.ts';
import type {
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
} from './option-types.ts';
import { budgetNumber } from './budget.ts';
import type { Gates, HeadChoice } from './duo.ts';
import type { CoreModel } from './model.ts';
import { isLora, type Lora, type ScaledLora } from './lora.ts';
import { samplers, type LogitBias, type Sampler } from './sampling.ts';
import { isSchema, type Schema } from './schema.ts';
import { isMessage, type Message } from './message.ts';
import { isTool, type Tool } from './tool.ts';

// What a user can say, a table a concept. `npm run generate` writes option-types.ts, docs/options.md and cpp/test/options.json from these and those of src/gates. The library checks the
// same again, for callers of other languages: test/native/options.test.ts and cpp/test/test-options.cpp compare what the two say.

const maxContextSize = 2 ** 31 - 256; // so that it can be rounded up
const maxThreads = 512;
const maxSequences = 256;
const maxDevices = 16;

const library = text({
  doc: 'The path of the native library.',
  otherwise: 'LLAMA_DUO_LIBRARY, else the installed package, else the local build',
  native: null,
});

export const fetchTable = {
  file: text({
    doc: 'A file of the repository, instead of a quantisation behind its name.',
    flags: ['-hff', '--hf-file'],
    value: 'FILE',
  }),
  token: text({ doc: 'Opens repositories that are not public.', otherwise: 'HF_TOKEN', flags: ['-hft', '--hf-token'], value: 'TOKEN' }),
  offline: boolean({ default: false, doc: 'Take only what was loaded before.', flags: ['--offline'] }),
  onProgress: progress('Gets a number that grows from 0 to 1.'),
  signal: signal(
    'Stops the work; the promise rejects with `signal.reason`. What was downloaded is kept, and the next time goes on from there.',
  ),
  library,
} satisfies Table<FetchOptions>;

/** What llama.cpp's `--override-kv` takes. */
type Metadata = Readonly<Record<string, boolean | number | string>>;

export const modelTable = {
  gpuLayers: integer({
    min: -1,
    doc: 'Layers on the GPU, -1 for all.',
    otherwise: 'all',
    flags: ['-ngl', '--gpu-layers', '--n-gpu-layers'],
    value: 'N',
  }),
  devices: special<readonly string[]>()({
    doc: 'The devices that layers go to, by the names that `devices()` has; none for the CPU alone.',
    otherwise: 'all',
    type: 'readonly string[]',
    accepts: (value) => Array.isArray(value) && value.every((name) => typeof name === 'string'),
    expected: 'an array of names of devices, empty for the CPU alone',
    flags: ['-dev', '--device'],
    value: 'NAMES',
  }),
  splitMode: choice(['none', 'layer', 'row', 'tensor'], {
    default: 'layer',
    doc: 'How a model is split among several devices.',
    flags: ['-sm', '--split-mode'],
    value: 'HOW',
  }),
  mainGpu: integer({ min: 0, default: 0, doc: 'The device of a model that is not split.', flags: ['-mg', '--main-gpu'], value: 'N' }),
  tensorSplit: special<readonly number[]>()({
    doc: 'What share of the model each device takes.',
    otherwise: 'by their free memory',
    type: 'readonly number[]',
    accepts: (value) =>
      Array.isArray(value) &&
      value.length <= maxDevices &&
      value.every((share) => Number.isFinite(share) && (share as number) >= 0) &&
      value.some((share) => (share as number) > 0),
    expected: `an array of at most ${maxDevices} shares, each a number of at least 0 and one of them above it`,
    flags: ['-ts', '--tensor-split'],
    value: 'SHARES',
  }),
  overrides: special<Metadata>()({
    doc: "Metadata in the place of the file's: `{ 'llama.context_length': 65536 }`.",
    type: 'Readonly<Record<string, boolean | number | string>>',
    accepts: isObject,
    expected: 'an object',
    form: { type: 'object' },
  }),
  useMmap: boolean({ default: true, doc: 'Map the file into memory instead of reading it.' }),
  useMlock: boolean({ default: false, doc: 'Keep the weights in memory, whatever else wants it.', flags: ['--mlock'] }),
  checkTensors: boolean({ default: false, doc: 'Refuse a model with weights that are no numbers.', flags: ['--check-tensors'] }),
  vocabOnly: boolean({ default: false, doc: 'Load the vocabulary only: enough to tokenize.' }),
  weights: boolean({
    default: true,
    doc: 'Load the weights. Without them a model tells what it is, tokenizes and plans contexts, and takes memory for its vocabulary only.',
  }),
} satisfies Table<WeightOptions>;

/** All that loadModel takes. */
export const loadModelTable = {
  ...modelTable,
  ...fetchTable,
  onProgress: special<(progress: number, phase: 'download' | 'load') => void>()({
    doc: 'Gets a number that grows from 0 to 1, in each phase.',
    type: "(progress: number, phase: 'download' | 'load') => void",
    accepts: (value) => typeof value === 'function',
    expected: 'a function',
    native: null,
  }),
} satisfies Table<ModelOptions>;

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
  budget: special<number | string>()({
    doc:
      "Instead of both: what the cache of all sequences may take. A share of the bytes of a full f16 cache, such as 0.3; or bytes, such as 2 ** 30 or '4GiB'. Heads, " +
      'windows and, where both are f16, cache types are those that lose least by what calibration has measured. With `recent`, or gates without losses: the ' +
      'heads with the lowest gates stream, no more of them than have to, and types stay.',
    type: 'number | string',
    accepts: (value) => budgetNumber(value) !== undefined,
    expected: "a share of a full f16 cache, such as 0.3, or a size, such as '4GiB'",
    flags: ['--duo-budget'],
    value: 'SIZE',
    form: { type: 'number', min: 1e-6, max: Number.MAX_SAFE_INTEGER },
  }),
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

const loras = special<Lora | ScaledLora | readonly (Lora | ScaledLora)[]>()({
  doc: 'LoRA adapters of the model, which `model.loadLora()` gives. Each alone, or with the scale of its part: `{ lora, scale: 0.5 }`.',
  otherwise: 'none',
  type: 'Lora | ScaledLora | readonly (Lora | ScaledLora)[]',
  accepts: (value) => [value].flat().every(isLora),
  expected: 'LoRA adapters, or objects of a lora and its scale',
});

/** What drafts tokens, for the model to verify several at once. */
export const speculativeTable = {
  draft: special<CoreModel>()({
    doc: 'A small model of the same vocabulary, which drafts. It gets a context of its own, with full heads.',
    otherwise: 'none',
    type: 'CoreModel',
    accepts: (value) => isObject(value) && isObject(value['info']) && typeof value['tokenize'] === 'function',
    expected: 'a model',
  }),
  lookup: boolean({
    default: false,
    doc: 'Draft what followed in the text where its last tokens stood before; the draft model is asked where they did not.',
  }),
  maxTokens: integer({
    min: 1,
    max: 1024,
    doc: 'Tokens of a draft.',
    otherwise: "3 of a draft model's, 48 that were looked up",
    flags: ['--draft', '--draft-n', '--draft-max'],
    value: 'N',
  }),
  minProbability: number({
    min: 0,
    max: 1,
    default: 0,
    doc: "A draft model's drafts end before a token that is less likely to it.",
    flags: ['--draft-p-min'],
    value: 'P',
  }),
  ngramSize: integer({ min: 1, max: 1024, default: 12, doc: 'How many of the last tokens are looked up.' }),
  typeK: choice(cacheTypes, { type: 'CacheType', default: 'f16', doc: "Type of the K rows of the draft model's cache." }),
  typeV: choice(cacheTypes, { type: 'CacheType', default: 'f16', doc: 'Type of its V rows.' }),
  threads: integer({ min: 1, max: maxThreads, doc: "CPU threads for the draft model's tokens.", otherwise: "the context's" }),
  threadsBatch: integer({ min: 1, max: maxThreads, doc: 'The same while it reads a prompt.', otherwise: "the context's" }),
} satisfies Table<SpeculativeOptions>;

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
  sequences: integer({
    min: 1,
    max: maxSequences,
    default: 1,
    doc: 'Sequences, each with a cache of its own: as many generations are computed together.',
    flags: ['-np', '--parallel'],
    value: 'N',
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
  duo: special<DuoOptions | 'auto'>()({
    doc: "Mixed heads. 'auto', or {}, takes the model's own gates and half of the heads.",
    otherwise: "none, llama.cpp's own cache",
    type: "DuoOptions | 'auto'",
    accepts: (value) => value === 'auto' || isObject(value),
    expected: '"auto" or an object',
    form: { type: 'object' },
  }),
  loras,
  speculative: special<SpeculativeOptions | 'lookup'>()({
    doc:
      "Speculative decoding: the same text, sooner where drafts are often right. 'lookup' drafts what followed in the text before, which costs nothing; a draft model is for " +
      'machines on which several tokens take little longer than one.',
    otherwise: 'none',
    type: "SpeculativeOptions | 'lookup'",
    accepts: (value) => value === 'lookup' || isObject(value),
    expected: '"lookup" or an object',
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
  typicalP: number({
    min: 0,
    max: 1,
    default: 1,
    doc: 'Locally typical sampling, 1 for none.',
    flags: ['--typical', '--typical-p'],
    value: 'P',
  }),
  topNSigma: number({
    min: -1,
    default: -1,
    doc: 'Leave out tokens whose logit is this many standard deviations below the largest; 0 or less for none.',
    flags: ['--top-nsigma', '--top-n-sigma'],
    value: 'N',
  }),
  minKeep: integer({ min: 0, default: 0, doc: 'Tokens that each of these samplers leaves at least.' }),
  xtcProbability: number({
    min: 0,
    max: 1,
    default: 0,
    doc: 'How often the likeliest tokens are left out, but for the least of them (XTC).',
    flags: ['--xtc-probability'],
    value: 'P',
  }),
  xtcThreshold: number({
    min: 0,
    max: 1,
    default: 0.1,
    doc: 'How likely a token must be for that.',
    flags: ['--xtc-threshold'],
    value: 'P',
  }),
  dynamicTemperatureRange: number({
    min: 0,
    default: 0,
    doc: 'The temperature is up to this much above or below, by how sure the model is; 0 for none.',
    flags: ['--dynatemp-range'],
    value: 'T',
  }),
  dynamicTemperatureExponent: number({ min: 0, default: 1, doc: 'How fast it follows that.', flags: ['--dynatemp-exp'], value: 'N' }),
  repeatPenalty: number({
    min: 0.001,
    max: 1000,
    default: 1,
    doc: 'Above 1 makes tokens less likely that occur in the last `repeatLastN`; 1 does nothing.',
    flags: ['--repeat-penalty'],
    value: 'N',
  }),
  repeatLastN: integer({
    min: -1,
    default: 64,
    doc: "Tokens that penalties look back on, -1 for the context's size.",
    flags: ['--repeat-last-n'],
    value: 'N',
  }),
  frequencyPenalty: number({
    default: 0,
    doc: 'Taken off the logit of a token, as often as it occurs there.',
    flags: ['--frequency-penalty'],
    value: 'N',
  }),
  presencePenalty: number({
    default: 0,
    doc: 'Taken off the logit of a token that occurs there, once.',
    flags: ['--presence-penalty'],
    value: 'N',
  }),
  dryMultiplier: number({
    min: 0,
    default: 0,
    doc: 'Makes tokens less likely that would go on with a repetition (DRY); 0 for none.',
    flags: ['--dry-multiplier'],
    value: 'N',
  }),
  dryBase: number({
    min: 0,
    default: 1.75,
    doc: 'That grows by this factor with each token of the repetition.',
    flags: ['--dry-base'],
    value: 'N',
  }),
  dryAllowedLength: integer({
    min: 0,
    default: 2,
    doc: 'Repetitions up to this many tokens are let be.',
    flags: ['--dry-allowed-length'],
    value: 'N',
  }),
  dryLastN: integer({
    min: -1,
    default: 64,
    doc: "Tokens that DRY looks back on, -1 for the context's size.",
    flags: ['--dry-penalty-last-n'],
    value: 'N',
  }),
  drySequenceBreakers: texts({ doc: 'Texts that no repetition goes across.', otherwise: 'line break, colon, quote and asterisk' }),
  mirostat: integer({
    min: 0,
    max: 2,
    default: 0,
    doc: 'Mirostat of version 1 or 2 in the place of the samplers; 0 for none.',
    flags: ['--mirostat'],
    value: 'N',
  }),
  mirostatTau: number({ min: 0, default: 5, doc: 'The surprise that Mirostat aims at.', flags: ['--mirostat-ent'], value: 'N' }),
  mirostatEta: number({ min: 0, default: 0.1, doc: 'How fast Mirostat learns.', flags: ['--mirostat-lr'], value: 'N' }),
  adaptiveTarget: number({
    min: -1,
    max: 1,
    default: -1,
    doc: 'The probability that sampler adaptive_p aims at; below 0 for none.',
    flags: ['--adaptive-target'],
    value: 'P',
  }),
  adaptiveDecay: number({
    min: 0,
    max: 0.99,
    default: 0.9,
    doc: 'How long adaptive_p remembers.',
    flags: ['--adaptive-decay'],
    value: 'N',
  }),
  samplers: special<readonly Sampler[]>()({
    doc: 'Which samplers, in which order.',
    otherwise: 'penalties, dry, top_n_sigma, top_k, typ_p, top_p, min_p, xtc, temperature',
    type: 'readonly Sampler[]',
    accepts: (value) => Array.isArray(value) && value.every((name) => samplers.includes(name as Sampler)),
    expected: `an array of names out of ${samplers.join(', ')}`,
  }),
  logitBias: special<LogitBias>()({
    doc: 'Added to the logits of tokens, which are named by their ids or by a text, for each of its tokens; `false` for never. A Map, or pairs.',
    otherwise: 'none',
    type: 'LogitBias',
    accepts: (value) =>
      (value instanceof Map || Array.isArray(value)) &&
      [...value].every(
        (entry) =>
          Array.isArray(entry) &&
          entry.length === 2 &&
          (typeof entry[0] === 'string' || (Number.isInteger(entry[0]) && entry[0] >= 0)) &&
          (entry[1] === false || (Number.isFinite(entry[1]) && Math.abs(entry[1] as number) <= floatMaximum)),
      ),
    expected: 'an array of [token id or text, finite number or false for never]',
  }),
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
    flags: ['--grammar'],
    value: 'GBNF',
  }),
  schema: special<Schema>()({
    doc:
      'The text is JSON of this schema, which `value()` gives: a JSON schema, or a schema of zod, ArkType, or Valibot (with its toStandardJsonSchema). Once that is complete the ' +
      'text ends.',
    type: 'Schema',
    accepts: isSchema,
    expected:
      'a JSON schema, or a schema that can tell its JSON schema: of zod from 4.2, ArkType from 2.1.28, or Valibot by toStandardJsonSchema',
    native: null,
  }),
  choices: special<readonly string[]>()({
    doc: 'The text is one of these.',
    type: 'readonly string[]',
    accepts: (value) => Array.isArray(value) && value.length > 0 && value.every((text) => typeof text === 'string' && text !== ''),
    expected: 'an array of at least one text, none of them empty',
    native: null,
  }),
} satisfies Table<SamplingOptions>;

export const generateTable = {
  ...samplingTable,
  maxTokens: integer({
    min: -1,
    default: -1,
    doc: 'Tokens to generate at most, -1 for as many as the context holds. Where a chat runs tools, in each of its rounds.',
    flags: ['-n', '--predict', '--n-predict'],
    value: 'N',
  }),
  n: integer({
    min: 1,
    doc: "Texts to generate of one prompt, each in a sequence of its own, of which the context must have as many. Seeds of the others follow the first's.",
    otherwise: '1',
  }),
  logProbabilities: integer({
    min: 0,
    doc: "Give the log-probability of each token, and this many of the likeliest tokens with theirs: the model's own, before samplers change them.",
    otherwise: 'none are given',
    native: 'logProbs',
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
  addSpecial: boolean({
    doc: 'Add BOS and EOS to a prompt that is text, as the model wants them.',
    otherwise: 'true; of a sequence, which may have begun, false',
  }),
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
  addSpecial: boolean({ default: true, doc: 'Add BOS and EOS to a text as the model wants them.' }),
  parseSpecial: boolean({ default: false, doc: 'Read the names of special tokens in a text as those tokens, as for a prompt.' }),
  onProgress: progress('Gets a number that grows from 0 to 1.'),
  signal: signal('Ends the work; the promise rejects with `signal.reason`.'),
} satisfies Table<ScoreOptions>;

/** Of what a sequence appends. */
export const appendTable = {
  addSpecial: boolean({ default: false, doc: 'Add BOS and EOS to a text as the model wants them: for the first that a sequence gets.' }),
  parseSpecial: scoreTable.parseSpecial,
  onProgress: scoreTable.onProgress,
  signal: scoreTable.signal,
} satisfies Table<AppendOptions>;

export const infillTable = {
  ...without(generateTable, 'addSpecial', 'parseSpecial'),
} satisfies Table<InfillOptions>;

export const chatTemplateTable = {
  tools: special<readonly Tool[]>()({
    doc: 'What the model may call. `tool()` makes them.',
    otherwise: 'none',
    type: 'readonly Tool[]',
    accepts: (value) => Array.isArray(value) && value.every(isTool),
    expected: 'an array of tools, each with a name and, if any, a description, a schema of its parameters and a function that runs it',
    native: null,
  }),
  toolChoice: choice(['auto', 'none', 'required'], { default: 'auto', doc: 'Whether the model may, must not or must call one.' }),
  parallelToolCalls: boolean({ default: false, doc: 'Whether it may call several at once.' }),
  thinking: boolean({ default: true, doc: 'Whether the model reasons before it answers, where its template knows of that.' }),
  reasoningBudget: integer({
    min: -1,
    default: -1,
    doc: 'Tokens of reasoning at most, -1 for as many as it wants.',
    flags: ['--reasoning-budget'],
    value: 'N',
  }),
  template: text({ doc: 'A Jinja template.', otherwise: "the model's own" }),
  variables: special<Readonly<Record<string, unknown>>>()({
    doc: 'What the template gets besides.',
    type: 'Readonly<Record<string, unknown>>',
    accepts: isObject,
    expected: 'an object',
    form: { type: 'object' },
  }),
  now: special<Date>()({
    doc: 'The time that templates tell.',
    otherwise: 'now',
    type: 'Date',
    accepts: (value) => value instanceof Date && value.getTime() >= 0 && value.getTime() <= 9.2e12,
    expected: 'a date from 1970 to 2261',
    native: null,
  }),
} satisfies Table<ChatTemplateOptions>;

export const chatPromptTable = {
  ...chatTemplateTable,
  addAssistant: boolean({ default: true, doc: "Whether the prompt ends with the beginning of the assistant's turn." }),
  signal: signal('Stops the work; the promise rejects with `signal.reason`.'),
} satisfies Table<ChatPromptOptions>;

export const chatTable = {
  system: text({ doc: 'What the model is told first.', otherwise: 'nothing', native: null }),
  messages: special<readonly Message[]>()({
    doc: 'What was said before.',
    otherwise: 'nothing',
    type: 'readonly Message[]',
    accepts: (value) => Array.isArray(value) && value.every(isMessage),
    expected: 'an array of messages',
    native: null,
  }),
  maxToolRounds: integer({
    min: 0,
    default: 10,
    doc: 'How often in one answer tools are run at most. Calls beyond that are left to the caller.',
    native: null,
  }),
  ...chatTemplateTable,
} satisfies Table<ChatOptions>;

export const sendTable = {
  // A template has ends of its own, what it makes is parsed, and an answer is one.
  ...without(generateTable, 'addSpecial', 'parseSpecial', 'n', 'ignoreEos', 'specialTokens', 'logProbabilities'),
  toolChoice: { ...chatTemplateTable.toolChoice, native: null, otherwise: "the chat's" },
} satisfies Table<SendOptions>;

export const embedderTable = {
  pooling: choice(['model', 'mean', 'cls', 'last', 'rank'], {
    default: 'model',
    doc: 'How the numbers of tokens become those of a text; model: as it says, else mean.',
    flags: ['--pooling'],
    value: 'HOW',
  }),
  contextSize: integer({
    min: 1,
    max: 2 ** 24,
    doc: 'Tokens of a text at most.',
    otherwise: 'what the model was trained for, at most 2048',
    flags: ['-c', '--ctx-size'],
    value: 'N',
  }),
  sequences: integer({
    min: 1,
    max: maxSequences,
    default: 16,
    doc: 'Texts that are computed at once.',
    flags: ['-np', '--parallel'],
    value: 'N',
  }),
  threads: integer({
    min: 1,
    max: maxThreads,
    doc: 'CPU threads.',
    otherwise: "the machine's cores",
    flags: ['-t', '--threads'],
    value: 'N',
  }),
  signal: signal('Stops the creation; the promise rejects with `signal.reason`.'),
} satisfies Table<EmbedderOptions>;
