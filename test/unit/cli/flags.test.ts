import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

// fast-check: inputs that nobody thought of, and the smallest one that fails.
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';

import { contextFlags, duoOptions, gpuLayersOf, modelPath, modelSource, planOptions, sourceFlags } from '../../../src/cli/context-flags.ts';
import { boolean, choice, integer } from '../../../src/core/options.ts';
import { flagOf, flagsHelp, hasFlag, inFlags, parseArguments, parseFlags, UsageError } from '../../../src/cli/flags.ts';

const flags = {
  prompt: { names: ['-p', '--prompt'], kind: 'text', value: 'TEXT', help: 'the prompt' },
  count: { names: ['-n', '--predict', '--n-predict'], kind: 'integer', value: 'N', help: 'how many' },
  type: { names: ['-ctk'], kind: 'text', help: 'type' },
  temperature: { names: ['--temp'], kind: 'number', min: 0, help: 'temperature' },
  contextSize: { names: ['-c', '--ctx-size'], kind: 'integer', min: 1, max: 100, help: 'tokens' },
  duoSink: { names: ['--duo-sink'], kind: 'integer', help: 'sinks' },
  json: { names: ['--json'], kind: 'switch', help: 'json' },
} as const;

test.each([
  [['-p', 'text'], { prompt: 'text' }],
  [['--prompt', 'text'], { prompt: 'text' }],
  [['--prompt=a=b'], { prompt: 'a=b' }],
  [['-p', ''], { prompt: '' }],
  [['-p', '-dash first'], { prompt: '-dash first' }],
  [['-p', '--unknown'], { prompt: '--unknown' }],
  [['-p', '12'], { prompt: '12' }],
  // Any value is a value, as in llama.cpp.
  [['-p', '--help'], { prompt: '--help' }],
  [['-p', '--temp'], { prompt: '--temp' }],
  [['-p', '--json'], { prompt: '--json' }],
  [['-p', '--a_b'], { prompt: '--a_b' }],
  [['-p', '--', '-n', '1'], { prompt: '--', count: 1 }],
  [['-p', '-p', '-p', '-n'], { prompt: '-n' }],
  [['--prompt=--json'], { prompt: '--json' }],
  [['--prompt='], { prompt: '' }],
  [['-p', 'two\nlines "quoted"'], { prompt: 'two\nlines "quoted"' }],
  [['-n', '-1'], { count: -1 }],
  [['--n-predict', '8'], { count: 8 }],
  [['--n_predict', '8'], { count: 8 }],
  [['-n', '1', '-n', '2'], { count: 2 }],
  [['-n', '1', '--n-predict', '2', '--predict', '3'], { count: 3 }],
  [['--n-predict', '2', '-n', '1'], { count: 1 }],
  [['-ctk', 'q8_0'], { type: 'q8_0' }],
  [['--temp', '0'], { temperature: 0 }],
  [['--temp', '1e-1'], { temperature: 0.1 }],
  [['--json', '-n', '3'], { json: true, count: 3 }],
  [[], {}],
])('%j', (args, expected) => {
  const given = Object.fromEntries(Object.entries(parseFlags(args, flags)).filter(([, value]) => value !== undefined));
  expect(given).toEqual(expected);
});

test.each([
  [['--tmep', '0'], 'Unknown flag --tmep. Did you mean --temp?'],
  [['--frobnicate'], 'Unknown flag --frobnicate.'],
  [['-ctkk', 'f16'], 'Unknown flag -ctkk. Did you mean -ctk?'],
  [['hello'], 'Unexpected argument "hello": give a prompt with -p.'],
  [['-n'], '-n needs a value (N).'],
  [['-n', 'three'], '-n needs an integer, got "three".'],
  [['-n', '1.5'], '-n needs an integer, got "1.5".'],
  [['-n', ''], '-n needs an integer, got "".'],
  [['--temp', 'NaN'], '--temp needs a number of at least 0, got "NaN".'],
  [['--temp', '-1'], '--temp needs a number of at least 0, got "-1".'],
  [['-c', '101'], '-c needs an integer from 1 to 100, got "101".'],
  [['-n', '--json'], '-n needs an integer, got "--json".'],
  [['-p', 'x', '-n'], '-n needs a value (N).'],
  [['--json=yes'], '--json takes no value, got "yes".'],
])('%j is wrong', (args, message) => {
  expect(() => parseFlags(args, flags)).toThrow(UsageError);
  expect(() => parseFlags(args, flags)).toThrow(message);
});

