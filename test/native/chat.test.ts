import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import * as z from 'zod';

import {
  CancelledError,
  DisposedError,
  loadModel,
  OptionError,
  SchemaError,
  TemplateError,
  tool,
  type Chat,
  type Context,
  type Message,
  type Model,
  type Reply,
  type ReplyChunk,
  type Tool,
} from '../../src/index.ts';
import { thinkingTemplate, toolTemplate } from '../chat-templates.ts';
import { needlePath, sleep, threads } from './needle.ts';

// needle.gguf was never trained to chat: grammars and biases make it say what a test wants to hear.
const yes = { choices: ['yes'], temperature: 0 } as const;
const short = { temperature: 0, maxTokens: 12, logitBias: [['<|end|>', false]] } as const;
const endless = { ...short, maxTokens: -1 } as const;

let model: Model;
let context: Context;
beforeAll(async () => {
  model = await loadModel(needlePath);
  context = await model.createContext({ contextSize: 2048, sequences: 2, threads });
});
afterAll(async () => {
  await context.dispose();
  await model.dispose();
});

async function read(reply: Reply): Promise<ReplyChunk[]> {
  const chunks: ReplyChunk[] = [];
  for await (const chunk of reply) chunks.push(chunk);
  return chunks;
}

const textOf = (chunks: ReplyChunk[], type: 'text' | 'reasoning' = 'text'): string =>
  chunks.map((chunk) => (chunk.type === type ? chunk.text : '')).join('');

describe('a conversation', () => {
  test('is kept, and what was computed of it is not computed again', async () => {
    const chat = context.chat({ system: 'Be brief.' });
    expect(chat.messages).toEqual([{ role: 'system', content: 'Be brief.' }]);
    const first = await chat.send('Is the sea wide?', yes).result();
    expect(first).toMatchObject({
      text: 'yes',
      reasoning: '',
      toolCalls: [],
      finishReason: 'stop',
      messages: [{ role: 'assistant', content: 'yes' }],
    });
    const second = await chat.send('And the river?', yes).result();
    expect(second.reusedTokens).toBeGreaterThanOrEqual(first.promptTokens - 2);
    expect(second.promptTokens - second.reusedTokens).toBeLessThan(80);
    expect(chat.messages).toEqual([
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'Is the sea wide?' },
      { role: 'assistant', content: 'yes' },
      { role: 'user', content: 'And the river?' },
      { role: 'assistant', content: 'yes' },
    ]);
    // goes on from its messages elsewhere
    const { tokens } = await model.chatPrompt([...chat.messages, { role: 'user', content: 'Sure?' }]);
    const other = context.chat({ messages: chat.messages });
    expect((await other.send('Sure?', yes).result()).promptTokens).toBe(tokens.length);
  });

  test('is read in pieces, which are its text', async () => {
    const reply = context.chat().send('Tell me of the sea.', { ...short, readAhead: 4 });
    const chunks = await read(reply);
    const { text, generatedTokens, finishReason } = await reply.result();
    expect({ generatedTokens, finishReason }).toEqual({ generatedTokens: 12, finishReason: 'length' });
    expect(chunks.length).toBeGreaterThan(1);
    expect(textOf(chunks)).toBe(text);
    expect(await reply.text()).toBe(text);
    expect(await reply.value()).toBe(text);
    expect(await reply.next()).toEqual({ done: true, value: undefined });
  });

  test('forks go their own ways', async () => {
    const chat = context.chat({ system: 'Be brief.', variables: { x: 1 } });
    await chat.send('One?', yes).result();
    const fork = chat.fork();
    expect(fork.messages).toEqual(chat.messages);
    await Promise.all([chat.send('Two?', yes).result(), fork.send('Three?', yes).result()]);
    expect(chat.messages.at(-2)).toEqual({ role: 'user', content: 'Two?' });
    expect(fork.messages.at(-2)).toEqual({ role: 'user', content: 'Three?' });
    expect([chat.messages.length, fork.messages.length]).toEqual([5, 5]);
  });

  test('special tokens in what is said are text', async () => {
    const said = 'a <|end|> b <|begin|>';
    const { tokens, text } = await model.chatPrompt([{ role: 'user', content: said }]);
    expect(text).toContain(said);
    const { eosToken, bosToken } = model.info;
    expect([...tokens].filter((token) => token === eosToken || token === bosToken)).toEqual([bosToken]);
    expect([...model.tokenize(text, { parseSpecial: true })]).toContain(eosToken);
    const { promptTokens } = await context.chat().send(said, yes).result();
    expect(promptTokens).toBe(tokens.length);
  });

  test('several messages at once, an own template, and what it is told', async () => {
    const template =
      "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}{{ mood }},{{ strftime_now('%Y') }}{% if add_generation_prompt %}>{% endif %}";
    const options = { template, variables: { mood: 'calm' }, now: new Date('2001-02-03T12:00:00Z') };
    const messages: Message[] = [
      { role: 'user', content: 'a' },
      { role: 'assistant', content: 'b' },
      { role: 'user', content: 'c' },
    ];
    const { text } = await model.chatPrompt(messages, options);
    expect(text).toBe('user:a;assistant:b;user:c;calm,2001>');
    expect((await model.chatPrompt(messages, { ...options, addAssistant: false })).text).toBe('user:a;assistant:b;user:c;calm,2001');
    const chat = context.chat(options);
    await chat.send(messages, yes).result();
    expect(chat.messages).toEqual([...messages, { role: 'assistant', content: 'yes' }]);
    await chat.send({ role: 'user', content: 'd' }, yes).result();
    expect(chat.messages).toHaveLength(6);
  });

  test('a template that refuses, and bad arguments, leave it as it was', async () => {
    const chat = context.chat({ template: "{{ raise_exception('only poems') }}" });
    await expect(chat.send('x').result()).rejects.toThrow(TemplateError);
    await expect(chat.send('x').text()).rejects.toThrow(/only poems/);
    await expect(read(chat.send('x'))).rejects.toThrow(/only poems/);
    await expect(model.chatPrompt([{ role: 'user', content: 'x' }], { template: '{% for %}' })).rejects.toThrow(TemplateError);
    expect(() => chat.send(5 as never)).toThrow(OptionError);
    expect(() => chat.send([{ content: 'x' }] as never)).toThrow(/a text, a message or an array of messages/);
    expect(() => chat.send('x', { ignoreEos: true } as never)).toThrow(/Unknown option ignoreEos/);
    expect(() => context.chat({ maxToolRounds: -1 })).toThrow(OptionError);
    expect(() => context.chat({ messages: ['x'] as never })).toThrow(OptionError);
    await expect(model.chatPrompt([])).rejects.toThrow(OptionError);
    await expect(context.chat().send([]).result()).rejects.toThrow(OptionError);
    await expect(
      context
        .chat()
        .send({ role: 'user' } as never)
        .result(),
    ).rejects.toThrow(OptionError);
    expect(chat.messages).toEqual([]);
  });
});

