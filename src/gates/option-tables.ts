import { cacheTypes, type CacheType } from '../core/cache-types.ts';
import { boolean, choice, integer, path, progress, signal, special, text, type Table } from '../core/options.ts';
import { calibrationMethods } from './calibration-methods.ts';
import type { CalibrateOptions, EmbedOptions, ReadGatesOptions } from './option-types.ts';
import { sampleKinds, type SampleKind } from './sample-kinds.ts';

/** Each has a sequence of its own in one context, and llama.cpp has no more. */
export const maxSamples = 256;

const maxWindow = 2 ** 24;
const maxWindows = 64;

export const calibrateTable = {
  method: choice(calibrationMethods, {
    type: 'CalibrationMethod',
    default: 'windows',
    doc: 'How heads are scored; docs/calibration.md compares the methods.',
    flags: ['--method'],
    value: 'M',
  }),
  contextSize: integer({
    min: 1,
    doc: 'Tokens of a sample.',
    otherwise: '2048 by method windows, else 1024; or what the windows need, at most what the model was trained for',
    flags: ['-c', '--ctx', '--ctx-size'],
    value: 'N',
    native: null,
  }),
  samples: integer({
    min: 1,
    max: maxSamples,
    doc: 'Texts to look things up in.',
    otherwise: '2, or more where the model has fewer than 72 KV heads: 180 divided by their number',
    flags: ['--samples'],
    value: 'N',
    native: null,
  }),
  questions: integer({
    min: 1,
    max: 20,
    default: 6,
    doc: 'Facts that are hidden in each sample and asked for.',
    flags: ['--questions'],
    value: 'N',
    native: null,
  }),
  kinds: special<readonly SampleKind[]>()({
    doc: 'What is asked for, in turn: numbers that go with words, passkeys, several of them in one answer, chains of variables, and the arguments of calls in code.',
    default: sampleKinds,
    type: 'readonly SampleKind[]',
    accepts: (value) =>
      Array.isArray(value) &&
      value.length > 0 &&
      new Set(value).size === value.length &&
      value.every((kind) => sampleKinds.includes(kind as SampleKind)),
    expected: `an array of different kinds: of ${sampleKinds.join(', ')}`,
    flags: ['--sample-kinds'],
    value: 'K,K,...',
    native: null,
  }),
  chat: boolean({
    doc: "Put samples into the model's chat template: the text and the first question are the user's turn, each answer is the assistant's.",
    otherwise: 'where the model has a template that shows messages as they are',
    flags: ['--chat'],
    native: null,
  }),
  seed: integer({
    min: 0,
    max: 2 ** 32 - 1,
    default: 1,
    doc: 'The same seed gives the same samples.',
    flags: ['-s', '--seed'],
    value: 'N',
  }),
  text: text({ doc: 'A running text to hide facts in.', otherwise: 'it is made up', native: null }),
  sink: integer({
    min: 0,
    max: maxWindow,
    default: 64,
    doc: 'First tokens that a streaming head will see.',
    flags: ['--duo-sink'],
    value: 'N',
  }),
  recent: integer({
    min: 0,
    max: maxWindow,
    default: 256,
    doc: 'Recent tokens that a streaming head will see; by method windows the only number that is measured.',
    flags: ['--duo-recent'],
    value: 'N',
  }),
  windows: special<readonly number[]>()({
    doc: 'Method windows: the numbers of recent tokens that are measured, rising. Samples are at least twice as long as the largest.',
    otherwise: 'recent where it is given, else 256, 1024, 4096 and so on, up to half of a sample',
    type: 'readonly number[]',
    accepts: (value) =>
      Array.isArray(value) &&
      value.length > 0 &&
      value.length <= maxWindows &&
      value.every(
        (window: unknown, i) =>
          Number.isInteger(window) && (window as number) > (i === 0 ? 0 : (value[i - 1] as number)) && (window as number) <= maxWindow,
      ),
    expected: `an array of 1 to ${maxWindows} rising integers`,
    flags: ['--windows'],
    value: 'N,N,...',
  }),
  cacheTypes: special<readonly CacheType[]>()({
    doc: 'Method windows: the cache types whose rows are measured, beside f16.',
    default: ['q8_0', 'q4_0'],
    type: 'readonly CacheType[]',
    accepts: (value) =>
      Array.isArray(value) &&
      new Set(value).size === value.length &&
      value.every((type) => type !== 'f16' && cacheTypes.includes(type as CacheType)),
    expected: `an array of different types: of ${cacheTypes.filter((type) => type !== 'f16').join(', ')}`,
    flags: ['--cache-types'],
    value: 'TYPE,...',
  }),
  strict: boolean({
    default: false,
    doc: 'Read each text anew for every measurement: exact, and slow. Otherwise it is read once, with all heads seeing everything.',
    flags: ['--strict'],
  }),
  masks: integer({
    min: 2,
    max: 2 ** 20,
    doc: 'Choices of heads that methods masks and bosch try.',
    otherwise: 'twice the number of KV heads by method masks, four times by bosch',
    flags: ['--masks'],
    value: 'N',
  }),
  threads: integer({ min: 1, max: 512, doc: 'CPU threads.', otherwise: "the machine's cores", flags: ['-t', '--threads'], value: 'N' }),
  partial: path({
    doc:
      'A file for measurements as they come. A later call with the same options goes on from it, and several calls may share it. A file with measurements of other ' +
      'options is refused and left as it is. The caller removes it.',
    otherwise: 'none',
  }),
  onProgress: progress('Gets a number that grows from 0 to 1.'),
  signal: signal('Stops the work; the promise rejects with `signal.reason`.'),
} satisfies Table<CalibrateOptions>;

export const readGatesTable = {
  signal: signal('Stops the reading; the promise rejects with `signal.reason`.'),
  library: text({
    doc: 'The path of the native library.',
    otherwise: 'LLAMA_DUO_LIBRARY, else the installed package, else the local build',
    native: null,
  }),
} satisfies Table<ReadGatesOptions>;

export const embedTable = {
  onProgress: progress('Gets a number that grows from 0 to 1.'),
  signal: signal('Stops the copying; nothing is left of the copy.'),
} satisfies Table<EmbedOptions>;