// Whatever is given in whatever spelling is what comes back: a value may be any text, and the last of several counts.
test('every command line says what it was made of', () => {
  const value = fc.oneof(
    fc.string(),
    fc.constantFrom('--help', '-h', '--version', '--', '-', '-p', '--json', '--n_predict', '--temp=1', '=', '-1', '0x10', '\n'),
  );
  const part = fc.oneof(
    fc.record({ key: fc.constant('prompt'), name: fc.constantFrom('-p', '--prompt'), value }),
    fc.record({ key: fc.constant('type'), name: fc.constant('-ctk'), value }),
    fc.record({ key: fc.constant('count'), name: fc.constantFrom('-n', '--predict', '--n-predict', '--n_predict'), value: fc.integer() }),
    fc.record({
      key: fc.constant('temperature'),
      name: fc.constant('--temp'),
      value: fc.double({ min: 0, noNaN: true, noDefaultInfinity: true }),
    }),
    fc.record({ key: fc.constant('json'), name: fc.constant('--json'), value: fc.constant(true) }),
  );
  fc.assert(
    fc.property(fc.array(fc.tuple(part, fc.boolean())), (parts) => {
      const args = parts.flatMap(([{ name, value }, attached]) => {
        if (value === true) return [name];
        return attached ? [`${name}=${value}`] : [name, String(value)];
      });
      const { given, others } = parseArguments(args, flags);
      expect(others).toEqual([]);
      expect(given).toEqual(Object.fromEntries(parts.map(([{ key, value }]) => [key, value])));
      expect(hasFlag(args, flags, '--help', '-h', '--version')).toBe(false);
    }),
  );
});

test('any arguments are read or refused as usage', () => {
  const argument = fc.oneof(fc.string(), fc.constantFrom('-p', '--prompt', '-n', '-ctk', '--temp', '--json', '--help', '--'));
  fc.assert(
    fc.property(fc.array(argument), (args) => {
      try {
        parseFlags(args, flags);
      } catch (error) {
        expect(error).toBeInstanceOf(UsageError);
      }
    }),
  );
});

test('arguments that are no flags stand anywhere', () => {
  expect(parseArguments(['a.json', '--json', 'b.json', '-n', '2', '-'], flags)).toEqual({
    given: { json: true, count: 2 },
    others: ['a.json', 'b.json', '-'],
  });
  expect(() => parseArguments(['a.json', '--jsno'], flags)).toThrow('Did you mean --json?');
});

test('help is asked for where a flag may stand', () => {
  expect(hasFlag(['--help'], flags, '--help', '-h')).toBe(true);
  expect(hasFlag(['-n', '1', '-h', '--nonsense'], flags, '--help', '-h')).toBe(true);
  expect(hasFlag(['-p', '--help'], flags, '--help', '-h')).toBe(false);
  expect(hasFlag(['--prompt=--help'], flags, '--help')).toBe(false);
});

test('messages of the API name flags', () => {
  expect(inFlags('Bad value for contextSize: expected an integer, got 0.', flags, 'contextSize')).toBe(
    'Bad value for -c: expected an integer, got 0.',
  );
  expect(inFlags('duo.sink and duoSink, not duo.sinks or xduo.sink', flags)).toBe('--duo-sink and --duo-sink, not duo.sinks or xduo.sink');
  // An everyday word is a flag's name only where the message is about that option.
  expect(inFlags('the count of type prompt', flags)).toBe('the count of type prompt');
  expect(inFlags('Bad value for count', flags, 'count')).toBe('Bad value for -n');
});

test('help names every flag', () => {
  expect(flagsHelp(flags)).toContain('-n, --predict, --n-predict N');
});

describe('where a model comes from', () => {
  test.each([
    [['-m', '/m.gguf'], '/m.gguf'],
    [['-hf', 'user/model'], 'hf:user/model'],
    [['--hf-repo', 'user/model:Q8_0'], 'hf:user/model:Q8_0'],
    [['-mu', 'https://host/m.gguf'], 'https://host/m.gguf'],
  ])('%j', (args, expected) => {
    expect(modelSource(parseFlags(args, sourceFlags))).toBe(expected);
  });

  test.each([
    [[], /-m FILE.*-hf USER\/MODEL.*-mu URL/],
    [['-m', 'm.gguf', '-hf', 'user/model'], /not with several/],
    [['-hf', 'user/model', '-mu', 'https://host/m.gguf'], /not with several/],
  ])('%j is wrong', (args, message) => {
    expect(() => modelSource(parseFlags(args, sourceFlags))).toThrow(UsageError);
    expect(() => modelSource(parseFlags(args, sourceFlags))).toThrow(message);
  });
});

