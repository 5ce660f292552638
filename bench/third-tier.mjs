// Whether heads that keep every position in 4 bits, with a recent window in full precision, would be worth having beside those that drop what is outside a window:
//
//   cmake --build build --target bench-third-tier
//   node bench/third-tier.mjs MODEL [-c 2048] [--samples 3] [--seed 1] [--windows 256,1024] [--recent 256] [--tokens 16384,131072] [--shares 0.35,0.27,0.2,0.15] [--ngl 0]
//     [--threads N] [--program build/bench-third-tier] [--json FILE]
//
// bench/third-tier.cpp says what is measured. Needs `npm run build`.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import Table from 'cli-table3';
import { loadModel } from '../dist/index.js';
import { calibrationSamples } from '../dist/synthetic/samples.js';
import { sampleKinds } from '../dist/gates/sample-kinds.js';
import { ownTurns } from '../dist/synthetic/turns.js';
import { root } from '../scripts/places.mjs';
import { runMain, SetupError } from '../scripts/tools.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    ctx: { type: 'string', short: 'c', default: '2048' },
    samples: { type: 'string', default: '3' },
    seed: { type: 'string', default: '1' },
    windows: { type: 'string', default: '256,1024' },
    recent: { type: 'string', default: '256' },
    tokens: { type: 'string', default: '16384,131072' },
    shares: { type: 'string', default: '0.35,0.27,0.2,0.15' },
    ngl: { type: 'string', default: '0' },
    threads: { type: 'string', default: String(availableParallelism()) },
    program: { type: 'string', default: join(root, 'build/bench-third-tier') },
    json: { type: 'string' },
  },
});
/** @param {string} list */
const numbers = (list) => list.split(',').map(Number);
const windows = numbers(values.windows);
const sink = 64;

runMain(async () => {
  const [path] = positionals;
  if (path === undefined) throw new SetupError('Name a GGUF model.');
  if (!existsSync(values.program)) throw new SetupError(`There is no ${values.program}: build the target bench-third-tier.`);
  const model = await loadModel(path);
  const samples = await calibrationSamples(model, Number(values.samples), {
    contextSize: Number(values.ctx),
    questions: 6,
    kinds: sampleKinds,
    turns: await ownTurns(model),
    sink,
    recent: windows.at(-1) ?? 0,
    seed: Number(values.seed),
  });
  await model.dispose();

  const folder = mkdtempSync(join(tmpdir(), 'llama-duo-third-tier-'));
  try {
    const request = join(folder, 'request.json');
    writeFileSync(
      request,
      JSON.stringify({
        model: path,
        threads: Number(values.threads),
        gpuLayers: Number(values.ngl),
        samples,
        sink,
        recent: Number(values.recent),
        windows,
        tokens: numbers(values.tokens),
        shares: numbers(values.shares),
      }),
    );
    const output = execFileSync(values.program, [request], { stdio: ['ignore', 'pipe', 'inherit'], maxBuffer: 2 ** 28, encoding: 'utf8' });
    const found = JSON.parse(output);
    if (values.json !== undefined) writeFileSync(values.json, JSON.stringify({ model: path, ...values, ...found }, null, 1));
    const table = new Table({ head: ['tokens', 'of f16', 'tiers', 'heads', 'change, nats', 'drop, nats', 'answer tokens right'] });
    for (const { tokens, used, tiers, heads, loss } of found.choices) {
      const share = (/** @type {number} */ x) => `${(100 * x).toFixed(1)}%`;
      const counts = Object.entries(heads).map(([what, count]) => `${count} ${what}`);
      table.push([tokens, share(used), tiers, counts.join(', '), loss.change.toFixed(4), loss.drop.toFixed(4), share(loss.correct)]);
    }
    console.log(table.toString());
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
