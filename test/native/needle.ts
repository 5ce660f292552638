import { fileURLToPath } from 'node:url';

/** The model that comes with the repository. */
export const needlePath = fileURLToPath(new URL('../../models/needle.gguf', import.meta.url));

/** One: threads that wait for each other crawl beside other work, and these tests are about other things than speed. */
export const threads = 1;

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
