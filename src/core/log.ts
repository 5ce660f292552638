import { OptionError } from '../errors.ts';
import { openedNatives } from '../ffi/native.ts';
import { pump } from '../ffi/pump.ts';
import { choice } from './options.ts';

/** From all that is said to what went wrong. */
export const logLevels = ['debug', 'info', 'warn', 'error'] as const;
export type LogLevel = (typeof logLevels)[number];

export type LogLine = { level: LogLevel; message: string };

/**
 * Gets what the library and llama.cpp log from now on, and what they have logged before: 64 KiB of it are kept, the oldest dropped first. Without a sink
 * nothing is told, and nothing is ever written to the terminal. There is one log for the whole process, and one sink for each of its threads: a line goes to the
 * first that finds it.
 *
 * @param sink undefined: none any more
 * @param level of the least important lines that it gets
 */
export function setLog(sink: ((line: LogLine) => void) | undefined, level: LogLevel = 'info'): void {
  const levels = choice(logLevels, { doc: '' });
  if (!levels.accepts(level)) throw new OptionError('level', level, levels.expected);
  if (sink !== undefined && typeof sink !== 'function') throw new OptionError('sink', sink, 'a function, or undefined');
  if (sink === undefined) {
    pump.observe(undefined);
    return;
  }
  const least = logLevels.indexOf(level);
  const tell = (): void => {
    for (const line of drainLog()) {
      if (logLevels.indexOf(line.level) >= least) deliver(sink, line);
    }
  };
  pump.observe(tell);
  tell(); // what was logged before
}

/** What a sink throws is the program's, and stops no job. */
function deliver(sink: (line: LogLine) => void, line: LogLine): void {
  try {
    sink(line);
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

/** @internal The lines since the last call, oldest first. */
export function drainLog(): LogLine[] {
  const lines: LogLine[] = [];
  for (const native of openedNatives()) {
    for (let text = native.logDrain(); text !== ''; text = native.logDrain()) {
      for (const line of text.split('\n')) {
        const tab = line.indexOf('\t');
        if (tab > 0) lines.push({ level: line.slice(0, tab) as LogLevel, message: line.slice(tab + 1) });
      }
    }
  }
  return lines;
}