describe('answers follow each other', () => {
  const saidBy = (chat: Chat): string[] => chat.messages.filter(({ role }) => role === 'user').map(({ content }) => content);

  test('in the order in which they are asked for, whichever way', async () => {
    const chat = context.chat();
    const replies = ['a', 'b', 'c', 'd'].map((text) => chat.send(text, yes));
    const [a, b, c, d] = replies as [Reply, Reply, Reply, Reply];
    const ends: string[] = [];
    const note =
      (name: string) =>
      <T>(value: T): T => {
        ends.push(name);
        return value;
      };
    await Promise.all([read(b).then(note('b')), d.text().then(note('d')), read(a).then(note('a')), c.result().then(note('c'))]);
    expect(saidBy(chat)).toEqual(['b', 'd', 'a', 'c']);
    expect(ends).toEqual(['b', 'd', 'a', 'c']);
    // each was told all before it
    expect((await c.result()).promptTokens).toBeGreaterThan((await a.result()).promptTokens);
  });

  test('one that is not asked for holds up none', async () => {
    const chat = context.chat();
    chat.send('never', yes);
    await chat.send('b', yes).text();
    expect(saidBy(chat)).toEqual(['b']);
  });

  test('one whose reader pauses is finished for it', async () => {
    const chat = context.chat();
    const paused = chat.send('a', { ...short, readAhead: 1 });
    const first = await paused.next();
    expect(await chat.send('b', yes).text()).toBe('yes');
    expect(saidBy(chat)).toEqual(['a', 'b']);
    const rest = await read(paused);
    expect(textOf([...(first.value ? [first.value] : []), ...rest])).toBe((await paused.result()).text);
  });

  test('one that fails or is left is as if it had never been, and the next goes on', async () => {
    const chat = context.chat();
    await chat.send('a', yes).text();
    const before = chat.messages;
    const abort = new AbortController();
    const left = chat.send('left', endless);
    const aborted = chat.send('aborted', { ...endless, signal: abort.signal });
    const waiting = chat.send('waiting', { ...endless, signal: abort.signal });
    const last = chat.send('b', yes);
    await left.next();
    const results = [aborted.result(), waiting.result(), aborted.next(), waiting.text()].map((end) => expect(end).rejects.toBe('enough'));
    const answer = last.text();
    // What waits its turn is aborted at once, not in its turn.
    abort.abort('enough');
    await Promise.all(results);
    expect(chat.messages).toBe(before);
    expect(await left.return()).toEqual({ done: true, value: undefined });
    await expect(left.result()).rejects.toThrow(CancelledError);
    expect(await answer).toBe('yes');
    expect(saidBy(chat)).toEqual(['a', 'b']);
  });

  test('one that waits can be left', async () => {
    const chat = context.chat();
    const first = chat.send('a', endless);
    await first.next();
    const second = chat.send('b', yes);
    const next = second.next();
    await second.return();
    expect(await next).toEqual({ done: true, value: undefined });
    await expect(second.result()).rejects.toThrow(CancelledError);
    await first.return();
    expect(await chat.send('c', yes).text()).toBe('yes');
    expect(saidBy(chat)).toEqual(['c']);
  });

  test('a loop that is left ends the answer', async () => {
    const chat = context.chat();
    const reply = chat.send('a', endless);
    for await (const chunk of reply) {
      expect(chunk.type).toBe('text');
      break;
    }
    await expect(reply.result()).rejects.toThrow(CancelledError);
    expect(await reply.next()).toEqual({ done: true, value: undefined });
    expect(chat.messages).toEqual([]);
    // its sequence is free
    const sequences = await Promise.all([1, 2].map(() => context.sequence({ signal: AbortSignal.timeout(10_000) })));
    await Promise.all(sequences.map((sequence) => sequence.dispose()));
  });

  test('a signal that is aborted before, between and after', async () => {
    const chat = context.chat();
    await expect(chat.send('a', { signal: AbortSignal.abort('no') }).text()).rejects.toBe('no');
    const abort = new AbortController();
    const reply = chat.send('b', { ...endless, signal: abort.signal });
    await reply.next();
    abort.abort('enough');
    await expect(reply.next()).rejects.toBe('enough');
    expect(await reply.next()).toEqual({ done: true, value: undefined });
    await expect(reply.result()).rejects.toBe('enough');
    const after = new AbortController();
    const done = chat.send('c', { ...yes, signal: after.signal });
    expect(await done.text()).toBe('yes');
    after.abort('late');
    expect(await done.text()).toBe('yes');
    expect(saidBy(chat)).toEqual(['c']);
  });

  test('a context that is disposed of ends them all', async () => {
    const own = await model.createContext({ contextSize: 512, threads });
    const chat = own.chat();
    const first = chat.send('a', endless);
    await first.next();
    const ends = [first.result(), first.text(), chat.send('b', yes).text()].map((end) => end.catch((reason: unknown) => reason));
    await own.dispose();
    const [one, two, three] = await Promise.all(ends);
    expect([one, two].every((error) => error instanceof CancelledError)).toBe(true);
    expect(three).toBeInstanceOf(DisposedError);
    expect(chat.messages).toEqual([]);
    expect(() => own.chat()).toThrow(DisposedError);
  });
});

