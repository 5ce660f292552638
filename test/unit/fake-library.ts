import { JobState, Native, Status } from '../../src/ffi/native.ts';
import type { BoundSymbols } from '../../src/ffi/symbols.ts';

/** What one poll or drain of a fake job finds. */
export type Turn = { state?: JobState; progress?: number; tokens?: number[]; text?: string };

/** A job that plays its turns, one a poll or drain, and stays at the last. */
export type FakeJob = {
  turns: Turn[];
  result?: unknown;
  error?: unknown;
  cancelled: boolean;
  freed: boolean;
  request: string;
  tokens: number[];
};

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** A library in JavaScript: jobs are played from scripts, in the order of their submits. */
export class FakeLibrary {
  readonly jobs: FakeJob[] = [];
  readonly freedModels: number[] = [];
  readonly freedContexts: number[] = [];
  /** What the next submits play. */
  readonly scripts: { turns: Turn[]; result?: unknown; error?: unknown }[] = [];
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

  #turn(job: FakeJob): Turn {
    if (job.cancelled) return { state: JobState.cancelled };
    return (job.turns.length > 1 ? job.turns.shift() : job.turns[0]) ?? {};
  }

  #submit(request: Uint8Array | null, out: Uint32Array | null, tokens: Int32Array | null = null): number {
    const script = this.scripts.shift() ?? { turns: [{ state: JobState.running }] };
    this.jobs.push({
      ...script,
      cancelled: false,
      freed: false,
      request: decoder.decode(request ?? new Uint8Array()),
      tokens: [...(tokens ?? [])],
    });
    if (out) out[0] = this.jobs.length;
    return Status.ok;
  }

  #with(handle: number, use: (job: FakeJob) => number): number {
    const job = this.jobs[handle - 1];
    return !job || job.freed ? Status.handle : use(job);
  }

  #bound(): BoundSymbols {
    const ok = Status.ok;
    return {
      llama_duo_abi_version: () => 1,
      llama_duo_build_info: (buffer, capacity, needed) => write('{}', buffer, capacity, needed),
      llama_duo_log_drain: (_, __, needed) => (needed?.set([0]), ok),
      llama_duo_job_poll: (handle, state, progress) =>
        this.#with(handle, (job) => {
          const turn = this.#turn(job);
          state?.set([turn.state ?? JobState.running]);
          progress?.set([turn.progress ?? -1]);
          return ok;
        }),
      llama_duo_job_result: (handle, buffer, capacity, needed) =>
        this.#with(handle, (job) => write(JSON.stringify(job.result), buffer, capacity, needed)),
      llama_duo_job_error: (handle, buffer, capacity, needed) =>
        this.#with(handle, (job) => write(JSON.stringify(job.error), buffer, capacity, needed)),
      llama_duo_job_cancel: (handle) => this.#with(handle, (job) => ((job.cancelled = true), ok)),
      llama_duo_job_free: (handle) => this.#with(handle, (job) => ((job.freed = true), ok)),
      llama_duo_model_load: (json, _, job) => this.#submit(json, job),
      llama_duo_model_free: (model) => (this.freedModels.push(model), ok),
      llama_duo_tokenize: (_, text, length, __, tokens, capacity, needed) => {
        needed?.set([length]);
        if (length > capacity) return Status.space;
        tokens?.set(text ?? []);
        return ok;
      },
      llama_duo_detokenize: (_, tokens, count, __, buffer, capacity, needed) =>
        write(decoder.decode(Uint8Array.from(tokens?.subarray(0, count) ?? [])), buffer, capacity, needed),
      llama_duo_gates_read: (json, _, job) => this.#submit(json, job),
      llama_duo_gates_select: (json, _, job) => this.#submit(json, job),
      llama_duo_gates_embed: (json, _, job) => this.#submit(json, job),
      llama_duo_calibrate: (_, json, __, job) => this.#submit(json, job),
      llama_duo_context_create: (_, json, __, job) => this.#submit(json, job),
      llama_duo_context_plan: (_, json, __, job) => this.#submit(json, job),
      llama_duo_context_free: (context) => (this.freedContexts.push(context), ok),
      llama_duo_generate: (_, tokens, __, json, ___, job) => this.#submit(json, job, tokens),
      llama_duo_score: (_, tokens, __, json, ___, job) => this.#submit(json, job, tokens),
      llama_duo_job_drain: (handle, tokens, _, text, __, info) =>
        this.#with(handle, (job) => {
          const turn = this.#turn(job);
          const bytes = encoder.encode(turn.text ?? '');
          tokens?.set(turn.tokens ?? []);
          text?.set(bytes);
          info?.set([turn.tokens?.length ?? 0, bytes.length, turn.state ?? JobState.running, 0]);
          return ok;
        }),
      llama_duo_shutdown: () => ok,
    };
  }
}

/** The ABI's way to give text out. */
export function write(text: string, buffer: Uint8Array | null, capacity: number, needed: Int32Array | null): number {
  const bytes = encoder.encode(text);
  needed?.set([bytes.length]);
  if (bytes.length > capacity) return Status.space;
  buffer?.set(bytes);
  return Status.ok;
}
