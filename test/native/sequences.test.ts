import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { Native, openNative, JobState, type Handle } from '../../src/ffi/native.ts';
import { runJob } from '../../src/ffi/job.ts';
import { DisposedError, OptionError } from '../../src/index.ts';
import { toolTemplate } from '../chat-templates.ts';
import { needlePath } from './needle-model.ts';

// The ABI's calls on sequences and chats, through src/ffi: what they mean is tested natively, that they arrive as they should here.
let native: Native;
let model: Handle;
let context: Handle;

const run = <T>(submit: () => Handle) => runJob<T>(native, submit);

beforeAll(async () => {
  native = await openNative();
  ({ model } = await run<{ model: Handle }>(() => native.modelLoad(JSON.stringify({ path: needlePath }))));
  const options = JSON.stringify({ contextSize: 1024, sequences: 2, threads: 2 });
  ({ context } = await run<{ context: Handle }>(() => native.contextCreate(model, options)));
});

afterAll(async () => {
  await run(() => native.contextFree(context));
  await run(() => native.modelFree(model));
});

/** Ids in and out: what greedy generation says after a prompt. */
async function generate(submit: () => Handle): Promise<number[]> {
  const tokens: number[] = [];
  const buffer = new Int32Array(64);
  const bytes = new Uint8Array(4096);
  await runJob(native, submit, {
    read: (job, result) => {
      for (let more = true; more;) {
        const drained = job.drain(buffer, bytes);
        tokens.push(...drained.tokens);
        more = drained.more;
      }
      return result;
    },
  });
  return tokens;
}

const greedy = JSON.stringify({ temperature: 0, maxTokens: 8, ignoreEos: true });
const prompt = Int32Array.from({ length: 40 }, (_, index) => 5 + ((index * 7) % 50));

describe('a sequence', () => {
  test('is made, appended to, forked, truncated, scored, saved and loaded', async () => {
    const expected = await generate(() => native.generate(context, prompt, greedy));
    const { sequence } = await run<{ sequence: Handle }>(() => native.sequenceCreate(context));
    await run(() => native.sequenceAppend(sequence, prompt, '{}'));
    expect(native.sequenceSize(sequence)).toEqual({ length: 40, resumableFrom: 0 });

    const logits = await runJob<Float32Array>(native, () => native.sequenceLogits(sequence), {
      read: (job) => new Float32Array(job.data().buffer),
    });
    expect(logits.indexOf(Math.max(...logits))).toBe(expected[0]);

    const state = await runJob<Uint8Array>(native, () => native.sequenceSave(sequence, '{}'), { read: (job) => job.data() });
    const { sequence: copy } = await run<{ sequence: Handle }>(() => native.sequenceFork(sequence));
    expect(await generate(() => native.sequenceGenerate(copy, new Int32Array(), greedy))).toEqual(expected);
    expect(await run(() => native.sequenceTruncate(copy, 0))).toEqual({ length: 0, resumableFrom: 0 });
    expect(await run(() => native.sequenceLoad(copy, state, '{}'))).toMatchObject({ length: 40, bytes: state.length });
    expect(await generate(() => native.sequenceGenerate(copy, new Int32Array(), greedy))).toEqual(expected);

    const scores = await runJob<Float64Array>(native, () => native.sequenceScore(sequence, Int32Array.from(expected), '{}'), {
      read: (job) => new Float64Array(job.data().buffer),
    });
    expect(scores).toHaveLength(8);
    expect(Math.max(...scores)).toBeLessThanOrEqual(0);
    expect(native.sequenceSize(sequence).length).toBe(48);

    const damaged = state.map((byte, index) => (index === state.length - 1 ? byte ^ 1 : byte));
    await expect(run(() => native.sequenceLoad(copy, damaged, '{}'))).rejects.toThrow(/damaged/);
    native.sequenceFree(copy);
    native.sequenceFree(sequence);
    expect(() => native.sequenceSize(sequence)).toThrow(DisposedError);
    expect(() => native.sequenceTruncate(sequence, -1)).toThrow(OptionError);
  });
});

describe('a generation', () => {
  test('of several texts drains each of them, and log-probabilities with its tokens', async () => {
    const options = JSON.stringify({ temperature: 0, maxTokens: 6, ignoreEos: true, n: 2, logProbs: 1 });
    const job = native.generate(context, prompt, options);
    while (native.jobPoll(job).state < JobState.done) await new Promise((resolve) => setTimeout(resolve, 1));
    const texts = [0, 1].map((index) => [...native.jobDrain(job, new Int32Array(64), new Uint8Array(4096), index).tokens]);
    expect(texts[0]).toHaveLength(6);
    expect(texts[1]).toEqual(texts[0]);
    const numbers = [...native.jobDrainLogProbabilities(job, new Float64Array(64))];
    expect(numbers).toHaveLength(18);
    expect(numbers.filter((_, index) => index % 3 === 1)).toEqual(texts[0]); // greedy: the likeliest is what was taken
    native.jobFree(job);
  });
});

describe('a chat', () => {
  test('becomes a prompt and a message', async () => {
    const messages = [{ role: 'user', content: 'Where is the key?' }];
    const applied = await run<{ prompt: string; tokens: number; parser: object }>(() =>
      native.chatApply(model, JSON.stringify({ messages })),
    );
    expect(applied.prompt).toContain('Where is the key?');
    expect(applied.tokens).toBeGreaterThan(3);
    const text = JSON.stringify({ text: 'In the drawer.', parser: applied.parser });
    expect(await run(() => native.chatParse(text))).toEqual({ content: 'In the drawer.', reasoning: '', toolCalls: [] });
    // what is no call, however much of it there is
    const tools = [{ type: 'function', function: { name: 'temperature', description: 'How warm it is.', parameters: { type: 'object' } } }];
    const { parser } = await run<{ parser: object }>(() =>
      native.chatApply(model, JSON.stringify({ messages, tools, template: toolTemplate })),
    );
    const said = '{city: "Oslo", degrees:14}';
    let told = '';
    for (let length = 1; length <= said.length; length++) {
      const { content } = await run<{ content: string }>(() =>
        native.chatParse(JSON.stringify({ text: said.slice(0, length), parser, partial: true })),
      );
      expect(said.startsWith(content) && content.startsWith(told), content).toBe(true);
      told = content;
    }
    expect(told).toBe(said);
    const answer = { content: said, reasoning: '', toolCalls: [] };
    expect(await run(() => native.chatParse(JSON.stringify({ text: said, parser })))).toEqual(answer);
    const { grammar } = await run<{ grammar: string }>(() => native.schemaGrammar(JSON.stringify({ schema: { type: 'boolean' } })));
    expect(grammar).toContain('root ::=');
  });
});