describe('what an answer has to be', () => {
  test('choices, a grammar, a schema', async () => {
    const chat = context.chat();
    const choice = await chat.send('Which?', { choices: ['left', 'right'], temperature: 0 }).value();
    expect(['left', 'right']).toContain(choice);
    expect(await chat.send('Which?', { grammar: 'root ::= "up" | "down"', temperature: 0 }).text()).toMatch(/^(up|down)$/);
    const schema = z.object({ side: z.enum(['left', 'right']), sure: z.boolean() });
    const reply = chat.send('Which?', { schema, temperature: 0 });
    const value = await reply.value();
    expect(schema.parse(value)).toEqual(value);
    expect(JSON.parse(await reply.text())).toEqual(value);
    expect(chat.messages.at(-1)).toEqual({ role: 'assistant', content: await reply.text() });
  });

  test('a schema whose text is cut off', async () => {
    const reply = context.chat().send('Which?', { schema: z.object({ a: z.literal('long enough') }), temperature: 0, maxTokens: 3 });
    const error = await reply.value().catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(SchemaError);
    expect(error).toMatchObject({ text: await reply.text(), issues: [{ path: '' }] });
    expect((await reply.result()).finishReason).toBe('length');
  });

  test('two forms, or a form beside tools, are refused at once', () => {
    const look: Tool = { name: 'look' };
    const chat = context.chat();
    expect(() => chat.send('x', { choices: ['a'], grammar: 'root ::= "a"' })).toThrow(/no grammar beside a choices/);
    expect(() => chat.send('x', { choices: ['a'], schema: { type: 'string' } })).toThrow(OptionError);
    const withTools = context.chat({ tools: [look], template: toolTemplate });
    for (const form of [{ choices: ['a'] }, { grammar: 'root ::= "a"' }, { schema: { type: 'string' } }] as const) {
      expect(() => withTools.send('x', form)).toThrow(/beside tools.*toolChoice 'none'/);
    }
  });

  test('a form without the tools that there are', async () => {
    const chat = context.chat({ tools: [{ name: 'look' }], template: toolTemplate });
    expect(await chat.send('x', { ...yes, toolChoice: 'none' }).text()).toBe('yes');
  });

  test('texts that end it', async () => {
    const reply = context.chat().send('Say it.', { grammar: 'root ::= "one, two, three"', temperature: 0, stop: [', th', 'x'] });
    expect(await reply.result()).toMatchObject({ text: 'one, two', finishReason: 'stop', stopText: ', th' });
  });
});

