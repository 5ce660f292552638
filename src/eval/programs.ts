import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { accessSync, constants, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, isAbsolute, join } from 'node:path';
import { promisify } from 'node:util';

import { EvaluationError } from '../errors.ts';

/** What a program may take: seconds of processor time, and address space. */
export type ProgramLimits = { seconds: number; bytes: number };

/** A solution of a benchmark's task runs for milliseconds; the rest is for machines that are busy. */
const defaultLimits: ProgramLimits = { seconds: 10, bytes: 2 ** 30 };
const fileBytes = 2 ** 26;
/** Seconds of any kind for each of processor time: those of a busy machine, and of programs that sleep. */
const patience = 3;

/** Namespaces of its own for the process: no network, and whatever it starts ends with it. The second is for root where users may have none. */
const namespaces = [
  ['--user', '--map-root-user', '--net', '--pid', '--fork', '--kill-child'],
  ['--net', '--pid', '--fork', '--kill-child'],
];

/** Gives up what the process has inherited, takes limits, and becomes the program, which comes by stdin. */
const launcher = `
import os, resource, sys
seconds, space, file = map(int, sys.argv[1:])
for kind, limit in [(resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, space), (resource.RLIMIT_FSIZE, file), (resource.RLIMIT_CORE, 0)]:
    resource.setrlimit(kind, (limit, limit))
os.closerange(3, os.sysconf('SC_OPEN_MAX'))
os.execve(sys.executable, [sys.executable, '-I', '-'], {})
`;

const call = promisify(execFile);

/**
 * Runs Python programs that nobody has read: each in a process of its own that has limits of time, memory and size of files, an empty folder, no environment, no
 * open files and, where the system lets it be taken, no network. The rest of the file system is there as it is.
 */
export class ProgramRunner {
  /** Whether programs can reach the network, since `unshare` is missing or not allowed. */
  readonly hasNetwork: boolean;
  readonly #python: string;
  readonly #isolation: readonly string[];

  private constructor(python: string, isolation: readonly string[] | undefined) {
    this.#python = python;
    this.#isolation = isolation ?? [];
    this.hasNetwork = isolation === undefined;
  }

  /** @throws EvaluationError where there is no Python that can limit itself */
  static async find(): Promise<ProgramRunner> {
    const python = await pythonPath();
    const unshare = onPath('unshare');
    for (const options of unshare === undefined ? [] : namespaces) {
      const isolation = [unshare ?? '', ...options];
      const [command, ...args] = [...isolation, python, '-I', '-c', 'pass'];
      const works = await call(command, args, { env: {} }).then(
        () => true,
        () => false,
      );
      if (works) return new ProgramRunner(python, isolation);
    }
    return new ProgramRunner(python, undefined);
  }

  /**
   * Whether a program comes to its end. One that leaves before does not, whatever its exit code.
   *
   * @throws `signal.reason`
   */
  async passes(program: string, signal?: AbortSignal, limits: ProgramLimits = defaultLimits): Promise<boolean> {
    signal?.throwIfAborted();
    const folder = mkdtempSync(join(tmpdir(), 'llama-duo-program-'));
    const numbers = [limits.seconds, limits.bytes, fileBytes].map(String);
    const [command = '', ...args] = [...this.#isolation, this.#python, '-I', '-c', launcher, ...numbers];
    try {
      const child = spawn(command, args, { cwd: folder, env: {}, stdio: ['pipe', 'pipe', 'ignore'], detached: true });
      return await reachesEnd(child, program, limits.seconds, signal);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }
}

/** Feeds a program to a process, and waits until it ends or is ended. */
async function reachesEnd(child: ChildProcess, program: string, seconds: number, signal?: AbortSignal): Promise<boolean> {
  // The end says a word that the program cannot know.
  const word = randomUUID();
  const end = (): void => {
    // The whole group, also where its first has left the others behind; the processes of a namespace end with their first.
    try {
      if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
    } catch {
      // All have ended.
    }
  };
  const timer = setTimeout(end, 1000 * patience * seconds);
  signal?.addEventListener('abort', end);
  try {
    return await new Promise<boolean>((resolve, reject) => {
      let [said, tail] = [false, ''];
      child.stdout?.setEncoding('utf8').on('data', (text: string) => {
        tail += text;
        said ||= tail.includes(word);
        tail = tail.slice(-word.length);
      });
      child.stdin?.on('error', () => undefined); // a program that ends before it is read has failed, no more
      child.stdin?.end(`${program}\nimport os\nos.write(1, b"${word}")\n`);
      child.on('error', reject);
      child.on('exit', end);
      child.on('close', () => {
        if (signal?.aborted) reject(signal.reason as Error);
        else resolve(said);
      });
    });
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', end);
  }
}

/** The interpreter itself: what PATH has may be a script that needs an environment. */
async function pythonPath(): Promise<string> {
  const wanted = 'tasks mbpp and humaneval run what the model writes with it';
  const python = onPath('python3');
  if (python === undefined) throw new EvaluationError(`There is no python3 in PATH, and ${wanted}: install Python 3, or leave them out.`);
  try {
    const { stdout } = await call(python, ['-I', '-c', 'import resource, sys; print(sys.executable)']);
    return stdout.trim();
  } catch (error) {
    const [reason = ''] = (error instanceof Error ? error.message : String(error)).trim().split('\n').slice(-1);
    throw new EvaluationError(
      `${python} cannot limit what a program takes (${reason}), and ${wanted}: install Python 3, or leave them out.`,
    );
  }
}

function onPath(name: string): string | undefined {
  const folders = (process.env['PATH'] ?? '').split(delimiter).filter(isAbsolute);
  return folders.map((folder) => join(folder, name)).find(isProgram);
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
