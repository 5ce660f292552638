import { CancelledError } from '../errors.ts';
import { onAbort } from '../ffi/abort.ts';
import { runJob } from '../ffi/job.ts';
import { applyTemplate, type NativeChatPrompt } from './chat-prompt.ts';
import type { ChatSource } from './chat.ts';
import { toJson } from './check-options.ts';
import { valueOf } from './generate-request.ts';
import { Generation, type GenerationResult } from './generation.ts';
import type { AssistantMessage, Message, ToolCall, ToolMessage } from './message.ts';
import type { ChatTemplateOptions, SendOptions } from './option-types.ts';
import { validate } from './schema.ts';
import type { Tool } from './tool.ts';

/** A piece of an answer. */
export type ReplyChunk =
  | {
      /** `reasoning`: what the model thinks before it answers. */
      type: 'text' | 'reasoning';
      text: string;
    }
  | { type: 'toolCall'; call: ToolCall }
  | { type: 'toolResult'; call: ToolCall; result: unknown };

/** An answer, how it ended, and what it took: over all of its rounds, where tools were run. */
export type ReplyResult = {
  /** Without reasoning and calls. A call that is not as the template has them is text. */
  text: string;
  reasoning: string;
  /** Calls that are left to the caller: of tools without `run`. What comes of them is sent as messages of role `tool`. */
  toolCalls: ToolCall[];
  finishReason: 'stop' | 'length' | 'contextFull' | 'toolCalls';
  stopText: string | null;
  /** What it has added to the chat's messages, after what was sent. */
  messages: (AssistantMessage | ToolMessage)[];
  promptTokens: number;
  reusedTokens: number;
  generatedTokens: number;
  queuedSeconds: number;
  prefillSeconds: number;
  decodeSeconds: number;
};

/** @internal */
export type ReplyRequest = ChatSource & {
  /** Gets an answer in line, and waits for those before it. */
  turn: (reply: Reply) => Promise<void>;
  ended: (reply: Reply) => void;
  /** All messages, when it is this answer's turn. */
  said: () => readonly Message[];
  keep: (messages: readonly Message[]) => void;
  template: ChatTemplateOptions;
  maxToolRounds: number;
  options: SendOptions;
  /** Of the option `schema`. */
  jsonSchema: object | undefined;
};

type Parsed = { content: string; reasoning: string; toolCalls: { id: string; name: string; arguments: string }[] };

/**
 * An answer as it comes. Read it piece by piece with `for await`, or ask for all of it with {@link text}, {@link value} or {@link result}; one does not take from the
 * other. The work starts when something is asked for. Leaving the loop ends it, and so does the signal.
 */
export class Reply<T = unknown> implements AsyncIterableIterator<ReplyChunk, void, void> {
  readonly #request: ReplyRequest;
  readonly #abort = new AbortController();
  #steps: AsyncGenerator<ReplyChunk, ReplyResult, void> | undefined;
  #stopListening: (() => void) | undefined;
  #chunks: ReplyChunk[] = [];
  #pulling: { done: Promise<void>; end: () => void } | undefined;
  #turn: Promise<unknown> = Promise.resolve();
  #result: ReplyResult | undefined;
  #error: { reason: unknown } | undefined;
  #told = false;

  /** @internal */
  constructor(request: ReplyRequest) {
    this.#request = request;
  }

  next(): Promise<IteratorResult<ReplyChunk, void>> {
    this.#begin();
    const next = this.#turn.then(() => this.#next());
    this.#turn = next.catch(() => {});
    return next;
  }

  /** Ends the answer; a `next()` that waits is done. */
  return(): Promise<IteratorResult<ReplyChunk, void>> {
    if (!this.#over) {
      this.#told = true;
      this.#stop(new CancelledError('The answer was left before its end.'));
    }
    return Promise.resolve({ done: true, value: undefined });
  }

