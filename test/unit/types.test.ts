import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { toStandardJsonSchema } from '@valibot/to-json-schema';
import { type as ark } from 'arktype';
import * as v from 'valibot';
import { describe, expect, expectTypeOf, test } from 'vitest';
import * as z from 'zod';

import { root } from '../../scripts/places.mjs';
import type { generateTable } from '../../src/core/option-tables.ts';
import {
  GrammarError,
  loadModel,
  parseGates,
  readGates,
  tool,
  type CacheType,
  type Calibration,
  type Chat,
  type Context,
  type ContextInfo,
  type ContextOptions,
  type ContextPlan,
  type ContextWarning,
  type DuoOptions,
  type Embedder,
  type ErrorCode,
  type GatePattern,
  type Gates,
  type GatesError,
  type GatesShapeError,
  type GenerateOptions,
  type Generation,
  type GenerationChunk,
  type GenerationResult,
  type HeadChoice,
  type HeadSelection,
  type MemoryReport,
  type Infer,
  type Message,
  type PatternComparison,
  type Model,
  type Reply,
  type ReplyChunk,
  type ReplyResult,
  type SamplingOptions,
  type Score,
  type SendOptions,
  type Sequence,
  type WindowLosses,
} from '../../src/index.ts';

describe('what calls give', () => {
  test('models and contexts', () => {
    expectTypeOf(loadModel).returns.resolves.toEqualTypeOf<Model>();
    expectTypeOf<Model['createContext']>().returns.resolves.toEqualTypeOf<Context>();
    expectTypeOf<Model['planContext']>().returns.resolves.toEqualTypeOf<ContextPlan>();
    expectTypeOf<Model['tokenize']>().returns.toEqualTypeOf<Int32Array>();
    expectTypeOf<Model['detokenize']>().parameter(0).toEqualTypeOf<Int32Array | readonly number[]>();
    expectTypeOf<Model['calibrate']>().returns.resolves.toEqualTypeOf<Calibration>();
    expectTypeOf<Context['memory']>().returns.toEqualTypeOf<MemoryReport>();
    expectTypeOf<Context['score']>().returns.resolves.toEqualTypeOf<Score>();
    expectTypeOf<ContextInfo['warnings']>().toEqualTypeOf<readonly ContextWarning[]>();
  });

  test('a plan tells its two ends apart', () => {
    expectTypeOf<Extract<ContextPlan, { supported: true }>['kv']>().toEqualTypeOf<MemoryReport>();
    expectTypeOf<Extract<ContextPlan, { supported: true }>['reason']>().toEqualTypeOf<null>();
    expectTypeOf<Extract<ContextPlan, { supported: false }>['reason']>().toEqualTypeOf<string>();
  });

  test('generations', () => {
    expectTypeOf<Generation>().toExtend<AsyncIterable<GenerationChunk>>();
    expectTypeOf<Generation['result']>().returns.resolves.toEqualTypeOf<GenerationResult>();
    expectTypeOf<GenerationResult['finishReason']>().toEqualTypeOf<'stop' | 'length' | 'contextFull'>();
  });

  test('gates and errors', () => {
    expectTypeOf(readGates).returns.resolves.toEqualTypeOf<GatePattern>();
    expectTypeOf<GatePattern['windows']>().toEqualTypeOf<readonly (readonly number[])[] | undefined>();
    expectTypeOf<GatePattern['losses']>().toEqualTypeOf<Readonly<WindowLosses> | undefined>();
    expectTypeOf(readGates).parameter(0).toEqualTypeOf<string | URL | Uint8Array>();
    expectTypeOf(parseGates).returns.resolves.toEqualTypeOf<GatePattern>();
    expectTypeOf(parseGates).parameter(0).toEqualTypeOf<string>();
    expectTypeOf<GatePattern['gates']>().toEqualTypeOf<readonly (readonly number[])[]>();
    expectTypeOf<GatePattern['sink']>().toEqualTypeOf<number | undefined>();
    expectTypeOf<GatePattern['provenance']>().toEqualTypeOf<Readonly<Record<string, unknown>> | undefined>();
    expectTypeOf<GatePattern['compare']>().returns.resolves.toEqualTypeOf<PatternComparison>();
    expectTypeOf<Model['gates']>().toEqualTypeOf<GatePattern | undefined>();
    expectTypeOf<GatePattern>().toExtend<Gates>();
    expectTypeOf<number[][]>().not.toExtend<Gates>();
    expectTypeOf<GatesShapeError>().toExtend<GatesError>();
    expectTypeOf<GatesShapeError['modelShape']>().toEqualTypeOf<readonly number[]>();
    expectTypeOf<GatePattern['select']>().returns.resolves.toEqualTypeOf<HeadSelection>();
    expectTypeOf<GrammarError['text']>().toEqualTypeOf<string>();
    expectTypeOf<GrammarError['code']>().toEqualTypeOf<ErrorCode>();
  });

  test('options', () => {
    expectTypeOf<ContextOptions['contextSize']>().toEqualTypeOf<number | 'auto' | 'fit' | 'trained' | undefined>();
    expectTypeOf<ContextOptions['typeK']>().toEqualTypeOf<CacheType | undefined>();
    expectTypeOf<GenerateOptions['stop']>().toEqualTypeOf<string | readonly string[] | undefined>();
    expectTypeOf<GenerateOptions>().toExtend<SamplingOptions>();
    expectTypeOf<keyof GenerateOptions>().toEqualTypeOf<keyof typeof generateTable>();
    expectTypeOf<{ windowStep: number | undefined }>().toExtend<DuoOptions>();
  });
});

