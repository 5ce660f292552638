import { abiVersion, JobState, Native, Status } from '../../src/ffi/native.ts';
import { hasEnded } from '../../src/ffi/job.ts';
import { mapSymbols, type BoundSymbols } from '../../src/ffi/symbols.ts';

/** What one poll or drain of a fake job finds. */
export type Turn = { state?: JobState; progress?: number; tokens?: number[]; text?: string | Uint8Array };

/** A job that plays its turns, one a poll or drain, and stays at the last. */
export type FakeJob = {
  turns: Turn[];
  result?: unknown;
  error?: unknown;
  state?: JobState;
  cancelled: boolean;
  freed: boolean;
  request: string;
  tokens: number[];
  prompt: string;
  /** What was made and did not fit the buffers of a drain. */
  waiting: { tokens: number[]; bytes: number[] };
  data: Uint8Array;
};

type Script = { turns: Turn[]; result?: unknown; error?: unknown };

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** A library in JavaScript: jobs are played from scripts, in the order of their submits. */
export class FakeLibrary {
  readonly jobs: FakeJob[] = [];
  readonly freedModels: number[] = [];
  readonly freedContexts: number[] = [];
  /** What the next submits play. */
  readonly scripts: Script[] = [];
  /** What a job that frees a model or context plays. */
  release: Turn[] = [{ state: JobState.done }];
  readonly native: Native;

  constructor(overrides: Partial<BoundSymbols> = {}) {
    this.native = new Native({ ...this.#bound(), ...overrides }, '/fake');
  }

  play(turns: Turn[], result: unknown = {}): void {
    this.scripts.push({ turns, result });
  }

  fail(error: unknown): void {
    this.scripts.push({ turns: [{ state: JobState.failed }], error });
  }

  /** Submits the next script, for functions that a test puts in the place of the library's. */
  submit(out: Uint32Array | null): number {
    return this.#submit(null, out);
  }

  #turn(job: FakeJob): Turn {
    if (job.cancelled) return { state: JobState.cancelled };
    return (job.turns.length > 1 ? job.turns.shift() : job.turns[0]) ?? {};
  }

  #submit(
    request: Uint8Array | null,
    out: Uint32Array | null,
    given: { tokens?: Int32Array | null; text?: Uint8Array | null; data?: Uint8Array } = {},
    script: Script = this.scripts.shift() ?? { turns: [{ state: JobState.running }] },
  ): number {
    this.jobs.push({
      ...script,
      cancelled: false,
      freed: false,
      request: decoder.decode(request ?? new Uint8Array()),
      tokens: [...(given.tokens ?? [])],
      prompt: decoder.decode(given.text ?? new Uint8Array()),
      waiting: { tokens: [], bytes: [] },
      data: given.data ?? new Uint8Array(),
    });
    out?.set([this.jobs.length]);
    return Status.ok;
  }

