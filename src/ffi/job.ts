import { onAbort } from './abort.ts';
import { CancelledError, errorFromJob } from '../errors.ts';
import { JobState, type Drained, type Handle, type Native } from './native.ts';
import { pump } from './pump.ts';

/** A job of the library: its handle goes back once, whoever is first. */
export class Job {
  readonly #native: Native;
  readonly #handle: Handle;
  #freed = false;

  /** @param handle of the job, which is this object's to free */
  constructor(native: Native, handle: Handle) {
    this.#native = native;
    this.#handle = handle;
  }

  poll(): { state: JobState; progress: number } {
    return this.#native.jobPoll(this.#handle);
  }

  /** @param index of the text, where there are several */
  drain(tokens: Int32Array, text: Uint8Array, index = 0): Drained {
    return this.#native.jobDrain(this.#handle, tokens, text, index);
  }

  drainLogProbabilities(numbers: Float64Array, index = 0): Float64Array {
    return this.#native.jobDrainLogProbabilities(this.#handle, numbers, index);
  }

  /**
   * The result's JSON as a value.
   *
   * @throws the job's typed error where it has failed, CancelledError where it was cancelled
   */
  result(state: JobState): unknown {
    if (state === JobState.failed) throw errorFromJob(this.#native.jobError(this.#handle));
    if (state === JobState.cancelled) throw new CancelledError('The work was cancelled.');
    return JSON.parse(this.#native.jobResult(this.#handle));
  }

  /** The numbers that belong to the result. */
  data(): Uint8Array<ArrayBuffer> {
    return this.#native.jobData(this.#handle);
  }

  cancel(): void {
    if (this.#freed) return;
    this.#native.jobCancel(this.#handle);
    pump.wake();
  }

  /** Gives the handle back, and cancels the job if it has not ended. */
  free(): void {
    if (this.#freed) return;
    this.#freed = true;
    this.#native.jobFree(this.#handle);
  }
}

/** Whether a job has come to its end, be it good or bad. */
export function hasEnded(state: JobState): boolean {
  return state >= JobState.done;
}

export type JobOptions<T> = {
  signal?: AbortSignal | undefined;
  /** Gets a number from 0 to 1, each time that it has grown. What it throws ends the work, as aborting does. */
  onProgress?: ((progress: number) => void) | undefined;
  /** Gives back what was made by a job that came to its end although it was stopped. */
  discard?: ((result: T) => void) | undefined;
  /** Reads more of a job that is done than its result. */
  read?: ((job: Job, result: unknown) => T) | undefined;
  /** Whose work it is: not collected as garbage while it is under way, since that would end it. */
  owner?: object | undefined;
};

/**
 * Runs a job to its end and gives its result.
 *
 * @throws the job's typed error; `signal.reason` or what `onProgress` threw at once: the engine stops in its own time
 */
export async function runJob<T>(native: Native, submit: () => Handle, options: JobOptions<T> = {}): Promise<T> {
  const { signal, onProgress, discard, read = (_, result) => result as T, owner } = options;
  signal?.throwIfAborted();
  const job = new Job(native, submit());
  return new Promise<T>((resolve, reject) => {
    let stopped = false;
    const stop = (reason: unknown): void => {
      if (stopped) return;
      stopped = true;
      job.cancel();
      // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- whatever the caller chose
      reject(reason);
    };
    let reported = 0;
    const report = (progress: number): void => {
      if (!onProgress || stopped || progress <= reported) return;
      reported = progress;
      try {
        onProgress(progress);
      } catch (error) {
        stop(error);
      }
    };
    const stopListening =
      signal &&
      onAbort(signal, () => {
        stop(signal.reason);
      });
    pump
      .until((): T | undefined => {
        const { state, progress } = job.poll();
        report(progress);
        return hasEnded(state) ? read(job, job.result(state)) : undefined;
      }, owner)
      .finally(() => {
        job.free();
        stopListening?.();
      })
      .then((result) => {
        if (stopped) discard?.(result);
        else resolve(result);
      }, reject);
  });
}