describe('values have the types that options say', () => {
  const plain = {
    type: 'object',
    properties: { name: { type: 'string' }, kind: { enum: ['a', 'b'] }, counts: { type: 'array', items: { type: 'integer' } } },
    required: ['name', 'kind'],
    additionalProperties: false,
  } as const;
  const zod = z.object({ name: z.string(), kind: z.enum(['a', 'b']), length: z.string().transform((text) => text.length) });
  const valibot = toStandardJsonSchema(v.object({ name: v.string(), kind: v.picklist(['a', 'b']) }));
  const arktype = ark({ name: 'string', kind: "'a' | 'b'" });
  type Named = { name: string; kind: 'a' | 'b' };
  type Measured = { name: string; kind: 'a' | 'b'; length: number };
  type Counted = { name: string; kind: 'a' | 'b'; counts?: number[] };
  // Only compiled: nothing of it runs.
  const context = undefined as unknown as Context;
  const chat = undefined as unknown as Chat;
  const sequence = undefined as unknown as Sequence;

  test('of schemas, whichever library they are of', () => {
    expectTypeOf<Infer<typeof plain>>().toEqualTypeOf<Counted>();
    expectTypeOf<Infer<typeof zod>>().toEqualTypeOf<Measured>();
    expectTypeOf<Infer<typeof valibot>>().toEqualTypeOf<Named>();
    expectTypeOf<Infer<typeof arktype>>().toEqualTypeOf<Named>();
  });

  test('of generations', () => {
    const generate = (): unknown[] => [
      expectTypeOf(context.generate('x', { schema: zod }).value()).resolves.toEqualTypeOf<Measured>(),
      expectTypeOf(context.generate('x', { schema: plain }).value()).resolves.toEqualTypeOf<Infer<typeof plain>>(),
      expectTypeOf(context.generate('x', { schema: { type: 'boolean' } }).value()).resolves.toEqualTypeOf<boolean>(),
      expectTypeOf(context.generate('x', { choices: ['a', 'b'] }).value()).resolves.toEqualTypeOf<'a' | 'b'>(),
      expectTypeOf(context.generate('x').value()).resolves.toEqualTypeOf<string>(),
      expectTypeOf(context.generate('x', { temperature: 0 })).toEqualTypeOf<Generation<string>>(),
      expectTypeOf(context.generate('x', {} as GenerateOptions)).toEqualTypeOf<Generation>(),
      expectTypeOf(context.infill({ prefix: '', suffix: '' }, { choices: ['a'] }).value()).resolves.toEqualTypeOf<'a'>(),
      expectTypeOf(sequence.generate(undefined, { schema: arktype }).value()).resolves.toEqualTypeOf<Named>(),
      expectTypeOf(sequence.generate().value()).resolves.toEqualTypeOf<string>(),
    ];
    expect(generate).toBeTypeOf('function');
  });

  test('of answers', () => {
    const send = (): unknown[] => [
      expectTypeOf(chat.send('x', { schema: valibot }).value()).resolves.toEqualTypeOf<Named>(),
      expectTypeOf(chat.send('x', { schema: arktype }).value()).resolves.toEqualTypeOf<Named>(),
      expectTypeOf(chat.send('x', { choices: ['a', 'b'] })).toEqualTypeOf<Reply<'a' | 'b'>>(),
      expectTypeOf(chat.send({ role: 'user', content: 'x' })).toEqualTypeOf<Reply<string>>(),
      expectTypeOf(chat.send('x', {} as SendOptions)).toEqualTypeOf<Reply>(),
      // @ts-expect-error a tool's message says of which call it is
      chat.send({ role: 'tool', content: 'x' }),
      // @ts-expect-error a chat's answers are one, and end where the template says
      chat.send('x', { n: 2 }),
    ];
    expect(send).toBeTypeOf('function');
    expectTypeOf<Reply>().toExtend<AsyncIterable<ReplyChunk>>();
    expectTypeOf<ReplyResult['finishReason']>().toEqualTypeOf<'stop' | 'length' | 'contextFull' | 'toolCalls'>();
    expectTypeOf<Chat['messages']>().toEqualTypeOf<readonly Message[]>();
  });

  test('of what tools are given', () => {
    tool({ name: 'a', parameters: zod, run: (input) => expectTypeOf(input).toEqualTypeOf<Measured>() });
    tool({
      name: 'b',
      parameters: plain,
      run: (input, { signal }) => [expectTypeOf(input).toEqualTypeOf<Infer<typeof plain>>(), signal.aborted],
    });
    // @ts-expect-error it gets a name and a kind
    tool({ name: 'c', parameters: arktype, run: (input: { age: number }) => input.age });
    expect(() => tool({ name: 'd', parameters: valibot })).not.toThrow();
  });

  test('of embeddings, by what is embedded', () => {
    expectTypeOf<Embedder['embed']>().toBeCallableWith('x', { normalize: false });
    const embedder = undefined as unknown as Embedder;
    const embed = (): unknown[] => [
      expectTypeOf(embedder.embed('x')).resolves.toEqualTypeOf<Float32Array>(),
      expectTypeOf(embedder.embed(['x', 'y'])).resolves.toEqualTypeOf<Float32Array[]>(),
    ];
    expect(embed).toBeTypeOf('function');
  });
});