describe('context flags', () => {
  const parse = (...args: string[]) => parseFlags(args, contextFlags);

  test('sizes and types', () => {
    expect(planOptions(parse('-c', '512', '-ub', '64', '-b', '128', '-t', '2', '-ctk', 'q8_0', '-ctv', 'f16'))).toEqual({
      contextSize: 512,
      ubatchSize: 64,
      batchSize: 128,
      threads: 2,
      typeK: 'q8_0',
      typeV: 'f16',
    });
    expect(() => planOptions(parse('-ctk', 'f15'))).toThrow(/-ctk needs one of f32, f16/);
  });

  test('without --duo flags there are no mixed heads', () => {
    expect(duoOptions(parse('-c', '512'))).toBeUndefined();
  });

  test.each([
    [['--duo-sparsity', '0'], { sparsity: 0 }],
    [['--duo-sink', '4'], { sink: 4 }],
    [
      ['--duo-sparsity', '1', '--duo-sink', '4', '--duo-recent', '32', '--duo-chunk', '8'],
      { sparsity: 1, sink: 4, recent: 32, windowStep: 8 },
    ],
    [['--duo-gates', 'auto'], { gates: 'auto' }],
    [['--duo-gates', '/g.tsv', '--duo-threshold', '0.25'], { gates: '/g.tsv', threshold: 0.25 }],
  ])('%j', (args, expected) => {
    expect(duoOptions(parse(...args))).toEqual(expected);
  });

  test.each([
    [['--duo-gates', 'auto', '--duo-sparsity', '0.5', '--duo-threshold', '0.5'], /not both/],
    [['--duo-gates', 'auto', '--duo-sparsity', '2'], /from 0 to 1, got "2"/],
  ])('%j is wrong', (args, message) => {
    expect(() => duoOptions(parse(...args))).toThrow(message);
  });

  describe('paths', () => {
    beforeEach(() => {
      vi.stubEnv('INIT_CWD', '/home/user');
    });
    afterEach(() => {
      vi.unstubAllEnvs();
    });

    test('in scripts of this package are from where npm says that the user is', () => {
      vi.stubEnv('npm_package_json', fileURLToPath(new URL('../../../package.json', import.meta.url)));
      expect(modelPath(parse('-m', 'm.gguf'))).toBe('/home/user/m.gguf');
      expect(modelPath(parse('-m', '/m.gguf'))).toBe('/m.gguf');
      expect(duoOptions(parse('--duo-gates', 'g.tsv'))).toEqual({ gates: '/home/user/g.tsv' });
    });

    test('in scripts of others are from where those run', () => {
      vi.stubEnv('npm_package_json', '/home/user/package.json');
      expect(modelPath(parse('-m', 'm.gguf'))).toBe(resolve('m.gguf'));
    });
  });

  test('layers on the GPU: a number, all or auto, as in llama.cpp', () => {
    expect(gpuLayersOf(parse('-ngl', '12'))).toBe(12);
    expect(gpuLayersOf(parse('-ngl', 'all'))).toBe(-1);
    expect(gpuLayersOf(parse('-ngl', 'auto'))).toBeUndefined();
    for (const wrong of ['most', '1.5', '-2', '']) expect(() => gpuLayersOf(parse('-ngl', wrong))).toThrow(/-ngl needs .* got/);
  });

  test('flash attention', () => {
    expect(planOptions(parse('-fa', 'off'))).toEqual({ flashAttention: 'off' });
    expect(planOptions(parse('--flash-attn', 'on'))).toEqual({ flashAttention: 'on' });
    expect(() => planOptions(parse('-fa', 'yes'))).toThrow('-fa needs one of auto, on, off, got "yes".');
  });

  test('no model is an error that says so', () => {
    expect(() => modelPath(parse())).toThrow(/Give a GGUF file with -m/);
  });
});

describe('the flag of an option', () => {
  test('has its names, range and default, and the first sentence of what is said of it', () => {
    const option = integer({
      min: 1,
      max: 9,
      default: 3,
      doc: 'Keys to keep. More take more memory.',
      flags: ['-k', '--keep'],
      value: 'N',
    });
    expect(flagOf(option)).toEqual({
      names: ['-k', '--keep'],
      kind: 'integer',
      value: 'N',
      min: 1,
      max: 9,
      help: 'keys to keep (default: 3)',
    });
  });

  test('a choice takes its words alone', () => {
    const flags = { when: flagOf(choice(['auto', 'on'], { doc: 'CPU or not.', otherwise: 'as ever', flags: ['--when'] })) };
    expect(flags.when.help).toBe('CPU or not (default: as ever)');
    expect(parseFlags(['--when', 'on'], flags).when).toBe('on');
    expect(() => parseFlags(['--when', 'off'], flags)).toThrow('--when needs one of auto, on, got "off".');
  });

  test('a switch has no default to tell', () => {
    expect(flagOf(boolean({ default: false, doc: 'Stay.', flags: ['--stay'] }))).toEqual({
      names: ['--stay'],
      kind: 'switch',
      help: 'stay',
    });
  });
});