  /** A job that gives something back. */
  #release(handle: number, freed: number[], out: Uint32Array | null): number {
    freed.push(handle);
    return this.#submit(null, out, {}, { turns: this.release, result: {} });
  }

  /** As the library drains: no more than the buffers hold, text never ahead of its tokens, and the job's end with the rest that waits. */
  #drain(
    job: FakeJob,
    tokens: Int32Array | null,
    capacity: number,
    text: Uint8Array | null,
    room: number,
    info: Int32Array | null,
  ): number {
    const { waiting } = job;
    if (waiting.tokens.length === 0 && waiting.bytes.length === 0) {
      const turn = this.#turn(job);
      waiting.tokens.push(...(turn.tokens ?? []));
      waiting.bytes.push(...(typeof turn.text === 'string' ? encoder.encode(turn.text) : (turn.text ?? [])));
      job.state = turn.state ?? JobState.running;
    }
    const takenTokens = waiting.tokens.splice(0, capacity);
    let cut = Math.min(room, waiting.bytes.length);
    while (cut < waiting.bytes.length && ((waiting.bytes[cut] ?? 0) & 0xc0) === 0x80) cut--;
    const takenBytes = waiting.bytes.splice(0, cut);
    tokens?.set(takenTokens);
    text?.set(takenBytes);
    const more = waiting.tokens.length > 0 || waiting.bytes.length > 0;
    info?.set([takenTokens.length, takenBytes.length, job.state ?? JobState.running, more ? 1 : 0]);
    return Status.ok;
  }

  #with(handle: number, use: (job: FakeJob) => number): number {
    const job = this.jobs[handle - 1];
    return !job || job.freed ? Status.handle : use(job);
  }

  #bound(): BoundSymbols {
    const ok = Status.ok;
    return {
      ...mapSymbols(() => () => Status.argument), // what no test of this library calls
      llama_duo_abi_version: () => abiVersion,
      llama_duo_build_info: (buffer, capacity, needed) => write('{}', buffer, capacity, needed),
      llama_duo_log_drain: (_, __, needed) => (needed?.set([0]), ok),
      llama_duo_job_poll: (handle, state, progress) =>
        this.#with(handle, (job) => {
          const turn = this.#turn(job);
          job.state = turn.state ?? JobState.running;
          state?.set([turn.state ?? JobState.running]);
          progress?.set([turn.progress ?? -1]);
          return ok;
        }),
      llama_duo_job_result: (handle, buffer, capacity, needed) =>
        this.#with(handle, (job) => write(JSON.stringify(job.result), buffer, capacity, needed)),
      llama_duo_job_data: (handle, buffer, capacity, needed) => this.#with(handle, (job) => writeBytes(job.data, buffer, capacity, needed)),
      llama_duo_job_error: (handle, buffer, capacity, needed) =>
        this.#with(handle, (job) => write(JSON.stringify(job.error), buffer, capacity, needed)),
      llama_duo_job_cancel: (handle) => this.#with(handle, (job) => ((job.cancelled = true), ok)),
      llama_duo_job_free: (handle) =>
        this.#with(handle, (job) => {
          job.freed = true;
          job.cancelled ||= !hasEnded(job.state ?? JobState.queued);
          return ok;
        }),
      llama_duo_model_load: (json, _, job) => this.#submit(json, job),
      llama_duo_model_free: (model, job) => this.#release(model, this.freedModels, job),
      llama_duo_tokenize: (_, text, length, __, tokens, capacity, needed) => {
        needed?.set([length]);
        if (length > capacity) return Status.space;
        tokens?.set(text ?? []);
        return ok;
      },
      llama_duo_tokenize_long: (_, text, __, ___, job) =>
        this.#submit(null, job, { text, data: new Uint8Array(Int32Array.from(text ?? []).buffer) }),
      llama_duo_detokenize: (_, tokens, count, __, buffer, capacity, needed) =>
        write(decoder.decode(Uint8Array.from(tokens?.subarray(0, count) ?? [])), buffer, capacity, needed),
      llama_duo_gates_read: (json, _, job) => this.#submit(json, job),
      llama_duo_gates_select: (json, _, job) => this.#submit(json, job),
      llama_duo_gates_embed: (json, _, job) => this.#submit(json, job),
      llama_duo_calibrate: (_, json, __, job) => this.#submit(json, job),
      llama_duo_context_create: (_, json, __, job) => this.#submit(json, job),
      llama_duo_context_plan: (_, json, __, job) => this.#submit(json, job),
      llama_duo_context_free: (context, job) => this.#release(context, this.freedContexts, job),
      llama_duo_generate: (_, tokens, __, text, ___, json, ____, job) => this.#submit(json, job, { tokens, text }),
      llama_duo_score: (_, tokens, __, text, ___, json, ____, job) => this.#submit(json, job, { tokens, text }),
      llama_duo_job_drain_choice: (handle, _, tokens, capacity, text, room, info) =>
        this.#with(handle, (job) => this.#drain(job, tokens, capacity, text, room, info)),
      llama_duo_own_by_this_thread: () => ok,
      llama_duo_shutdown: () => ok,
    };
  }
}

/** The ABI's way to give text out. */
export function write(text: string, buffer: Uint8Array | null, capacity: number, needed: Int32Array | null): number {
  return writeBytes(encoder.encode(text), buffer, capacity, needed);
}

function writeBytes(bytes: Uint8Array, buffer: Uint8Array | null, capacity: number, needed: Int32Array | null): number {
  needed?.set([bytes.length]);
  if (bytes.length > capacity) return Status.space;
  buffer?.set(bytes);
  return Status.ok;
}