test('heads are chosen by one of sparsity and threshold', () => {
  expectTypeOf<{ sparsity: number }>().toExtend<HeadChoice>();
  expectTypeOf<{ sparsity: undefined }>().toExtend<HeadChoice>();
  expectTypeOf<{ threshold: number }>().toExtend<HeadChoice>();
  expectTypeOf<{ threshold: number; sink: undefined }>().toExtend<DuoOptions>();
  expectTypeOf<{ sparsity: number; threshold: number }>().not.toExtend<HeadChoice>();
});

describe('the compiled types', () => {
  const dist = join(root, 'dist');

  test('compile in the strictest of projects', { timeout: 120_000 }, () => {
    const { stdout, status } = spawnSync(
      process.execPath,
      [join(root, 'node_modules/typescript/bin/tsc'), '-p', join(root, 'test/consumer')],
      {
        encoding: 'utf8',
      },
    );
    expect(stdout).toBe('');
    expect(status).toBe(0);
  });

  test('have no constructors of what a program cannot make', () => {
    const classes = readdirSync(dist, { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.d.ts') && file !== 'errors.d.ts')
      .map((file) => readFileSync(join(dist, file), 'utf8'))
      .filter((types) =>
        /export declare class (CoreModel|Model|Context|Generation|GatePattern|Chat|Reply|Sequence|Embedder|Lora)\b/.test(types),
      );
    expect(classes).toHaveLength(10);
    for (const types of classes) expect(types).not.toContain('constructor(');
  });
});
