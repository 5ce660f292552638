import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { expect, test } from 'vitest';

import { root } from '../../scripts/places.mjs';
import { needleF32, needleGates, Random, Server } from './setup.ts';

// One server for several models, each with gates of its own.

const exact = { c: '2048', np: '1', ctk: 'f32', ctv: 'f32', fa: 'on', 'flash-attn': 'on' };

test('a router whose models have gates of their own, a side-car, and none', { timeout: 180_000 }, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'llama-duo-router-'));
  const beside = join(folder, 'beside.gguf');
  copyFileSync(needleF32(), beside);
  copyFileSync(needleGates, join(folder, 'beside.duo.json'));
  const hybrid = join(root, 'models/needle-hybrid.gguf');
  // as a preset's options, and as flags of a server alone
  const models: Record<string, { model: string; duo: Record<string, string>; streaming: number | undefined }> = {
    few: {
      model: needleF32(),
      duo: { 'duo-gates': needleGates, 'duo-sparsity': '0.25', 'duo-sink': '16', 'duo-recent': '64' },
      streaming: 6,
    },
    many: { model: beside, duo: { 'duo-gates': 'auto', 'duo-sparsity': '0.75', 'duo-sink': '8', 'duo-recent': '32' }, streaming: 18 },
    hybrid: { model: hybrid, duo: { 'duo-gates': 'auto', 'duo-sparsity': '0.5' }, streaming: 8 },
    full: { model: needleF32(), duo: {}, streaming: undefined },
  };
  const options = { c: exact.c, np: exact.np, ctk: exact.ctk, ctv: exact.ctv, fa: exact.fa };
  const section = (name: string, values: Record<string, string>): string =>
    `[${name}]\n${Object.entries(values)
      .map(([key, value]) => `${key} = ${value}\n`)
      .join('')}\n`;
  const preset = join(folder, 'models.ini');
  writeFileSync(
    preset,
    Object.entries(models)
      .map(([name, { model, duo }]) => section(name, { model, ...options, ...duo }))
      .join(''),
  );
  const router = await Server.start(undefined, ['--models-preset', preset, '--models-max', '3']);
  try {
    const prompt = new Random(1).tokens(300);
    const ask = { prompt, n_predict: 8, temperature: 0, return_tokens: true, ignore_eos: true };
    const tokensOf = async (server: Server, model: string): Promise<number[]> => {
      const { status, body } = await server.post('/completion', { ...ask, model });
      expect(status, `${model}: ${JSON.stringify(body)}`).toBe(200);
      return (body as { tokens: number[] }).tokens;
    };
    // one after the other and at once, more of them than are loaded at a time
    for (const names of [Object.keys(models), Object.keys(models).reverse()]) {
      for (const name of names) {
        const { model, duo, streaming } = models[name] ?? { model: '', duo: {}, streaming: 0 };
        const answer = await tokensOf(router, name);
        const props = (await router.get(`/props?model=${name}`)) as { duo?: { heads: { streaming: number }; window: { recent: number } } };
        expect(props.duo?.heads.streaming, name).toBe(streaming);
        if (duo['duo-recent'] !== undefined) expect(props.duo?.window.recent, name).toBe(Number(duo['duo-recent']));
        const flags = [...Object.entries(options), ...Object.entries(duo)].flatMap(([key, value]) => [
          key.length > 3 ? `--${key}` : `-${key}`,
          value,
        ]);
        const alone = await Server.start(model, flags);
        try {
          expect(answer, name).toEqual(await tokensOf(alone, name));
        } finally {
          await alone.stop();
        }
      }
    }
    const both = await Promise.all(['few', 'many', 'few', 'many'].map((name) => tokensOf(router, name)));
    expect(both[0]).toEqual(both[2]);
    expect(both[1]).toEqual(both[3]);
    // what windows of 32 tokens do not see shows
    const { status } = await router.post('/completion', { ...ask, model: 'none' });
    expect([400, 404]).toContain(status);
    router.expectAlive();
  } finally {
    await router.stop('SIGTERM');
    rmSync(folder, { recursive: true, force: true });
  }
});
