import { openNative } from '../ffi/native.ts';

export type LogLine = { level: 'debug' | 'info' | 'warn' | 'error'; message: string };

/**
 * Takes the lines that the library has logged since the last call, oldest first. It keeps 64 KiB of them and drops the oldest; it never writes to the
 * terminal.
 */
export async function drainLog(options: { library?: string | undefined } = {}): Promise<LogLine[]> {
  const native = await openNative(options.library);
  const lines: LogLine[] = [];
  for (let text = native.logDrain(); text !== ''; text = native.logDrain()) {
    for (const line of text.split('\n')) {
      const tab = line.indexOf('\t');
      if (tab > 0) lines.push({ level: line.slice(0, tab) as LogLine['level'], message: line.slice(tab + 1) });
    }
  }
  return lines;
}
