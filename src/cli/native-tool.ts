import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { constants } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { inRepository } from '../ffi/library-errors.ts';
import { platformPackages } from '../ffi/packages.ts';
import { packageVersion } from '../ffi/version.ts';
import { resolveUserPath } from './paths.ts';

/** The environment variable that names llama.cpp's tool. */
const toolVariable = 'LLAMA_DUO_TOOL';

const suffix = process.platform === 'win32' ? '.exe' : '';

/** A command of llama.cpp's: a word of its `llama` tool, or a program beside it whose name begins with `llama-`. */
type NativeCommand = {
  name: string;
  summary: string;
  file: string;
  /** What it gets before a user's arguments. */
  args: readonly string[];
};

/** The package that has the tool for this platform. */
const toolPackage = `@llama-duo/${process.platform}-${process.arch}-tools`;

/** Where the tool is, or would be: where LLAMA_DUO_TOOL says, in its package, in the local build. */
function toolPath(): string {
  const named = process.env[toolVariable];
  return named ? resolve(named) : (packagedTool() ?? fileURLToPath(new URL(`../../build/bin/llama${suffix}`, import.meta.url)));
}

function packagedTool(): string | undefined {
  try {
    return join(dirname(createRequire(import.meta.url).resolve(`${toolPackage}/package.json`)), 'bin', `llama${suffix}`);
  } catch {
    return undefined; // not installed
  }
}

/** What to do where the tool is not there; undefined where it is. */
export function toolMissing(): string | undefined {
  const tool = toolPath();
  if (existsSync(tool)) return undefined;
  return `llama.cpp's own commands need its tool, and there is no ${tool}: ${toolAdvice()}.`;
}

function toolAdvice(): string {
  if (process.env[toolVariable]) return `correct ${toolVariable}, or leave it out to use the package or the local build`;
  if (inRepository()) return 'build it with "npm run setup -- --target llama-app" in the folder of llama-duo';
  return `${process.platform}-${process.arch}` in platformPackages
    ? `install it with "npm install ${toolPackage}@${packageVersion}"`
    : `there is no ${toolPackage}, so build it in a clone of llama-duo with "npm run setup -- --target llama-app", and name build/bin/llama in ${toolVariable}`;
}

/** All that are built, but for other names that words have. */
export function nativeCommands(): NativeCommand[] {
  const tool = toolPath();
  if (!existsSync(tool)) return [];
  const { stdout } = spawnSync(tool, ['help', 'all'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  // null where it could not be run
  const rows = ((stdout as string | null) ?? '').matchAll(/^ {2}(\S+) +(.+)$/gm);
  const words = [...rows].map(([, name = '', summary = '']) => ({ name, summary, file: tool, args: [name] }));
  const programs = readdirSync(dirname(tool)).flatMap((file) => {
    const name = /^llama-([\w-]+)$/.exec(file.endsWith(suffix) ? file.slice(0, file.length - suffix.length) : '')?.[1];
    if (name === undefined || words.some((word) => word.name === name)) return [];
    return [{ name, summary: `llama.cpp's program ${file}`, file: join(dirname(tool), file), args: [] }];
  });
  return [...words, ...programs];
}

/** The command that a word names; undefined where there is none. */
export function findNative(word: string): NativeCommand | undefined {
  return nativeCommands().find(({ name }) => name === word) ?? namedOtherwise(word);
}

/** A word that the tool knows, though its help does not list it: `server` for `serve`. Of others it says that it does not, whatever follows. */
function namedOtherwise(word: string): NativeCommand | undefined {
  const tool = toolPath();
  if (!existsSync(tool)) return undefined;
  const { status, stderr } = spawnSync(tool, [word, '--version'], {
    encoding: 'utf8',
    stdio: ['ignore', 'ignore', 'pipe'],
    timeout: 10_000,
  });
  if (status === null || stderr.includes('unknown command')) return undefined;
  return { name: word, summary: '', file: tool, args: [word] };
}

/** Signals that ask a program to end. */
const endings = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const;

/** Those that a terminal sends to a whole group of processes, and so to the tool by itself. */
const fromTerminal = new Set<string>(['SIGINT', 'SIGQUIT']);

/** Runs a command in the user's folder, on stdin, stdout and stderr of this process, which hands signals on; returns its exit code, 128 and more for a signal. */
export async function runNative({ file, args }: NativeCommand, more: readonly string[]): Promise<number> {
  const onTerminal = [process.stdin, process.stdout, process.stderr].some(({ isTTY }) => isTTY);
  // Before the child is there, which may not outlive this process.
  for (const name of endings) {
    process.on(name, () => {
      // A second one makes a server end at once, in the middle of its answers.
      if (onTerminal && fromTerminal.has(name)) return;
      // Deno's child.kill() sends one signal and no more.
      if (child.pid !== undefined && child.exitCode === null && child.signalCode === null) process.kill(child.pid, name);
    });
  }
  const child = spawn(file, [...args, ...more], { stdio: 'inherit', cwd: resolveUserPath('.') });
  const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null];
  return code ?? 128 + (signal === null ? 0 : constants.signals[signal]);
}
