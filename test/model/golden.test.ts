import { join } from 'node:path';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { root } from '../../scripts/places.mjs';
import { runPython } from '../../scripts/python-packages.mjs';
import { rawFrame } from '../../src/eval/frame.ts';
import { PromptWriter, sightOf } from '../../src/eval/prompt.ts';
import { syntheticTasks } from '../../src/eval/synthetic.ts';
import { loadModel, type Model } from '../../src/index.ts';
import code from '../../src/synthetic/code.json' with { type: 'json' };
import language from '../../src/synthetic/language.json' with { type: 'json' };
import { keys, texts } from '../../src/synthetic/language.ts';
import { Random } from '../../src/synthetic/random.ts';

// The needle model is trained on prompts that Python makes (models/documents.py) and asked with those that TypeScript makes (src/eval/synthetic.ts): each task must
// look the same in both.

type Prompt = { task: string; tokens: number[]; text: string; answer: string };

let model: Model;
let python: Prompt[];
beforeAll(async () => {
  python = runPython(join(root, 'models/golden.py'))
    .split('\n')
    .map((line) => JSON.parse(line) as Prompt);
  model = await loadModel(join(root, 'models/needle.gguf'), { vocabOnly: true });
}, 300_000);
afterAll(() => model.dispose());

/** Those about source code are asked alone. */
const trained = Object.keys(syntheticTasks).filter((task) => !Object.hasOwn(code.tasks, task));

test('every task has a prompt', () => {
  expect(python.map(({ task }) => task).sort()).toEqual(trained.sort());
});

test.each(trained)('%s', (task) => {
  const theirs = python.find((prompt) => prompt.task === task);
  const ours = promptOf(task);
  // The tokenizer that was trained is the one in the model, and a text's tokens are those of its parts.
  expect([...model.tokenize(theirs?.text ?? '', { addSpecial: false })]).toEqual(theirs?.tokens);
  expect(theirs?.tokens.length).toBeGreaterThan(900);
  expect(ours.tokens.length).toBeGreaterThan(900);

  const [a, b] = [skeleton(theirs?.text ?? ''), skeleton(ours.text)];
  expect(a.join(' ')).toMatch(/[K#]/);
  // Statements are somewhere in the text; what opens and ends it is where it is.
  expect([a[0], a.at(-1)]).toEqual([b[0], b.at(-1)]);
  expect([...a].sort()).toEqual([...b].sort());
  expect(slots(theirs?.answer ?? '')).toBe(`${slots(ours.answer)}.`);
});

/** A prompt as `llama-duo eval` asks it, without the token that begins a text. */
function promptOf(task: string): Prompt {
  const sketch = syntheticTasks[task]?.sketch(new Random(1, task), { chat: false });
  if (!sketch) throw new Error(task);
  const frame = rawFrame(model);
  const writer = new PromptWriter(model, frame, sightOf({ sink: 64, recent: 256, chunk: 1 }));
  const tokens = [...sketch.write(writer, 1024, syntheticTasks[task]?.hasDepth ? 0.5 : null)].slice(frame.before.length);
  return { task, tokens, text: model.detokenize(tokens), answer: sketch.expected.text };
}

/** A text with its words in the places of language.json replaced by what they are: K for a key, # for a value, N for a name. */
function slots(text: string): string {
  const count = texts('multi-passkey').names;
  return text
    .replaceAll(/\d{5}/g, '#')
    .replaceAll(new RegExp(`\\b(${keys.join('|')})\\b`, 'g'), 'K')
    .replaceAll(new RegExp(`passkey (${count.join('|')})\\b`, 'g'), 'passkey N');
}

const words = language.haystack.words as Record<string, string[]>;
const sentences = language.haystack.patterns.map((pattern) =>
  pattern
    .split(/\{(\w+)\}/)
    .map((part, index) =>
      index % 2 === 0
        ? part.replaceAll(/[.*+?^${}()|[\]\\]/g, String.raw`\$&`)
        : `(?:${(words[part] ?? []).join(' ').split(/ +/).join('|')})`,
    )
    .join(''),
);
const haystack = new RegExp(`(?<=^|[\\n .])(?:${sentences.join('|')})(?=$|[\\n .])`, 'gm');

/** The sentences of a text that are no haystack, with slots for words; a list is one item, however long. */
function skeleton(text: string): string[] {
  return slots(text.replaceAll(haystack, '§'))
    .replaceAll(/(K, )+K\b/g, 'K')
    .split(/[§\n]|(?<=[.?]) /)
    .map((part) => part.trim())
    .filter((part) => part !== '' && part !== '.');
}
