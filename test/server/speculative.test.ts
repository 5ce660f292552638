import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';

import { all } from '../extent.ts';
import { chequered, modelPath, patternOf } from '../model/setup.ts';
import { idsOf, needleF32, needleGates, Pair, Random, Server, writeModel } from './setup.ts';

// Answers with drafts equal those without, token by token; drafts are partly right and partly wrong.

const exact = ['-c', '8192', '-ctk', 'f32', '-ctv', 'f32', '-ctkd', 'f32', '-ctvd', 'f32', '-fa', 'on', '-ub', '64'];
const small = ['--duo-sink', '16', '--duo-recent', '64'];

const draft = 'DRAFT'; // stands for the draft model's file
const cases: { name: string; architecture?: string; kind?: 'plain' | 'predicts' | 'windows'; slots: number; flags: string[] }[] = [
  // it sees all that its target has forgotten: it is wrong by that
  { name: 'needle.gguf drafts for itself', slots: 3, flags: ['-md', draft, '--spec-draft-n-max', '8'] },
  { name: 'lookup in the prompt', slots: 1, flags: ['--spec-type', 'ngram-simple', '--spec-ngram-simple-size-n', '2'] },
  { name: 'a draft model for windows', architecture: 'olmo2', kind: 'windows', slots: 2, flags: ['-md', draft, '--spec-draft-n-max', '6'] },
  { name: 'multi-token prediction', architecture: 'qwen35', kind: 'predicts', slots: 1, flags: ['--spec-type', 'draft-mtp'] },
  { name: 'multi-token prediction', architecture: 'qwen3next', kind: 'predicts', slots: 3, flags: ['--spec-type', 'draft-mtp'] },
  {
    name: 'a draft model with states',
    architecture: 'qwen35',
    kind: 'predicts',
    slots: 2,
    flags: ['-md', draft, '--spec-draft-n-max', '6'],
  },
];
const others: typeof cases = [
  { name: 'needle.gguf drafts for itself', slots: 1, flags: ['-md', draft, '--spec-draft-n-max', '8'] },
  { name: 'lookup in the prompt', slots: 3, flags: ['--spec-type', 'ngram-simple', '--spec-ngram-simple-size-n', '2'] },
  { name: 'multi-token prediction', architecture: 'qwen35', kind: 'predicts', slots: 3, flags: ['--spec-type', 'draft-mtp'] },
];

