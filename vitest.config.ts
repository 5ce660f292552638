import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    // llama.cpp's tree has test files of its own.
    include: ['test/{unit,native,model,server}/**/*.test.ts'],
    setupFiles: ['test/seed.ts'],
    // Worker threads fail on Deno, and a crash in the library should end one file only.
    pool: 'forks',
    // Two files that decode at once would fight for the cores.
    fileParallelism: false,
    // Generous, so that a busy machine fails no test.
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
