import { afterEach, expect, test, vi } from 'vitest';

import { evalCommand } from '../../../src/cli/eval.ts';

afterEach(() => {
  vi.unstubAllEnvs();
});

test.each(['mbpp', 'needle,humaneval'])('%s without python3 is refused before a model is looked for', async (tasks) => {
  vi.stubEnv('PATH', '/nowhere');
  const running = evalCommand.run(['-m', '/nowhere/model.gguf', '--task', tasks], new AbortController().signal);
  await expect(running).rejects.toThrow(/There is no python3 in PATH/);
});
