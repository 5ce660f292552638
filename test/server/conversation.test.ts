import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { expect, test } from 'vitest';

import { root } from '../../scripts/places.mjs';
import { chequered, modelPath, patternOf } from '../model/setup.ts';
import { idsOf, inF32, needleF32, needleGates, Pair, Random, Server } from './setup.ts';

// A conversation that grows, as clients of all kinds have it: most turns go on, some answers come back shorter than they were, some messages are edited,
// near the end and far behind. `npm run test:soak` has 50 turns and 8K tokens, and SmolLM2, too.

const whole = process.env['LLAMA_DUO_TEST_CONVERSATION'] !== undefined;
const turns = whole ? 50 : 25;
const long = whole ? 8192 : 3072;

interface Count {
  tokens: number;
  edited: string;
  'not held': number;
  'again, duo': number;
  'again, stock': number;
}

async function converse(
  model: string,
  gates: string,
  { tolerance, compare }: { tolerance: number; compare: (turn: number) => boolean },
): Promise<Count[]> {
  const flags = ['-c', String(long + 1024), '-ctk', 'f32', '-ctv', 'f32', '-fa', 'on'];
  const duo = ['--duo-gates', gates, '--duo-sparsity', '0.5'];
  const pair = await Pair.start(model, [...flags, ...duo], ['-np', '1']);
  const stock = await Server.start(model, [...flags, '-np', '1']);
  const random = new Random(50);
  const counts: Count[] = [];
  try {
    // what each turn adds, so that the last ones are about 8K
    const message = Math.floor(long / turns) - 8;
    let chat: number[] = [];
    let held: number[] = []; // what the slots have: the last prompt and its answer, but for the answer's last token
    const common = (): number => {
      let n = 0;
      while (n < chat.length && n < held.length && chat[n] === held[n]) n++;
      return n;
    };
    for (let turn = 0; turn < turns; turn++) {
      chat.push(...random.tokens(message));
      let edited = '';
      const edit = (what: string, back: number): void => {
        edited = what;
        const at = Math.max(0, chat.length - message - back);
        chat.splice(at, 5, ...random.tokens(4 + random.below(3)));
      };
      if (turn % 10 === 4) edit('the last message', 20);
      if (turn % 10 === 7) edit('half way back', chat.length >> 1);
      if (turn % 20 === 19) edit('the beginning', chat.length);
      const unchanged = common();
      const answer = await pair.server.complete(chat, { tokens: 8 });
      const theirs = await stock.complete(chat, { tokens: 8 });
      if (compare(turn)) await pair.expectFresh(chat, answer, `turn ${turn}`, { tolerance });
      const missing = chat.length - Math.min(unchanged, chat.length - 1);
      counts.push({
        tokens: chat.length,
        edited,
        'not held': missing,
        'again, duo': answer.processed - missing,
        'again, stock': theirs.processed - missing,
      });
      held = [...chat, ...idsOf(answer).slice(0, -1)];
      // every fifth answer comes back without its end, as of a client that leaves out what was thought
      chat = [...chat, ...idsOf(answer).slice(0, turn % 5 === 2 ? 3 : 8)];
    }
    expect(chat.length).toBeGreaterThan(long - 300);
    console.log(pair.toString());
    pair.server.expectAlive();
  } finally {
    console.table(counts);
    const sum = (of: 'not held' | 'again, duo' | 'again, stock'): number => counts.reduce((all, count) => all + count[of], 0);
    console.log(
      `${sum('not held')} tokens that were not held, processed again: ${sum('again, duo')} with mixed heads, ${sum('again, stock')} without`,
    );
    await pair.stop();
    await stock.stop();
  }
  return counts;
}

function expectReuse(counts: Count[]): void {
  for (const { tokens, edited, 'again, duo': again, 'not held': missing } of counts) {
    // what goes on, or lost no more than what may be taken back, is not processed again
    if (edited === '' || edited === 'the last message') expect(again, `${tokens} tokens`).toBe(0);
    // what was edited far behind goes on from a checkpoint
    expect(again + missing).toBeLessThanOrEqual(tokens);
  }
}

test('needle.gguf with F32 weights and cache', { timeout: 600_000 }, async () => {
  const counts = await converse(needleF32(), needleGates, {
    tolerance: 1e-4,
    compare: (turn) => [4, 7, 8, 9].includes(turn % 10),
  });
  expectReuse(counts);
});

test.runIf(whole)('SmolLM2 with F32 weights and cache', { timeout: 7_200_000 }, async () => {
  const model = inF32(modelPath, 'smollm2');
  const gates = join(root, '.cache/test/smollm2.test-conversation.json');
  writeFileSync(gates, patternOf(chequered(30, 3)));
  const counts = await converse(model, gates, { tolerance: 1e-3, compare: (turn) => [4, 7, 19, 38, 49].includes(turn) });
  expectReuse(counts);
});
