import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { describe, expect, expectTypeOf, test } from 'vitest';

import { root } from '../../scripts/places.mjs';
import type { generateTable } from '../../src/core/option-tables.ts';
import {
  GrammarError,
  loadModel,
  parseGates,
  readGates,
  type CacheType,
  type Calibration,
  type Context,
  type ContextInfo,
  type ContextOptions,
  type ContextPlan,
  type ContextWarning,
  type DuoOptions,
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
  type PatternComparison,
  type Model,
  type SamplingOptions,
  type Score,
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
