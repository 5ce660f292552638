import { createInterface } from 'node:readline';

import { print } from './output.ts';

/** What a user types, or a program writes, on stdin: message by message. */
export class UserMessages {
  readonly #signal: AbortSignal;
  #messages: AsyncGenerator<string, void> | undefined;

  /** @param signal ends the waiting for a line */
  constructor(signal: AbortSignal) {
    this.#signal = signal;
  }

  /** The next message; undefined where there is none. */
  async next(): Promise<string | undefined> {
    if (process.stdin.isTTY) await print('\n> ');
    // Nothing is read before it is asked for. The terminal edits lines itself, so that Ctrl-C stays an interrupt.
    this.#messages ??= messagesOf(createInterface({ input: process.stdin, terminal: false, signal: this.#signal }));
    const { value } = await this.#messages.next();
    return value ?? undefined;
  }

  /** Lets go of stdin, which would keep the process alive. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#messages?.return();
  }
}

/** Messages of lines, as llama.cpp's tools read them: a line that ends with `\` goes on in the next, and a `/` at an end is left out. */
export async function* messagesOf(lines: AsyncIterable<string>): AsyncGenerator<string, void> {
  let begun: string[] = [];
  for await (const line of lines) {
    const goesOn = line.endsWith('\\');
    begun.push(goesOn || line.endsWith('/') ? line.slice(0, -1) : line);
    if (goesOn) continue;
    const message = begun.join('\n');
    begun = [];
    if (message !== '') yield message;
  }
  if (begun.length > 0) yield begun.join('\n');
}
