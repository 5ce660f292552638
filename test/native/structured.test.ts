import { toStandardJsonSchema } from '@valibot/to-json-schema';
import { type } from 'arktype';
import * as v from 'valibot';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import * as z from 'zod';

import { loadModel, OptionError, SchemaError, type Context, type Model, type Schema } from '../../src/index.ts';
import { needlePath, threads } from './needle.ts';

const greedy = { temperature: 0 };

let model: Model;
let context: Context;
beforeAll(async () => {
  model = await loadModel(needlePath);
  context = await model.createContext({ contextSize: 1024, sequences: 2, threads });
});
afterAll(async () => {
  await context.dispose();
  await model.dispose();
});

describe('a schema', () => {
  const schemas: [string, Schema][] = [
    [
      'plain JSON schema',
      {
        type: 'object',
        properties: {
          colour: { enum: ['red', 'blue'] },
          wide: { type: 'boolean' },
          parts: { type: 'array', items: { const: 7 }, minItems: 2, maxItems: 2 },
        },
        required: ['colour', 'wide', 'parts'],
        additionalProperties: false,
      },
    ],
    ['zod', z.object({ colour: z.enum(['red', 'blue']), wide: z.boolean(), parts: z.array(z.literal(7)).length(2) })],
    [
      'Valibot',
      toStandardJsonSchema(
        v.object({ colour: v.picklist(['red', 'blue']), wide: v.boolean(), parts: v.pipe(v.array(v.literal(7)), v.length(2)) }),
      ),
    ],
    ['ArkType', type({ colour: "'red' | 'blue'", wide: 'boolean', parts: '7[] == 2' })],
  ];

  test.each(schemas)('of %s is followed, ends the text, and gives its value', async (_, schema) => {
    for (const options of [greedy, { temperature: 1, seed: 7, ignoreEos: true }]) {
      const generation = context.generate('The lamp:', { ...options, schema, maxTokens: 200 });
      const value = (await generation.value()) as { colour: string; wide: boolean; parts: number[] };
      expect(['red', 'blue']).toContain(value.colour);
      expect([true, false]).toContain(value.wide);
      expect(value.parts).toEqual([7, 7]);
      const { text, finishReason } = await generation.result();
      expect(JSON.parse(text)).toEqual(value);
      expect(finishReason).toBe('stop');
    }
  });

  test('gives what the library makes of what was read', async () => {
    const schema = z.object({ a: z.literal(7).default(7), b: z.enum(['x']).transform((text) => text.length) });
    const value = await context.generate('x', { ...greedy, schema }).value();
    expect(value).toEqual({ a: 7, b: 1 });
  });

  test.each(schemas)('of %s that is cut off is an error that has the text and says where', async (_, schema) => {
    const generation = context.generate('The lamp:', { ...greedy, schema, maxTokens: 4 });
    const error = await generation.value().catch((reason: unknown) => reason);
    const { text, finishReason } = await generation.result();
    expect(finishReason).toBe('length');
    expect(error).toBeInstanceOf(SchemaError);
    expect(error).toMatchObject({ code: 'schema', text, issues: [{ path: '', message: expect.any(String) as string }] });
    expect((error as Error).message).toContain('cut off');
  });

  test('that asks for more than a grammar can say is checked afterwards, and says where', async () => {
    const inner = z.object({ n: z.literal(1).refine(() => false, 'never') });
    const error = await context
      .generate('x', { ...greedy, schema: z.object({ list: z.array(inner).length(1) }) })
      .value()
      .catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(SchemaError);
    expect(error).toMatchObject({ issues: [{ path: 'list.0.n', message: 'never' }] });
    expect(JSON.parse((error as SchemaError).text)).toEqual({ list: [{ n: 1 }] });
    const plain = { type: 'object', properties: { a: { const: 'xx' } }, required: ['a'], not: { required: ['a'] } } as const;
    const other = await context
      .generate('x', { ...greedy, schema: plain })
      .value()
      .catch((reason: unknown) => reason);
    expect(other).toBeInstanceOf(SchemaError);
    expect((other as SchemaError).issues.length).toBeGreaterThan(0);
  });

  test('that is none, or has no JSON form, is refused at once', () => {
    for (const schema of [5, 'x', null, [], () => {}, { '~standard': {} }, v.object({})]) {
      expect(() => context.generate('x', { schema: schema as never })).toThrow(OptionError);
    }
    expect(() => context.generate('x', { schema: z.object({ when: z.date() }) })).toThrow(
      /schema: expected a schema that has a JSON schema/,
    );
  });

  test('that makes no grammar is refused by name', async () => {
    await expect(context.generate('x', { schema: { type: 'nothing' } as never }).result()).rejects.toMatchObject({ code: 'option' });
  });
});

describe('choices', () => {
  const odd = [
    'say "so"',
    'back\\slash',
    'two\nlines\r\n\ttab',
    '\u{1f600}\u{1f3fd} é 中',
    "it's",
    '[a-z]* # no comment',
    '"',
    'ein\u0301',
  ];

  test.each(odd)('%j is what comes out', async (text) => {
    const generation = context.generate('x', { ...greedy, choices: [text] });
    expect(await generation.value()).toBe(text);
    expect(await generation.result()).toMatchObject({ finishReason: 'stop', text });
  });

  test('it is one of them, and each can be', async () => {
    const choices = ['alpha', 'beta', 'alphabet', ...odd] as const;
    const found = new Set<string>();
    for (let seed = 0; seed < 60; seed++) {
      const value = await context.generate('x', { temperature: 3, topK: 0, minP: 0, topP: 1, seed, choices }).value();
      expect(choices).toContain(value);
      found.add(value);
    }
    expect(found.size).toBeGreaterThan(4);
  });

  test('none, an empty one and half of a character are refused', () => {
    for (const choices of [[], [''], 'a', ['a', 5]])
      expect(() => context.generate('x', { choices: choices as never })).toThrow(OptionError);
    expect(() => context.generate('x', { choices: ['a', '\ud83d'] })).toThrow(
      /choices\[1\]: expected text without halves of surrogate pairs/,
    );
  });
});

describe('two forms at once', () => {
  const forms = { schema: { type: 'string' }, choices: ['a'], grammar: 'root ::= "a"' } as const;

  test.each([
    ['schema', 'choices'],
    ['schema', 'grammar'],
    ['choices', 'grammar'],
  ] as const)('%s and %s are refused at once', (one, other) => {
    const options = { [one]: forms[one], [other]: forms[other] };
    expect(() => context.generate('x', options)).toThrow(`no ${other} beside a ${one}`);
    expect(() => context.infill({ prefix: 'x', suffix: 'y' }, options)).toThrow(OptionError);
  });
});

test('a choice that was cut off is none', async () => {
  const cut = context.generate('x', { choices: ['alphabetical order', 'beta decay'], maxTokens: 1, temperature: 0 });
  await expect(cut.value()).rejects.toMatchObject({ code: 'schema', text: await cut.text() });
});

test('a schema that cannot be checked is named, with why', async () => {
  const schema = { type: 'string', pattern: '^\\d{3}\\-\\d{4}$', maxLength: 4 } as const;
  await expect(context.generate('x', { schema, maxTokens: 40, temperature: 0, stop: [] }).value()).rejects.toMatchObject({
    code: expect.stringMatching(/option|schema/) as string,
  });
});

test('biases are a map or a list, not what can be read once', () => {
  const biases = new Map([[5, 1]]).entries();
  expect(() => context.generate('x', { logitBias: biases as never })).toThrow(/logitBias: expected an array/);
});
