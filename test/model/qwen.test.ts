import { existsSync } from 'node:fs';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';

import { largeTestModel } from '../../scripts/places.mjs';
import { loadModel, tool, type Context, type Model } from '../../src/index.ts';
import { threads } from './setup.ts';

// A model that was trained to call tools, where it is there: `node scripts/model.mjs --large` fetches it.

describe.skipIf(!existsSync(largeTestModel))('Qwen2.5-Coder-1.5B-Instruct', { timeout: 300_000 }, () => {
  let model: Model;
  let context: Context;
  beforeAll(async () => {
    model = await loadModel(largeTestModel);
    context = await model.createContext({ contextSize: 2048, threads });
  });
  afterAll(async () => {
    await context.dispose();
    await model.dispose();
  });

  test('calls a tool, and answers with what came of it', async () => {
    const weather = tool({
      name: 'get_temperature',
      description: 'How warm it is in a city now, in degrees Celsius.',
      parameters: z.object({ city: z.string().describe('The name of the city') }),
      run: ({ city }) => ({ city, degrees: 31 }),
    });
    const chat = context.chat({ tools: [weather] });
    const result = await chat
      .send('How warm is it in Rome right now?', { toolChoice: 'required', temperature: 0, maxTokens: 120 })
      .result();
    expect(result.messages.slice(0, 2)).toMatchObject([
      { role: 'assistant', toolCalls: [{ name: 'get_temperature', arguments: { city: 'Rome' } }] },
      { role: 'tool', content: '{"city":"Rome","degrees":31}' },
    ]);
    expect(result.text).not.toBe('');
    // The second round goes on from the first.
    expect(result.reusedTokens).toBeGreaterThan(100);
  });

  test('fills a schema with what a text says', async () => {
    const person = z.object({ name: z.string(), age: z.int(), cities: z.array(z.string()) });
    const text = 'Ada is 36 years old. She has lived in London and in Turin.';
    const value = await context.chat().send(`Extract as JSON: ${text}`, { schema: person, temperature: 0, maxTokens: 120 }).value();
    expect(value).toEqual({ name: 'Ada', age: 36, cities: ['London', 'Turin'] });
  });

  test('fills a gap in code', async () => {
    const gap = { prefix: 'def add(a, b):\n    return ', suffix: '\n\nprint(add(1, 2))\n' };
    expect((await context.infill(gap, { temperature: 0, maxTokens: 16, stop: '\n' }).text()).trim()).toBe('a + b');
  });
});
