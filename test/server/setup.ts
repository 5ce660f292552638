import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { expect } from 'vitest';

import { cache, root } from '../../scripts/places.mjs';

export { Random } from '../random.ts';

/** llama.cpp's own tool; LLAMA_DUO_TEST_LLAMA names that of another build. */
export const llama = process.env['LLAMA_DUO_TEST_LLAMA'] ?? join(root, 'build/bin/llama');
if (!existsSync(llama)) throw new Error(`${llama} is missing. "npm run test:server" builds it.`);

/** The gates of models/needle.gguf. */
export const needleGates = join(root, 'models/needle.duo.json');

/** A model with F32 weights: with an F32 cache, too, nothing but the order of sums tells one way to an answer from another. */
export function inF32(model: string, name: string): string {
  const path = join(cache, `test/${name}-f32.gguf`);
  if (existsSync(path)) return path;
  mkdirSync(join(cache, 'test'), { recursive: true });
  const { status, stderr } = spawnSync(llama, ['quantize', '--allow-requantize', model, path, 'F32'], { encoding: 'utf8' });
  if (status !== 0) {
    rmSync(path, { force: true });
    throw new Error(`llama quantize failed: ${stderr}`);
  }
  return path;
}

/** models/needle.gguf with F32 weights. */
export const needleF32 = (): string => inF32(join(root, 'models/needle.gguf'), 'needle');

/** A model of random weights, gates beside it, and a draft model for it (cpp/test/write-model.cpp). */
export function writeModel(architecture: string, kind: 'plain' | 'predicts' | 'windows', folder: string): void {
  const program = join(root, 'build/write-model');
  if (!existsSync(program)) throw new Error(`${program} is missing. "npm run test:server" builds it.`);
  const { status, stderr } = spawnSync(program, [architecture, kind, '1', folder], { encoding: 'utf8' });
  if (status !== 0) throw new Error(`write-model failed: ${stderr}`);
}

/** Tokens, or a text that has `mediaMarker` where its images, base64 of files, belong. */
export type Prompt = number[] | { prompt_string: string; multimodal_data: string[] };

export const mediaMarker = '<__media__>';

export interface Ask {
  /** Tokens to answer with; the default is 4. */
  tokens?: number;
  /** The slot to use; the server chooses by default. */
  slot?: number;
  /** Whether what the slot holds may be used; the default is true. */
  reuse?: boolean;
  /** What else the request says. */
  more?: Record<string, unknown> | undefined;
}

/** How an answer is compared with a fresh one. */
export interface Freshness {
  /** By how much log-probabilities may differ; the default is 1e-4. */
  tolerance?: number | undefined;
  /** What else the request said. */
  more?: Record<string, unknown> | undefined;
}

export interface Answer {
  /** With the log-probability of each, and how far the next best is from the best; the server tells none for a part of a character, and for a draft. */
  tokens: { id: number; logProbability?: number; gap?: number }[];
  /** Tokens of the prompt that were held already. */
  reused: number;
  /** Tokens of the prompt that were computed. */
  processed: number;
  /** Tokens that were proposed by speculative decoding, and those of them that were right. */
  drafted: number;
  accepted: number;
}

interface Completion {
  tokens: number[];
  timings: { cache_n: number; prompt_n: number; draft_n?: number; draft_n_accepted?: number };
  completion_probabilities?: { id: number; logprob: number; top_logprobs: { logprob: number }[] }[];
}

function toAnswer({ tokens, timings, completion_probabilities: told = [] }: Completion): Answer {
  let next = 0;
  const withProbabilities = tokens.map((id) => {
    const one = told[next];
    if (one?.id !== id) return { id };
    next++;
    const [best, second] = one.top_logprobs;
    return best && second ? { id, logProbability: one.logprob, gap: best.logprob - second.logprob } : { id };
  });
  return {
    tokens: withProbabilities,
    reused: timings.cache_n,
    processed: timings.prompt_n,
    drafted: timings.draft_n ?? 0,
    accepted: timings.draft_n_accepted ?? 0,
  };
}

/** An answer's tokens, to go on with. */
export const idsOf = ({ tokens }: Answer): number[] => tokens.map(({ id }) => id);

/** What /slots says of one. */
export interface Slot {
  id: number;
  is_processing: boolean;
}

/** Where slots are saved. */
export interface Place {
  /** That of a server which was killed; the default is a new one. */
  folder?: string;
  /** Bytes that a file may have; a process that writes more is ended at once. */
  fileSize?: number;
}

/** One `llama serve` on a free port. */
export class Server {
  /** Where slots are saved. */
  readonly folder: string;
  readonly url: string;
  #child: ChildProcess;
  #log = '';
  #exit: string | undefined;