describe.each(all ? [...cases, ...others] : cases)(
  '$name, $architecture $flags -np $slots',
  ({ architecture, kind = 'plain', slots, flags }) => {
    const folder = mkdtempSync(join(tmpdir(), 'llama-duo-drafts-'));
    let pair: Pair;
    let drafted = 0;
    let accepted = 0;
    beforeAll(async () => {
      if (architecture !== undefined) writeModel(architecture, kind, folder);
      const [model, drafter, gates] =
        architecture === undefined
          ? [needleF32(), needleF32(), needleGates]
          : [join(folder, 'model.gguf'), join(folder, 'draft.gguf'), join(folder, 'model.duo.json')];
      pair = await Pair.start(
        model,
        [...exact, '--duo-gates', gates, '--duo-sparsity', '0.5', ...small],
        [
          '-np',
          String(slots),
          ...(flags.includes(draft) ? ['--spec-type', 'draft-simple'] : []),
          ...flags.map((flag) => (flag === draft ? drafter : flag)),
        ],
      );
    });
    afterAll(async () => {
      await pair.stop();
      rmSync(folder, { recursive: true, force: true });
      console.log(
        `${architecture ?? 'needle'} -np ${slots} ${flags.join(' ')}: ${accepted} of ${drafted} drafted tokens accepted; ${pair.toString()}`,
      );
    });
    afterEach(() => pair.server.expectAlive());

    const random = new Random(slots);
    const sentence = random.tokens(60);
    const prompt = [...sentence, ...random.tokens(200), ...sentence, ...random.tokens(100), ...sentence.slice(0, 20)];
    const count = (answer: { drafted: number; accepted: number }): void => {
      drafted += answer.drafted;
      accepted += answer.accepted;
    };

    test('a conversation that goes on, is edited and is taken up again', { timeout: 120_000 }, async () => {
      const text = [...prompt];
      for (let turn = 0; turn < 4; turn++) {
        const answer = await pair.ask(text, `turn ${turn}`, { slot: 0, tokens: 60 });
        count(answer);
        if (turn > 0) expect(answer.reused).toBeGreaterThan(0);
        text.push(...idsOf(answer), ...random.tokens(10));
      }
      count(await pair.ask([...text.slice(0, 250), ...sentence], 'an edit', { slot: 0, tokens: 40 }));
      count(await pair.ask(text, 'as it was', { slot: 0, tokens: 40 }));
      count(await pair.ask(text, 'the same again', { slot: 0, tokens: 40 }));
      count(await pair.ask(text.slice(0, text.length - 30), 'less of it', { slot: 0, tokens: 40 }));
    });

    test('requests side by side, and clients that hang up', { timeout: 120_000 }, async () => {
      for (let round = 0; round < 3; round++) {
        const prompts = Array.from({ length: 4 }, () => [
          ...prompt.slice(0, random.below(prompt.length)),
          ...random.tokens(1 + random.below(60)),
          ...sentence,
        ]);
        const hangingUp = [1, 5].map((pieces) => pair.server.hangUp([...prompt, ...random.tokens(3)], pieces));
        const answers = await Promise.all(prompts.map((one) => pair.server.complete(one, { tokens: 40 })));
        await Promise.all(hangingUp);
        for (const [index, answer] of answers.entries()) {
          count(answer);
          await pair.expectFresh(prompts[index] ?? [], answer, `request ${index} of round ${round}`);
        }
        count(await pair.ask(prompt, `after round ${round}`, { tokens: 20 }));
      }
      const alike = await pair.server.completeAll(prompt, { tokens: 30, more: { n_cmpl: slots } });
      for (const answer of alike) await pair.expectFresh(prompt, answer, 'one of several answers');
    });

    test('slots are saved and restored, and a state that is cut off is refused', async () => {
      const { server } = pair;
      const first = await pair.ask(prompt, 'the prompt', { slot: 0, tokens: 20 });
      expect((await server.slots('save', 0, 'slot')).status).toBe(200);
      count(await pair.ask(random.tokens(150), 'another prompt', { slot: 0, tokens: 20 }));
      expect((await server.slots('restore', 0, 'slot')).status).toBe(200);
      count(await pair.ask([...prompt, ...idsOf(first), ...sentence], 'the restored prompt and more', { slot: 0, tokens: 40 }));
      const bytes = readFileSync(join(server.folder, 'slot'));
      writeFileSync(join(server.folder, 'cut'), bytes.subarray(0, bytes.length - 8));
      expect((await server.slots('restore', 0, 'cut')).status).toBe(400);
      count(await pair.ask([...prompt, ...sentence], 'after what was refused', { slot: 0, tokens: 40 }));
    });

    test('some drafted tokens were right, and some wrong', () => {
      expect(accepted).toBeGreaterThan(0);
      expect(accepted).toBeLessThan(drafted);
    });
  },
);

test('SmolLM2 drafts for itself with half of its heads streaming', { timeout: 600_000 }, async () => {
  const gates = `${modelPath}.test-drafts.json`;
  writeFileSync(gates, patternOf(chequered(30, 3)));
  const flags = ['-c', '4096', '-ctk', 'f32', '-ctv', 'f32', '--duo-gates', gates, '--duo-sparsity', '0.5', ...small];
  const pair = await Pair.start(modelPath, flags, ['-np', '2', '-md', modelPath, '--spec-type', 'draft-simple', '--spec-draft-n-max', '6']);
  try {
    const random = new Random(3);
    const prompts = [random.tokens(500), random.tokens(350)];
    const answers = await Promise.all(prompts.map((prompt) => pair.server.complete(prompt, { tokens: 48 })));
    for (const [index, answer] of answers.entries()) {
      // its weights are quantised, and tokens that are verified together are rounded otherwise
      await pair.expectFresh(prompts[index] ?? [], answer, `prompt ${index}`, { tolerance: 0.3 });
      console.log(`SmolLM2: ${answer.accepted} of ${answer.drafted} drafted tokens accepted`);
      expect(answer.accepted).toBeGreaterThan(0);
    }
    pair.server.expectAlive();
  } finally {
    await pair.stop();
  }
});

test.each([
  {
    flags: ['-np', '4', '-b', '64', '--spec-type', 'ngram-simple'],
    says: '4 sequences (-np) that draft up to 48 tokens (--spec-*) in batches of 64 tokens',
  },
])('$flags is refused with a sentence', async ({ flags, says }) => {
  const start = Server.start(needleF32(), [...exact, '--duo-gates', needleGates, ...flags]);
  await expect(start).rejects.toThrow(`mixed heads (--duo-*) cannot be used with ${says}`);
});

test('drafts longer than a ubatch has room for are refused with a sentence where they are taken back from states', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'llama-duo-drafts-'));
  try {
    writeModel('qwen35', 'predicts', folder);
    const own = ['--duo-gates', 'auto', '--spec-type', 'draft-mtp', '--spec-draft-n-max', '63', '-np', '1', '-fit', 'off'];
    await expect(Server.start(join(folder, 'model.gguf'), [...exact, ...own])).rejects.toThrow(
      'drafts of 63 tokens (--spec-draft-n-max) are to be taken back from recurrent states',
    );
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
