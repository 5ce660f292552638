import { expect, test } from 'vitest';

import { idsOf, needleF32, needleGates, Pair, Random } from './setup.ts';

// `npm run test:soak` takes more steps; a seed that an earlier run printed repeats it.
const steps = Number(process.env['LLAMA_DUO_TEST_STEPS'] ?? 30);
const seed = Number(process.env['LLAMA_DUO_TEST_SEED'] ?? Date.now() % 2 ** 32);

/** Requests at random, as clients of all kinds send them together; each answer is compared with a fresh one. */
async function walk(slots: number, ubatch: number, random: Random): Promise<string> {
  const flags = ['-c', String(2048 * slots), '-ctk', 'f32', '-ctv', 'f32', '-fa', 'on', '-ub', String(ubatch)];
  const duo = ['--duo-gates', needleGates, '--duo-sink', '16', '--duo-recent', '64', '--duo-chunk', String([1, 1, 32][random.below(3)])];
  // few checkpoints and few stored prompts, so that both come and go
  const pair = await Pair.start(
    needleF32(),
    [...flags, ...duo],
    ['-np', String(slots), '--ctx-checkpoints', '4', '--cache-ram', '8', '-lv', '4'],
  );
  const { server } = pair;

  // What slots may hold; prompts are made from them, so that they share beginnings.
  const texts: number[][] = [random.tokens(1)];
  const saved: string[] = [];
  const counts: Record<string, number> = {};
  let reused = 0;

  const pick = <T>(list: [T, ...T[]]): T => list[random.below(list.length)] ?? list[0];
  const asks: ['ask', ...string[]] = ['ask', 'ask', 'ask', 'ask', 'ask', 'ask', 'ask', 'ask'];
  const nextPrompt = (): number[] => {
    // mostly the last one: what its slot holds still
    const base = texts[random.below(3) > 0 ? texts.length - 1 : random.below(texts.length)] ?? [];
    const prompt = [...base];
    const way =
      base.length < 300
        ? pick(['goes on', 'parts early', 'unrelated', 'unrelated', 'unrelated'])
        : pick(['goes on', 'goes on', 'edited', 'edited', 'cut', 'another end', 'another end', 'another end', 'parts early', 'unrelated']);
    switch (way) {
      case 'goes on':
        prompt.push(...random.tokens(1 + random.below(100)));
        break;
      case 'edited': // a few tokens, and all that follows stays
        prompt.splice(random.below(base.length), random.below(4), ...random.tokens(1 + random.below(4)));
        break;
      case 'cut':
        prompt.length = 1 + random.below(base.length);
        break;
      case 'another end':
        prompt.length = random.below(base.length + 1);
        prompt.push(...random.tokens(1 + random.below(pick([6, 60, 600]))));
        break;
      case 'parts early':
        prompt.length = Math.min(prompt.length, random.below(21));
        prompt.push(...random.tokens(1 + random.below(pick([6, 60, 600]))));
        break;
      default:
        prompt.splice(0, prompt.length, ...random.tokens(pick([1, 5, 6, 60, 700, 1500, 1500])));
    }
    return prompt.slice(0, 1900);
  };
  const keep = (text: number[]): void => {
    texts.push(text);
    if (texts.length > 8) texts.shift();
  };

  try {
    // What chance may leave out of a short walk: a prompt that goes on in the slot that holds its beginning.
    const beginning = random.tokens(400);
    await pair.ask(beginning, `seed ${seed}, before the walk`, { slot: 0, tokens: 1, reuse: true });
    const more = [...beginning, ...random.tokens(50)];
    const { reused: held } = await pair.ask(more, `seed ${seed}, before the walk`, { slot: 0, tokens: 1, reuse: true });
    expect(held).toBeGreaterThanOrEqual(beginning.length);
    keep(more);

    for (let step = 0; step < steps; step++) {
      const slot = pick([-1, random.below(slots)]); // -1: the server's choice
      const what = `seed ${seed}, -np ${slots} -ub ${ubatch}, step ${step}`;
      const kind = pick([...asks, 'without reuse', 'together', 'together', 'hang up', 'save', 'restore', 'several']);
      counts[kind] = (counts[kind] ?? 0) + 1;
      switch (kind) {
        case 'together': {
          const prompts = Array.from({ length: 1 + slots }, nextPrompt);
          const answers = await Promise.all(prompts.map((prompt) => server.complete(prompt, { tokens: 1 + random.below(12) })));
          for (const [index, prompt] of prompts.entries()) {
            const answer = answers[index];
            if (!answer) continue;
            await pair.expectFresh(prompt, answer, `${what}, request ${index} of ${prompts.length}`);
            keep([...prompt, ...idsOf(answer)]);
          }
          break;
        }
        case 'several': {
          const prompt = nextPrompt();
          const answers = await server.completeAll(prompt, { tokens: 3, more: { n_cmpl: slots } });
          for (const answer of answers) await pair.expectFresh(prompt, answer, `${what}, several`);
          keep(prompt);
          break;
        }
        case 'hang up': {
          const prompt = nextPrompt();
          await server.hangUp(prompt, random.below(4), slot);
          keep(prompt);
          break;
        }
        case 'save': {
          const name = `slot-${random.below(3)}`;
          expect((await server.slots('save', Math.max(slot, 0), name)).status, what).toBe(200);
          saved.push(name);
          break;
        }
        case 'restore':
          if (saved.length > 0) {
            const { status } = await server.slots('restore', Math.max(slot, 0), saved[random.below(saved.length)]);
            expect(status, what).toBe(200);
          }
          break;
        default: {
          const prompt = nextPrompt();
          const ask = { slot, tokens: 1 + random.below(20), reuse: kind === 'ask' };
          const answer = await pair.ask(prompt, `${what}, ${prompt.length} tokens, ${JSON.stringify(ask)}`, ask);
          reused += answer.reused;
          keep([...prompt, ...idsOf(answer)]);
        }
      }
      server.expectAlive();
    }
  } finally {
    await pair.stop();
  }
  expect(pair.compared).toBeGreaterThan(steps);
  const restored = server.log.split('restored context checkpoint').length - 1;
  return `${JSON.stringify(counts)}, ${reused} tokens reused, ${restored} checkpoints restored, ${pair.toString()}`;
}

test.each([
  { slots: 1, ubatch: 64 },
  { slots: 1, ubatch: 512 },
  { slots: 4, ubatch: 64 },
  { slots: 4, ubatch: 512 },
])('a random walk of requests, -np $slots -ub $ubatch', { timeout: 300_000 + steps * 10_000 }, async ({ slots, ubatch }) => {
  console.log(`${steps} steps, LLAMA_DUO_TEST_SEED=${seed}`);
  console.log(await walk(slots, ubatch, new Random(seed + slots * 7919 + ubatch)));
});
