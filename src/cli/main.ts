#!/usr/bin/env node
import { readFileSync } from 'node:fs';

import { LlamaDuoError, OptionError } from '../errors.ts';
import { nearest } from '../core/check-options.ts';
import { commandHelp, type Command } from './command.ts';
import { hasFlag, inFlags, UsageError } from './flags.ts';
import { onInterrupt } from './interrupts.ts';
import { findNative, nativeCommands, runNative, toolMissing } from './native-tool.ts';
import { print, stdoutMessage } from './output.ts';

const exitCode = { success: 0, failure: 1, usage: 2, interrupted: 130 };

/** Loaded when they are called, so that help and mistakes are answered at once. */
const commands: Record<string, () => Promise<Command>> = {
  run: async () => (await import('./run.ts')).run,
  inspect: async () => (await import('./inspect.ts')).inspect,
  eval: async () => (await import('./eval.ts')).evalCommand,
  calibrate: async () => (await import('./calibrate.ts')).calibrateCommand,
  pattern: async () => (await import('./pattern.ts')).patternCommand,
  demo: async () => (await import('./demo.ts')).demo,
};

/** The command that runs: errors name its flags. */
let command: Command | undefined;

/** Does what a command line says, and returns the exit code. */
async function main(args: readonly string[]): Promise<number> {
  const [name = '--help', ...rest] = args;
  if (name === '--version') return say(`${version()}\n`);
  if (name === '--help' || name === '-h' || name === 'help') return say(await help());
  const load = Object.hasOwn(commands, name) ? commands[name] : undefined;
  if (!load) return runOther(name, rest);
  command = await load();
  if (hasFlag(rest, command.flags, '--version')) return say(`${version()}\n`);
  if (hasFlag(rest, command.flags, '--help', '-h')) return say(commandHelp(command));

  const interrupt = new AbortController();
  const interrupted = new UserInterrupt();
  // The first time the engine is asked to stop; a second interrupt finds no listener and ends the process.
  onInterrupt(() => {
    interrupt.abort(interrupted);
  });
  try {
    await command.run(rest, interrupt.signal);
    return exitCode.success;
  } catch (error) {
    if (error === interrupted) return exitCode.interrupted;
    throw error;
  }
}

class UserInterrupt extends Error {}

async function say(text: string): Promise<number> {
  await print(text);
  return exitCode.success;
}

async function help(): Promise<string> {
  const list = (rows: readonly { name: string; summary: string }[]): string =>
    rows.map(({ name, summary }) => `  ${name.padEnd(15)}${summary}`).join('\n');
  const own = await Promise.all(Object.entries(commands).map(async ([name, load]) => ({ name, summary: (await load()).summary })));
  const native = nativeCommands().filter(({ name }) => name !== 'help' && !Object.hasOwn(refused, name) && !Object.hasOwn(commands, name));
  return (
    `llama.cpp with a KV cache of mixed heads.\n\nUsage: llama-duo COMMAND [flags]\n\n${list(own)}\n\n` +
    `${toolMissing() ?? `llama.cpp's own, most of which take --duo-* flags, too:\n\n${list(native)}`}\n\n` +
    "llama-duo COMMAND --help shows a command's flags.\n"
  );
}

/** Words of llama.cpp's tool that are not run, and why. */
const refused: Readonly<Record<string, string>> = {
  update:
    'llama-duo update would fetch a llama.cpp that knows no mixed heads. A newer llama-duo brings a newer llama.cpp: pull it, and run "npm run setup".',
};

/** Runs a command of llama.cpp's. */
async function runOther(name: string, args: readonly string[]): Promise<number> {
  const reason = Object.hasOwn(refused, name) ? refused[name] : undefined;
  if (reason !== undefined) throw new UsageError(reason);
  const found = findNative(name);
  if (!found) throw new UsageError(unknownCommand(name));
  return runNative(found, args);
}

function unknownCommand(name: string): string {
  const native = nativeCommands().map((command) => command.name);
  const known = [...Object.keys(commands), ...native.filter((word) => !Object.hasOwn(refused, word))];
  const meant = nearest(name, known);
  const advice = [meant ? `Did you mean ${meant}?` : `Known: ${known.join(', ')}.`, toolMissing()].filter((text) => text !== undefined);
  return `Unknown command ${JSON.stringify(name)}. ${advice.join(' ')}`;
}

function version(): string {
  const manifest = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string };
  return manifest.version;
}

/** Says what went wrong, a stack only where it is a bug, and returns the exit code. */
function report(error: unknown): number {
  const wrongUsage = error instanceof UsageError || error instanceof OptionError;
  const expected = wrongUsage || (error instanceof LlamaDuoError && error.code !== 'internal') || isSystemError(error);
  const text = error instanceof Error ? (expected ? error.message : (error.stack ?? error.message)) : String(error);
  const option = error instanceof OptionError ? error.option : undefined;
  process.stderr.write(`llama-duo: ${expected && command ? inFlags(text, command.flags, option) : text}\n`);
  return wrongUsage ? exitCode.usage : exitCode.failure;
}

/** ENOENT and the like: their messages are for people. */
function isSystemError(error: unknown): boolean {
  return error instanceof Error && 'syscall' in error;
}

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  // A reader who has seen enough (head, less) is no failure.
  if (error.code === 'EPIPE') process.exit(exitCode.success);
  process.stderr.write(`llama-duo: ${stdoutMessage(error)}\n`);
  process.exit(exitCode.failure);
});

process.exitCode = await main(process.argv.slice(2)).catch(report);
