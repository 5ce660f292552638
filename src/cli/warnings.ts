import type { ContextWarning } from '../index.ts';

const told = new Set<string>();

/** What a user should know, of a context for instance, on stderr, each thing once. */
export function warn(warnings: readonly Pick<ContextWarning, 'message'>[]): void {
  for (const { message } of warnings) {
    if (told.has(message)) continue;
    told.add(message);
    process.stderr.write(`warning: ${message}\n`);
  }
}
