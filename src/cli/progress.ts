// cli-progress draws on terminals of any width, and writes plain lines where there is none.
import { Presets, SingleBar } from 'cli-progress';

import type { Progress } from '../eval/evaluate.ts';
import { formatCount } from './output.ts';

/** A bar on stderr with the time that is left. */
export class ProgressBar {
  readonly #bar = new SingleBar(
    {
      format: '{bar} {percentage}% | {left} left | {what}',
      stream: process.stderr,
      barsize: 24,
      hideCursor: true,
      clearOnComplete: true,
      fps: 5,
      noTTYOutput: true,
      notTTYSchedule: 10_000,
    },
    Presets.shades_classic,
  );
  /** When work began, and what was done by then: by an earlier run that this one goes on from. */
  #began: { at: number; done: number } | undefined;
  #started = false;

  /** Shows what is under way before the work whose time is told: the reading of a file, for instance. */
  wait(what: string): void {
    this.#show(0, 1, '?', what);
  }

  /** What is done and what there is to do. What is done at the first call took no time of this run. */
  update({ done, total }: { done: number; total: number }, what: string): void {
    this.#began ??= { at: performance.now(), done };
    this.#show(done, total, timeLeft(this.#began, { done, total }, performance.now()), what);
  }

  #show(done: number, total: number, left: string, what: string): void {
    const payload = { left, what };
    if (!this.#started) this.#bar.start(total, done, payload);
    this.#bar.setTotal(total);
    this.#bar.update(done, payload);
    this.#started = true;
  }

  stop(): void {
    if (this.#started) this.#bar.stop();
  }
}

/** What an evaluation is at. */
export function underWay({ task, length, variant }: Progress): string {
  return `${task}, ${formatCount(length)} tokens, ${variant}`;
}

/** In the pace since work began. */
export function timeLeft(began: { at: number; done: number }, { done, total }: { done: number; total: number }, now: number): string {
  const fresh = done - began.done;
  return fresh > 0 ? duration(((total - done) * (now - began.at)) / 1000 / fresh) : '?';
}

/** 75 is 1:15. */
function duration(seconds: number): string {
  const whole = Math.ceil(seconds);
  const two = (count: number): string => String(count).padStart(2, '0');
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours > 0 ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}