describe('tools', () => {
  const city = z.object({ city: z.enum(['Oslo', 'Rome']) });
  const required = { template: toolTemplate, toolChoice: 'required' } as const;
  /** The answer begins with a call, and what follows it is short. */
  const call = {
    temperature: 0,
    maxTokens: 80,
    logitBias: [
      ['{', 100],
      ['{"', 100],
    ],
  } as const;
  /** Ends the round after a call: {@link call} makes it say nothing else but braces. */
  const onlyOneRound = { maxToolRounds: 1 };

  test('what is no call is text, in pieces and as a whole', async () => {
    const weather = tool({ name: 'weather', parameters: city });
    const chat = (): Chat => context.chat({ template: toolTemplate, tools: [weather] });
    // as many kinds of text as a model can say that was not trained to call
    for (let seed = 0; seed < 12; seed++) {
      const begins = { logitBias: [['{', seed % 3 === 0 ? 12 : 4]] as [string, number][] };
      const reply = chat().send('Is it raining?', { temperature: 1.5, seed, maxTokens: 12, ...begins });
      const chunks = await read(reply);
      const { text, messages } = await reply.result();
      expect(textOf(chunks)).toBe(text);
      expect(messages).toEqual([{ role: 'assistant', content: text }]);
    }
    const braces = await chat()
      .send('Is it raining?', { ...call, maxTokens: 8 })
      .result();
    expect(braces).toMatchObject({ toolCalls: [], finishReason: 'length', text: expect.stringMatching(/^[{"]{8,}$/) as string });
  });

  test('one that has to be called is, with what its parameters describe, and its result goes back', async () => {
    const run = vi.fn(({ city }: { city: 'Oslo' | 'Rome' }) => ({ weather: 'rain', city }));
    const weather = tool({ name: 'weather', description: 'The weather of a city.', parameters: city, run });
    const chat = context.chat({ ...required, ...onlyOneRound, tools: [weather] });
    const reply = chat.send('Is it raining in Oslo?', call);
    const chunks = await read(reply);
    expect(run).toHaveBeenCalledTimes(1);
    const given = run.mock.calls[0]?.[0] as { city: string };
    expect(['Oslo', 'Rome']).toContain(given.city);
    const made = { id: expect.stringMatching(/^[A-Za-z0-9]{9,}$/) as string, name: 'weather', arguments: given };
    expect(chunks.slice(0, 2)).toEqual([
      { type: 'toolCall', call: made },
      { type: 'toolResult', call: made, result: { weather: 'rain', city: given.city } },
    ]);
    const { messages, toolCalls, generatedTokens } = await reply.result();
    expect(messages.slice(0, 2)).toEqual([
      { role: 'assistant', content: '', toolCalls: [made] },
      {
        role: 'tool',
        content: JSON.stringify({ weather: 'rain', city: given.city }),
        toolCallId: messages[0]?.role === 'assistant' ? messages[0].toolCalls?.[0]?.id : '',
        name: 'weather',
      },
    ]);
    expect(messages).toHaveLength(3);
    expect(toolCalls).toEqual([]);
    expect(generatedTokens).toBeGreaterThan(80); // of both rounds
    expect(chat.messages).toEqual([{ role: 'user', content: 'Is it raining in Oslo?' }, ...messages]);
  });

  test('one without run is left to the caller, who sends what came of it', async () => {
    const chat = context.chat({ ...required, tools: [tool({ name: 'weather', parameters: city })] });
    const first = await chat.send('Is it raining?', call).result();
    expect(first).toMatchObject({ finishReason: 'toolCalls', toolCalls: [{ name: 'weather' }], text: '' });
    const [made] = first.toolCalls;
    expect(chat.messages.at(-1)).toEqual({ role: 'assistant', content: '', toolCalls: [made] });
    const result: Message = { role: 'tool', toolCallId: made?.id ?? '', name: 'weather', content: 'rain' };
    const second = await chat.send(result, { ...yes, toolChoice: 'none' }).result();
    expect(second).toMatchObject({ text: 'yes', finishReason: 'stop', toolCalls: [] });
    expect(chat.messages.map(({ role }) => role)).toEqual(['user', 'assistant', 'tool', 'assistant']);
    const { text } = await model.chatPrompt(chat.messages.slice(0, 3), { template: toolTemplate });
    expect(text).toContain(
      `[assistant]{"name": "weather", "arguments": ${JSON.stringify(made?.arguments).replace(':', ': ')}}[end]\n[tool]rain[end]\n`,
    );
  });

  test('one without parameters gets nothing', async () => {
    const run = vi.fn(() => undefined);
    const chat = context.chat({ ...required, ...onlyOneRound, tools: [{ name: 'now', run }] });
    const { messages } = await chat.send('What time is it?', call).result();
    expect(run.mock.calls[0]?.[0 as never]).toEqual({});
    expect(messages[1]).toMatchObject({ role: 'tool', content: 'null' });
  });

  test('one that throws ends the answer, and the others are told', async () => {
    const failure = new Error('no such city');
    const chat = context.chat({
      ...required,
      tools: [
        tool({
          name: 'weather',
          parameters: city,
          run: () => {
            throw failure;
          },
        }),
      ],
    });
    const reply = chat.send('Is it raining?', call);
    await expect(read(reply)).rejects.toBe(failure);
    await expect(reply.result()).rejects.toBe(failure);
    expect(chat.messages).toEqual([]);
  });

  test('one that runs when the answer is aborted or left is told, and not waited for', async () => {
    for (const how of ['abort', 'return'] as const) {
      const told: unknown[] = [];
      let ran = (): void => {};
      const running = new Promise<void>((resolve) => {
        ran = resolve;
      });
      const slow = tool({
        name: 'weather',
        parameters: city,
        run: (_, { signal }) => {
          signal.addEventListener('abort', () => told.push(signal.reason));
          ran();
          return new Promise<never>(() => {});
        },
      });
      const abort = new AbortController();
      const chat = context.chat({ ...required, tools: [slow] });
      const reply = chat.send('Is it raining?', { ...call, signal: abort.signal });
      const result = reply.result().catch((reason: unknown) => reason);
      await running;
      if (how === 'abort') abort.abort('enough');
      else await reply.return();
      expect(await result).toEqual(how === 'abort' ? 'enough' : expect.any(CancelledError));
      expect(told).toEqual([await result]);
      expect(chat.messages).toEqual([]);
      expect(await chat.send('x', { ...yes, toolChoice: 'none' }).text()).toBe('yes');
    }
  });

  test('what does not fit its parameters is told to the model, and not run', async () => {
    const run = vi.fn(() => 'ran');
    // A grammar cannot say this of the text that it lets pass.
    const never = city.refine(() => false, 'there is no such city');
    const chat = context.chat({ ...required, ...onlyOneRound, tools: [tool({ name: 'weather', parameters: never, run })] });
    const reply = chat.send('Is it raining?', call);
    const chunks = await read(reply);
    expect(run).not.toHaveBeenCalled();
    expect(chunks[1]).toMatchObject({ type: 'toolResult', result: { error: expect.stringContaining('there is no such city') as string } });
    expect((await reply.result()).messages[1]).toMatchObject({
      role: 'tool',
      content: expect.stringContaining('there is no such city') as string,
    });
  });

  test('a call that is cut off is none', async () => {
    const run = vi.fn();
    const chat = context.chat({ ...required, tools: [tool({ name: 'weather', parameters: city, run })] });
    const short = await chat.send('Is it raining?', { ...call, maxTokens: 6 }).result();
    expect(short).toMatchObject({ finishReason: 'length', toolCalls: [] });
    const stopped = await chat.send('Is it raining?', { ...call, stop: 'arguments' }).result();
    expect(stopped).toMatchObject({ finishReason: 'stop', stopText: 'arguments', toolCalls: [] });
    expect(run).not.toHaveBeenCalled();
  });

  test('they are run so often, and then the calls are left to the caller', async () => {
    const run = vi.fn(() => 'rain');
    const tools = [tool({ name: 'weather', parameters: city, run })];
    const none = await context
      .chat({ ...required, tools, maxToolRounds: 0 })
      .send('Is it raining?', call)
      .result();
    expect(run).not.toHaveBeenCalled();
    expect(none).toMatchObject({ finishReason: 'toolCalls', toolCalls: [{ name: 'weather' }] });
    expect(none.messages).toHaveLength(1);
  });

  test('a template that does not tell of them is an error, not a model that never heard of them', async () => {
    const tools = [tool({ name: 'weather', parameters: city })];
    await expect(context.chat({ tools }).send('Is it raining?', short).text()).rejects.toThrow(TemplateError);
    await expect(context.chat({ tools, toolChoice: 'required' }).send('Is it raining?', short).text()).rejects.toThrow(/nothing of tools/);
    expect(await context.chat({ tools, toolChoice: 'none' }).send('Is it raining?', yes).text()).toBe('yes');
    await expect(model.chatPrompt([{ role: 'user', content: 'x' }], { tools })).rejects.toThrow(TemplateError);
  });

  test('a schema that JSON has no form for is named', async () => {
    const tools = [tool({ name: 'weather', parameters: z.object({ when: z.date() }) })];
    await expect(context.chat({ template: toolTemplate, tools }).send('x').text()).rejects.toMatchObject({ option: 'tools[0].parameters' });
    expect(() => context.chat({ tools: [{}] as never })).toThrow(OptionError);
  });
});

describe('reasoning', () => {
  const grammar = 'root ::= "<think>\\nOne and one.\\n</think>\\n\\nTwo."';

  test('is told apart from the answer', async () => {
    const { supportsThinking } = await model.chatPrompt([{ role: 'user', content: 'x' }], { template: thinkingTemplate });
    expect(supportsThinking).toBe(true);
    const chat = context.chat({ template: thinkingTemplate });
    const reply = chat.send('What is one and one?', { grammar, temperature: 0 });
    const chunks = await read(reply);
    const { text, reasoning } = await reply.result();
    expect(text).toBe('Two.');
    expect(reasoning.trim()).toBe('One and one.');
    expect(textOf(chunks)).toBe(text);
    expect(textOf(chunks, 'reasoning')).toBe(reasoning);
    expect(chunks.findIndex(({ type }) => type === 'text')).toBeGreaterThan(chunks.findLastIndex(({ type }) => type === 'reasoning'));
    expect(chat.messages.at(-1)).toEqual({ role: 'assistant', content: 'Two.', reasoning });
    const { text: prompt } = await model.chatPrompt(chat.messages, { template: thinkingTemplate, addAssistant: false });
    expect(prompt).toContain('<think>\nOne and one.');
  });

  test('is none where it is not wanted', async () => {
    const { text } = await model.chatPrompt([{ role: 'user', content: 'x' }], { template: thinkingTemplate, thinking: false });
    expect(text).toMatch(/<think>\n\n<\/think>\n\n$/);
    const { reasoning, text: answer } = await context.chat({ template: thinkingTemplate, thinking: false }).send('x', yes).result();
    expect({ reasoning, answer }).toEqual({ reasoning: '', answer: 'yes' });
  });
});

test('many chats share a context, and each is its own', async () => {
  const chats = Array.from({ length: 12 }, (_, index) => context.chat({ system: `You are number ${index}.` }));
  await Promise.all(
    chats.map(async (chat) => {
      await sleep(1);
      for (const text of ['a', 'b']) await chat.send(text, yes).result();
    }),
  );
  for (const [index, { messages }] of chats.entries()) {
    expect(messages.map(({ content }) => content)).toEqual([`You are number ${index}.`, 'a', 'yes', 'b', 'yes']);
  }
});