  /**
   * All of the answer, and how it ended. It needs no reader.
   *
   * @throws CancelledError where its reader left or its context was disposed of before the end; else as reading does
   */
  async result(): Promise<ReplyResult> {
    this.#begin();
    while (!this.#over) await this.#pull();
    if (this.#error) throw this.#error.reason;
    return this.#result as ReplyResult;
  }

  /** The whole text, without reasoning; as {@link result}. */
  async text(): Promise<string> {
    return (await this.result()).text;
  }

  /**
   * What the text says, by the options `schema` and `choices`; without one it is the text.
   *
   * @throws SchemaError where the text is cut off, or is not what they say; else as {@link result}
   */
  async value(): Promise<T> {
    const { text } = await this.result();
    return (await valueOf(this.#request.options, text)) as T;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  get #over(): boolean {
    return this.#result !== undefined || this.#error !== undefined;
  }

  async #next(): Promise<IteratorResult<ReplyChunk, void>> {
    for (;;) {
      const value = this.#chunks.shift();
      if (value) return { done: false, value };
      if (this.#over) {
        if (!this.#error || this.#told) return { done: true, value: undefined };
        this.#told = true;
        throw this.#error.reason;
      }
      await this.#pull();
    }
  }

  /** Its place among the chat's answers is that of who asked first. */
  #begin(): void {
    if (this.#steps || this.#over) return;
    const { turn, options } = this.#request;
    const { signal } = options;
    if (signal?.aborted) {
      this.#stop(signal.reason);
      return;
    }
    const itself = new WeakRef(this); // a signal may outlive many answers
    this.#stopListening =
      signal &&
      onAbort(signal, () => {
        const reply = itself.deref();
        if (reply) reply.#stop(signal.reason);
      });
    this.#steps = answer(this.#request, turn(this), this.#abort.signal);
  }

  /** Takes one chunk more, for whoever is first. */
  #pull(): Promise<void> {
    if (!this.#pulling) {
      let end = (): void => {};
      const done = new Promise<void>((resolve) => {
        end = resolve;
      });
      this.#pulling = { done, end };
      void this.#step();
    }
    return this.#pulling.done;
  }

  async #step(): Promise<void> {
    try {
      const step = await this.#steps?.next();
      if (step?.done) this.#end({ result: step.value });
      else if (step && !this.#over) this.#chunks.push(step.value);
    } catch (reason) {
      this.#end({ reason });
    }
    this.#pulled();
  }

  #pulled(): void {
    this.#pulling?.end();
    this.#pulling = undefined;
  }

  /** What was made and not read is gone. */
  #stop(reason: unknown): void {
    this.#chunks = [];
    this.#end({ reason });
  }

  /** Whoever is first brings it to its end, at once: the engine and tools stop in their own time. */
  #end(outcome: { result: ReplyResult } | { reason: unknown }): void {
    if (this.#over) return;
    if ('result' in outcome) this.#result = outcome.result;
    else {
      this.#error = outcome;
      this.#abort.abort(outcome.reason);
      void this.#steps?.return(undefined as never).catch(() => {});
    }
    this.#stopListening?.();
    this.#request.ended(this);
    this.#pulled();
  }
}

/** The rounds of an answer: what the model says, and what comes of the tools that it calls. */
async function* answer(request: ReplyRequest, turn: Promise<void>, signal: AbortSignal): AsyncGenerator<ReplyChunk, ReplyResult, void> {
  const { said, keep, template, maxToolRounds } = request;
  const { tools = [] } = template;
  await turn;
  signal.throwIfAborted();
  const messages = [...said()];
  const before = messages.length;
  const used: GenerationResult[] = [];
  for (let round = 0; ; round++) {
    const { message, result } = yield* say(request, messages, round, signal);
    used.push(result);
    messages.push(message);
    const calls = message.toolCalls ?? [];
    const mine = round < maxToolRounds ? calls.filter(({ name }) => tools.some((tool) => tool.name === name && tool.run)) : [];
    const others = calls.filter((call) => !mine.includes(call));
    if (mine.length > 0) messages.push(...(yield* runTools(tools, mine, signal)));
    if (mine.length > 0 && others.length === 0) continue;
    signal.throwIfAborted();
    keep(messages);
    return resultOf(message, messages.slice(before) as ReplyResult['messages'], others, used);
  }
}

function resultOf(
  message: AssistantMessage,
  messages: ReplyResult['messages'],
  toolCalls: ToolCall[],
  used: GenerationResult[],
): ReplyResult {
  const last = used.at(-1) as GenerationResult;
  const sum = (key: 'promptTokens' | 'reusedTokens' | 'generatedTokens' | 'queuedSeconds' | 'prefillSeconds' | 'decodeSeconds'): number =>
    used.reduce((total, result) => total + result[key], 0);
  return {
    text: message.content,
    reasoning: message.reasoning ?? '',
    toolCalls,
    finishReason: toolCalls.length > 0 ? 'toolCalls' : last.finishReason,
    stopText: last.stopText,
    messages,
    promptTokens: sum('promptTokens'),
    reusedTokens: sum('reusedTokens'),
    generatedTokens: sum('generatedTokens'),
    queuedSeconds: sum('queuedSeconds'),
    prefillSeconds: sum('prefillSeconds'),
    decodeSeconds: sum('decodeSeconds'),
  };
}

/** One message of the model's, as it comes. */
async function* say(
  request: ReplyRequest,
  messages: readonly Message[],
  round: number,
  signal: AbortSignal,
): AsyncGenerator<ReplyChunk, { message: AssistantMessage; result: GenerationResult }, void> {
  const { native, handle, owner, answer, template, options, jsonSchema } = request;
  const { toolChoice: asked = template.toolChoice, stop = [], ...sampling } = options;
  // Once tools have run the model may say what came of it.
  const toolChoice = asked === 'required' && round > 0 ? 'auto' : asked;
  const prompt = await applyTemplate(native, owner, handle, messages, { ...template, toolChoice, signal }, { jsonSchema });
  const generation = new Generation(
    answer(prompt.tokens),
    { ...sampling, schema: undefined, stop: [...[stop].flat(), ...prompt.stop], signal },
    { chat: prompt.sampling },
  );

  let text = '';
  const told = { content: '', reasoning: '' };
  for await (const chunk of generation) {
    if (chunk.text === '') continue;
    text += chunk.text;
    const parsed = await parse(request, prompt, text, true);
    yield* news(told, parsed);
  }
  const result = await generation.result();
  // What a text of the caller's has ended is no more complete than what has come to its length.
  const complete = result.finishReason === 'stop' && !(result.stopText !== null && [stop].flat().includes(result.stopText));
  const parsed = await parse(request, prompt, text, !complete);
  yield* news(told, parsed);
  const toolCalls = complete ? parsed.toolCalls.map((call, index) => callOf(call, messages.length, index)) : [];
  for (const call of toolCalls) yield { type: 'toolCall', call };
  const message: AssistantMessage = {
    role: 'assistant',
    content: parsed.content,
    ...(parsed.reasoning !== '' && { reasoning: parsed.reasoning }),
    ...(toolCalls.length > 0 && { toolCalls }),
  };
  return { message, result };
}

function parse({ native, owner }: ReplyRequest, { parser }: NativeChatPrompt, text: string, partial: boolean): Promise<Parsed> {
  return runJob<Parsed>(native, () => native.chatParse(toJson({ text, parser, partial })), { owner });
}

/** What a text says beyond what was told of it. What is parsed of a longer one may be less: its end may mean several things. */
function* news(told: { content: string; reasoning: string }, parsed: Parsed): Generator<ReplyChunk, void, void> {
  for (const [type, key] of [
    ['reasoning', 'reasoning'],
    ['text', 'content'],
  ] as const) {
    if (parsed[key].length <= told[key].length) continue;
    const text = parsed[key].slice(told[key].length);
    told[key] = parsed[key];
    yield { type, text };
  }
}

/** Ids are for templates, some of which want nine letters or digits; the model rarely says one. */
function callOf({ id, name, arguments: given }: Parsed['toolCalls'][number], message: number, index: number): ToolCall {
  return { id: id || `call${String(message).padStart(3, '0')}${String(index).padStart(2, '0')}`, name, arguments: argumentsOf(given) };
}

function argumentsOf(text: string): unknown {
  if (text.trim() === '') return {};
  try {
    return JSON.parse(text);
  } catch {
    return text; // no schema lets that pass
  }
}

/** Runs tools side by side. What the model gives them and does not fit is told to it, for it to try again. */
async function* runTools(
  tools: readonly Tool[],
  calls: readonly ToolCall[],
  signal: AbortSignal,
): AsyncGenerator<ReplyChunk, ToolMessage[], void> {
  const results = await Promise.all(calls.map((call) => runTool(tools, call, signal)));
  signal.throwIfAborted();
  const messages: ToolMessage[] = [];
  for (const [index, call] of calls.entries()) {
    const result = results[index];
    yield { type: 'toolResult', call, result };
    messages.push({
      role: 'tool',
      content: typeof result === 'string' ? result : toJson(result ?? null),
      toolCallId: call.id,
      name: call.name,
    });
  }
  return messages;
}

async function runTool(tools: readonly Tool[], { name, arguments: given }: ToolCall, signal: AbortSignal): Promise<unknown> {
  const { parameters, run } = tools.find((tool) => tool.name === name && tool.run) ?? {};
  let input = given;
  if (parameters) {
    try {
      input = await validate(parameters, given, toJson(given));
    } catch (error) {
      return { error: error instanceof Error ? error.message : String(error) };
    }
  }
  return run?.(input as never, { signal });
}
