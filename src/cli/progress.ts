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
  readonly #began = performance.now();
  #started = false;

  /**
   * @param progress what is done, what of it an earlier run did, and what there is to do
   * @param what is under way
   */
  update({ done, resumed, total }: { done: number; resumed: number; total: number }, what: string): void {
    const seconds = (performance.now() - this.#began) / 1000;
    const fresh = done - resumed;
    const left = fresh > 0 ? duration(((total - done) * seconds) / fresh) : '?';
    const payload = { left, what };
    if (this.#started) this.#bar.update(done, payload);
    else this.#bar.start(total, done, payload);
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

/** 75 is 1:15. */
function duration(seconds: number): string {
  const whole = Math.ceil(seconds);
  const two = (count: number): string => String(count).padStart(2, '0');
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours > 0 ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}