  private constructor(child: ChildProcess, url: string, folder: string) {
    this.#child = child;
    this.url = url;
    this.folder = folder;
    const keep = (chunk: Buffer): void => {
      this.#log += chunk.toString();
    };
    child.stdout?.on('data', keep);
    child.stderr?.on('data', keep);
    child.on('exit', (code, signal) => {
      this.#exit = signal ?? `code ${code}`;
    });
  }

  /** Waits until it has loaded the model; without one it is a router. */
  static async start(model: string | undefined, flags: string[], { folder, fileSize }: Place = {}): Promise<Server> {
    const port = await freePort();
    folder ??= mkdtempSync(join(tmpdir(), 'llama-duo-slots-'));
    const common = ['--host', '127.0.0.1', '--port', String(port), '-t', '2', '--no-warmup', '--slot-save-path', folder];
    const args = ['serve', ...(model === undefined ? [] : ['-m', model]), ...common, ...flags];
    const limited = ['-c', `ulimit -c 0 -f ${Math.floor((fileSize ?? 0) / 1024)} && exec "$0" "$@"`, llama, ...args];
    const child = spawn(fileSize === undefined ? llama : 'bash', fileSize === undefined ? args : limited, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, GGML_NO_BACKTRACE: '1', LLAMA_MEDIA_MARKER: mediaMarker },
    });
    const server = new Server(child, `http://127.0.0.1:${port}`, folder);
    for (;;) {
      if (server.#exit !== undefined) throw new Error(`llama serve ${flags.join(' ')} ended (${server.#exit}):\n${server.#log}`);
      const health = await fetch(`${server.url}/health`).catch(() => undefined);
      await health?.arrayBuffer();
      if (health?.ok) return server;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  get log(): string {
    return this.#log;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Bytes of memory that the process has; 0 where the system does not say. */
  get resident(): number {
    const status = `/proc/${this.pid}/status`;
    return existsSync(status) ? 1024 * Number(/VmRSS:\s+(\d+)/.exec(readFileSync(status, 'utf8'))?.[1] ?? 0) : 0;
  }

  /** What a path says, as JSON. */
  async get(path: string): Promise<unknown> {
    const response = await fetch(this.url + path);
    expect(response.status, path).toBe(200);
    return response.json();
  }

  /** What /metrics says (--metrics). */
  async metrics(): Promise<Record<string, number>> {
    const text = await (await fetch(`${this.url}/metrics`)).text();
    return Object.fromEntries(Array.from(text.matchAll(/^llamacpp:(\S+) (\S+)$/gm), ([, name = '', value]) => [name, Number(value)]));
  }

  /** Waits until no slot has anything to do; fails where one does not come to an end. */
  async expectIdle(seconds = 60): Promise<void> {
    const end = Date.now() + seconds * 1000;
    for (;;) {
      const busy = ((await this.get('/slots')) as Slot[]).filter((slot) => slot.is_processing);
      if (busy.length === 0) return;
      expect(Date.now(), `slots that are busy after ${seconds} s: ${JSON.stringify(busy)}`).toBeLessThan(end);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  /** A request as it is, and what came back. */
  async post(path: string, body: unknown): Promise<{ status: number; body: unknown }> {
    const response = await this.#send(path, body);
    return { status: response.status, body: await response.json() };
  }

  /** Bytes that may be no request at all, and the status of what came back. */
  async postBytes(path: string, body: Uint8Array<ArrayBuffer> | string, signal?: AbortSignal): Promise<number> {
    const response = await this.#send(path, body, signal, true);
    await response.arrayBuffer();
    return response.status;
  }

  async #send(path: string, body: unknown, signal?: AbortSignal, asItIs = false): Promise<Response> {
    const sent = asItIs ? (body as Uint8Array<ArrayBuffer> | string) : JSON.stringify(body);
    // A connection for each: one that rests is closed by the server after 5 seconds, and a client that the machine is too busy for may just then write to it.
    const headers = { 'content-type': 'application/json', connection: 'close' };
    const request = { method: 'POST', headers, body: sent, signal: signal ?? null };
    try {
      return await fetch(this.url + path, request);
    } catch (error) {
      // where the process has ended, its log tells more than a broken connection; it may take a moment to end
      await new Promise((resolve) => setTimeout(resolve, 1000));
      this.expectAlive();
      throw error;
    }
  }

  async complete(prompt: Prompt, ask: Ask = {}): Promise<Answer> {
    const [answer] = await this.completeAll(prompt, ask);
    if (!answer) throw new Error('no answer');
    return answer;
  }

  /** All answers to a request that may ask for several (n_cmpl). */
  async completeAll(prompt: Prompt, { tokens = 4, slot = -1, reuse = true, more }: Ask = {}): Promise<Answer[]> {
    const { status, body } = await this.post('/completion', {
      prompt,
      n_predict: tokens,
      id_slot: slot,
      cache_prompt: reuse,
      temperature: 0,
      ignore_eos: true,
      return_tokens: true,
      n_probs: 2,
      ...more,
    });
    expect(status, JSON.stringify(body)).toBe(200);
    return (Array.isArray(body) ? (body as Completion[]) : [body as Completion]).map(toAnswer);
  }

  /** Asks, reads as many pieces of the answer as told and hangs up. */
  async hangUp(prompt: number[], pieces: number, slot = -1): Promise<void> {
    const controller = new AbortController();
    const ask = { prompt, n_predict: 200, id_slot: slot, temperature: 0, ignore_eos: true, stream: true };
    const response = await this.#send('/completion', ask, controller.signal);
    const reader = response.body?.getReader();
    for (let piece = 0; piece < pieces; piece++) await reader?.read();
    controller.abort();
  }

  /** A text's tokens, without those that a model begins with. */
  async tokenize(content: string): Promise<number[]> {
    const { body } = await this.post('/tokenize', { content, add_special: false });
    return (body as { tokens: number[] }).tokens;
  }

  slots(action: 'save' | 'restore' | 'erase', slot: number, filename?: string): Promise<{ status: number; body: unknown }> {
    return this.post(`/slots/${slot}?action=${action}`, { filename });
  }

  /** Fails, with the end of the log, where the process has ended. */
  expectAlive(): void {
    expect(this.#exit, `llama serve has ended; the end of its log:\n${this.#log.slice(-4000)}`).toBeUndefined();
    expect(this.#log).not.toMatch(/GGML_ABORT|GGML_ASSERT/);
  }

  /** Ends the process as it stands, or, by SIGTERM, as it likes: a router ends its models' servers. */
  async kill(signal: 'SIGKILL' | 'SIGTERM' = 'SIGKILL'): Promise<void> {
    if (this.#exit !== undefined) return;
    const ended = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.kill(signal);
    await ended;
  }

  async stop(signal?: 'SIGTERM'): Promise<void> {
    await this.kill(signal);
    rmSync(this.folder, { recursive: true, force: true });
  }
}

export async function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.on('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === 'object' && address ? address.port : 0));
    });
  });
}

/** A server under test, and one that answers each prompt from nothing. */
export class Pair {
  readonly server: Server;
  readonly #fresh: Server;
  /** Log-probabilities that were compared so far, and their largest difference. */
  compared = 0;
  worst = 0;

  private constructor(server: Server, fresh: Server) {
    this.server = server;
    this.#fresh = fresh;
  }

  /** `flags` for both, `own` for the server under test alone. */
  static async start(model: string, flags: string[], own: string[] = []): Promise<Pair> {
    const server = await Server.start(model, [...flags, ...own]);
    try {
      // no checkpoints and no stored prompts: nothing but the prompt itself can matter
      return new Pair(server, await Server.start(model, [...flags, '-np', '1', '--ctx-checkpoints', '0', '--cache-ram', '0']));
    } catch (error) {
      await server.stop();
      throw error;
    }
  }

  /** Answers that do not depend on what came before. Two answers part for good where the best two tokens are alike to `tolerance`. */
  async expectFresh(prompt: Prompt, answer: Answer, what: string, { tolerance = 1e-4, more }: Freshness = {}): Promise<void> {
    const fresh = await this.#fresh.complete(prompt, { tokens: answer.tokens.length, reuse: false, more });
    expect(fresh.reused).toBe(0);
    expect(answer.tokens.length, what).toBeGreaterThan(0);
    for (const [index, theirs] of fresh.tokens.entries()) {
      const ours = answer.tokens[index];
      if (ours?.id !== theirs.id && theirs.gap !== undefined && theirs.gap < tolerance) return;
      expect(ours?.id, `${what}: token ${index} of ${JSON.stringify(answer.tokens)}, afresh ${JSON.stringify(fresh.tokens)}`).toBe(
        theirs.id,
      );
      if (ours?.logProbability === undefined || theirs.logProbability === undefined) continue;
      const difference = Math.abs(ours.logProbability - theirs.logProbability);
      expect(difference, `${what}: log-probability of token ${index}`).toBeLessThan(tolerance);
      this.compared++;
      this.worst = Math.max(this.worst, difference);
    }
  }

  /** Asks, and compares the answer with a fresh one. */
  async ask(prompt: Prompt, what: string, ask: Ask = {}, tolerance?: number): Promise<Answer> {
    const answer = await this.server.complete(prompt, ask);
    await this.expectFresh(prompt, answer, what, { tolerance, more: ask.more });
    return answer;
  }

  /** What was compared, in words. */
  toString(): string {
    return `${this.compared} log-probabilities compared, ${this.worst.toExponential(1)} apart at most`;
  }

  async stop(): Promise<void> {
    await this.server.stop();
    await this.#fresh.stop();
  }
}
