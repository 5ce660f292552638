import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { expect, test } from 'vitest';

import { root } from '../../scripts/places.mjs';
import { calibrateCommand } from '../../src/cli/calibrate.ts';
import { commandHelp, type Command } from '../../src/cli/command.ts';
import { demo } from '../../src/cli/demo.ts';
import { evalCommand } from '../../src/cli/eval.ts';
import { parseArguments } from '../../src/cli/flags.ts';
import { inspect } from '../../src/cli/inspect.ts';
import { patternCommand } from '../../src/cli/pattern.ts';
import { run } from '../../src/cli/run.ts';

const commands: Record<string, Command> = {
  run,
  inspect,
  eval: evalCommand,
  calibrate: calibrateCommand,
  pattern: patternCommand,
  demo,
};

const texts = ['README.md', 'docs/calibration.md', 'docs/when.md', 'docs/troubleshooting.md'].map(
  (file) => [file, readFileSync(join(root, file), 'utf8')] as const,
);

/** The command lines of a text that call llama-duo, in blocks and within sentences, as a shell would split them. */
const lines = texts.flatMap(([file, text]) =>
  [...text.matchAll(/(?:^(?:npx )?|`)llama-duo ([^`\n#]+)/gm)].map(([, line = '']) => {
    const words = [...line.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, plain = '']) => quoted ?? plain);
    return { file, line: line.trim(), words };
  }),
);

test('there are command lines to read', () => {
  expect(lines.length).toBeGreaterThan(6);
});

/** What has no flags of ours: the list of commands, and llama.cpp's own. */
const native = ['help', 'serve', 'bench', 'fit-params', 'gguf-split'];

test.each(lines.filter(({ words: [name = ''] }) => !native.includes(name)))('$file: llama-duo $line', ({ words: [name = '', ...args] }) => {
  const command = commands[name];
  expect(command, name).toBeDefined();
  if (!args.includes('--help')) parseArguments(args, command?.flags ?? {});
});

// A flag in a sentence or a table is one of a command's, of llama.cpp's tools, or of a program that stands beside it.
const others =
  /^--(target|omit|allow-(ffi|read|env)|duo-|attention|grp-attn-n|context-shift|cache-reuse|mmproj|spec-type|lora|jinja|metrics|shape|fill)/;
test.each(texts)('%s names only flags that there are', (_, text) => {
  const known = new Set(Object.values(commands).flatMap(({ flags }) => Object.values(flags).flatMap(({ names }) => names)));
  const named = [...text.matchAll(/`(--?[a-z][\w-]*)[^`\n]*`/g)].map(([, flag = '']) => flag);
  expect(named.filter((flag) => flag.startsWith('--') && !known.has(flag) && !others.test(flag) && flag !== '--help')).toEqual([]);
});

test.each(Object.entries(commands))('help of %s says what each flag is for', (_, command) => {
  const help = commandHelp(command);
  for (const { names } of Object.values(command.flags)) expect(help).toMatch(new RegExp(`${names[0]}\\b.* {2}\\S`));
});
