import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';

import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';

import { root } from '../../scripts/places.mjs';
import type { GatePatternJson } from '../../src/index.ts';

const main = join(root, 'dist/cli/main.js');
const needle = join(root, 'models/needle.gguf');
const gates = join(root, 'models/needle.duo.json');

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'llama-duo-cli-'));
  copyFileSync(needle, join(folder, 'm.gguf'));
  copyFileSync(needle, join(folder, 'other.gguf'));
  copyFileSync(needle, join(folder, 'disguised.json'));
  symlinkSync(join(folder, 'm.gguf'), join(folder, 'link.json'));
  mkdirSync(join(folder, 'folder.json'));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const options = () => ({ cwd: folder, encoding: 'utf8' as const, env: { ...process.env, INIT_CWD: folder, NO_COLOR: '1' } });

function cli(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...args], options());
  return { status, stdout, stderr };
}

/** The command line by a shell, which can set limits and redirect. */
function shell(script: string, ...args: string[]): { status: number | null; stderr: string } {
  const { status, stderr } = spawnSync('bash', ['-c', script, 'bash', process.execPath, main, ...args], options());
  return { status, stderr };
}

const hashOf = (name: string): string =>
  createHash('sha256')
    .update(readFileSync(join(folder, name)))
    .digest('hex');

describe('what is asked for is checked before any work', () => {
  const quick = ['--samples', '1', '--questions', '1', '-c', '768', '-t', '1'];

  test.each([
    [['calibrate', '-m', 'm.gguf', '-o', 'other.gguf', ...quick], 2, 'written as .json or .tsv, not as .gguf'],
    [['calibrate', '-m', 'm.gguf', '-o', 'disguised.json', ...quick], 1, 'is a model, which is never written over'],
    [['calibrate', '-m', 'm.gguf', '-o', 'link.json', ...quick], 1, 'is a file that is read'],
    [['calibrate', '-m', 'm.gguf', '-o', 'folder.json', ...quick], 1, 'folder.json (-o) is a folder'],
    [['calibrate', '-m', 'm.gguf', '-o', 'none/a.json', ...quick], 1, 'none/a.json (-o) cannot be written (ENOENT'],
    [['calibrate', '-m', 'm.gguf', '-o', 'a.json', '--chat', '--no-chat'], 2, '--chat and --no-chat exclude each other'],
    [['pattern', 'embed', gates, '-m', 'm.gguf', '-o', 'm.gguf'], 1, 'is a file that is read'],
    [['pattern', 'convert', gates, 'disguised.json'], 1, 'is a model, which is never written over'],
    [['eval', '-m', 'm.gguf', '--csv', 'other.gguf'], 1, 'is a model, which is never written over'],
    [['eval', '-m', 'm.gguf', '--resume', 'none/a.jsonl'], 1, 'none/a.jsonl (--resume) cannot be written (ENOENT'],
    [['eval', '-m', 'm.gguf', '-t', '0'], 2, '-t needs an integer from 1 to 512, got "0"'],
    [['eval', '-m', 'm.gguf', '--lengths', '1,024'], 2, 'commas stand between numbers'],
    [['run', '-m', 'm.gguf', '-p', 'x', '-n', '-5'], 2, '-n needs an integer of at least -1, got "-5"'],
    [
      ['run', '-m', 'm.gguf', '-p', 'x', '-fa', 'off', '--duo-sparsity', '1'],
      1,
      'mixed heads do not apply: flash attention is off (-fa off); mixed heads have their own attention, which needs it on or auto. Without duo options',
    ],
    [['eval', '-m', 'm.gguf', '-ctk', 'q4_0', '--task', 'longbench'], 1, '--data FOLDER'],
    [['run', '-m', 'm.gguf', '-p', 'x', '-b', '300000000000'], 2, '-b needs an integer from 1 to 2147483647, got "300000000000"'],
    [['run', '-m', 'm.gguf', '-p', 'x', '--duo-sparsity', '1', '--duo-sink', '99999999999'], 2, '--duo-sink needs an integer from 0 to'],
    // What only the API knows has the flag's name, too.
    [['run', '-m', 'm.gguf', '-p', 'x', '-c', '2147483647'], 2, 'Bad value for -c: expected an integer from 1 to 2147483392'],
  ])('%j', (args, status, message) => {
    const before = ['m.gguf', 'other.gguf', 'disguised.json'].map(hashOf);
    const ended = cli(...args);
    expect(ended).toMatchObject({ status, stdout: '' });
    expect(ended.stderr).toContain(message);
    expect(ended.stderr).not.toContain('%'); // no bar was shown
    expect(['m.gguf', 'other.gguf', 'disguised.json'].map(hashOf)).toEqual(before);
  });
});

describe('run', () => {
  test('a prompt that looks like a flag is a prompt', () => {
    for (const prompt of ['--version', '-h', '--help', '--json']) {
      const { status, stdout, stderr } = cli('run', '-m', 'm.gguf', '-p', prompt, '-n', '1', '--temp', '0', '-t', '1');
      expect({ status, stderr }, prompt).toEqual({ status: 0, stderr: '' });
      expect(stdout, prompt).not.toMatch(/Usage|^0\.1/);
    }
  });

  test('escapes are read as llama.cpp reads them', () => {
    const tokens = (...args: string[]): unknown => {
      const { stdout } = cli('run', '-m', 'm.gguf', ...args, '-n', '1', '--temp', '0', '-t', '1', '--json');
      return (JSON.parse(stdout) as { promptTokens: number[] }).promptTokens;
    };
    writeFileSync(join(folder, 'prompt.txt'), 'One\ntwo');
    expect(tokens('-p', String.raw`One\ntwo`)).toEqual(tokens('-f', 'prompt.txt'));
    expect(tokens('-p', String.raw`One\ntwo`, '--no-escape')).not.toEqual(tokens('-f', 'prompt.txt'));
  });

  test('a context holds what the model was trained for unless another size is asked for', () => {
    // 24 KV heads, K and V of 64 numbers each in f16
    const bytes = (...args: string[]): number => {
      const { stdout } = cli('run', '-m', 'm.gguf', '-p', 'x', '-n', '1', '-t', '1', '--json', ...args);
      return (JSON.parse(stdout) as { kv: { fullBytes: number } }).kv.fullBytes;
    };
    expect(bytes()).toBe(24 * 16640 * 2 * 64 * 2);
    expect(bytes('-c', '0')).toBe(bytes());
    expect(bytes('-c', '8192')).toBe(24 * 8192 * 2 * 64 * 2);
    writeFileSync(join(folder, 'long.txt'), 'word '.repeat(9000));
    const { status, stderr } = cli('run', '-m', 'm.gguf', '-f', 'long.txt', '-n', '1', '-t', '1', '-c', '8192');
    expect(status).toBe(1);
    expect(stderr).toMatch(/the prompt has \d+ tokens.*8192.*larger one with -c/);
  });

  test('the prompt is printed before what follows it, unless that is left out', () => {
    const text = (...args: string[]): string =>
      cli('run', '-m', 'm.gguf', '-p', 'The number', '-n', '4', '--temp', '0', '-t', '1', ...args).stdout;
    expect(text()).toMatch(/^The number \S/);
    expect(text('--display-prompt')).toBe(text());
    expect(`The number${text('--no-display-prompt')}`).toBe(text());
  });

  test('llama.cpp’s variables count where a flag is not given', () => {
    const env = {
      ...options().env,
      LLAMA_ARG_MODEL: 'm.gguf',
      LLAMA_ARG_N_PREDICT: '3',
      LLAMA_ARG_DUO_SPARSITY: '1',
      LLAMA_ARG_HF_REPO: '',
    };
    const answer = (...args: string[]): unknown => {
      const all = [main, 'run', '-p', 'one', '--temp', '0', '-t', '1', '--json', ...args];
      return JSON.parse(spawnSync(process.execPath, all, { ...options(), env }).stdout);
    };
    expect(answer()).toMatchObject({ tokens: { length: 3 }, heads: { retrieval: 0, streaming: 24 } });
    expect(answer('-n', '2', '--duo-sparsity', '0')).toMatchObject({ tokens: { length: 2 }, heads: { retrieval: 24, streaming: 0 } });
    env.LLAMA_ARG_HF_REPO = 'user/model';
    expect(answer('-m', 'm.gguf')).toMatchObject({ tokens: { length: 3 } });
  });

  test.each([
    [['-cnv', '-no-cnv'], 'Give -cnv or -no-cnv, not both'],
    [['-sys', 'Be brief.'], '-sys is for a conversation, and the model has no chat template'],
    [['-no-cnv', '-sys', 'Be brief.'], '-sys is for a conversation, and -no-cnv is given'],
    [['-cnv', '--ignore-eos'], '--ignore-eos is for a prompt that is continued: give -no-cnv too'],
    [['-hf', 'user/model'], 'Give the model with -m, -hf or -mu, not with several of them'],
    [['-sys', 'a', '-sysf', 'b'], 'Give -sys or -sysf, not both'],
  ])('%j ends with 2', (args, message) => {
    const { status, stdout, stderr } = cli('run', '-m', 'm.gguf', '-p', 'x', '-t', '1', ...args);
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
    expect(stderr).toContain(message);
  });

  test('a conversation goes on with what comes on stdin, a message a line', () => {
    const talk = (input: string, ...args: string[]): { status: number | null; stdout: string; stderr: string } => {
      const run = ['run', '-m', 'm.gguf', '-cnv', '-n', '3', '--temp', '0', '-t', '1', '--no-display-prompt', ...args];
      const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...run], { ...options(), input });
      return { status, stdout, stderr };
    };
    const { status, stdout, stderr } = talk('two\nthree\n', '-p', 'one');
    expect(status).toBe(0);
    expect(stderr).toMatch(/^warning: the model has no chat template/);
    const answers = stdout.split('\n').slice(0, -1);
    expect(answers).toHaveLength(3);
    expect(talk('one\ntwo\nthree\n').stdout).toBe(stdout);
    expect(talk('two\nthree\n', '-p', 'one', '-st').stdout).toBe(`${answers[0] ?? ''}\n`);
    expect(talk('one\ntwo\nthree\n', '-st').stdout).toBe(`${answers[0] ?? ''}\n`);
    expect(talk('').stdout).toBe('');
  });
});

describe.skipIf(process.platform === 'win32')('an interrupt in a conversation', { timeout: 60_000 }, () => {
  const talk = (...args: string[]): ChildProcess =>
    spawn(process.execPath, [main, 'run', '-m', 'm.gguf', '-cnv', '--temp', '0', '-t', '1', '-p', 'one', '--no-display-prompt', ...args], {
      ...options(),
      stdio: ['pipe', 'pipe', 'ignore'],
    });
  const ended = (child: ChildProcess): Promise<number | null> => new Promise((resolve) => child.once('close', resolve));
  // Deno's child.kill() sends one signal and no more, and then there is no exit code.
  const interrupt = (child: ChildProcess): boolean => process.kill(child.pid ?? 0, 'SIGINT');

  test('ends an answer, and what comes next is answered', async () => {
    const child = talk('-c', '16384');
    let stdout = '';
    let interrupts = 0;
    child.stdout?.on('data', (data) => {
      stdout += String(data);
      // each answer would be of thousands of tokens, on one line
      if (interrupts === 0 || (interrupts === 1 && /\n./.test(stdout))) {
        interrupts++;
        interrupt(child);
      }
    });
    child.stdin?.end('two\n');
    expect(await ended(child)).toBe(0);
    expect(interrupts).toBe(2);
  });

  test('ends the process between answers, and where there is but one', async () => {
    const waiting = talk('-n', '1');
    waiting.stdout?.on('data', (data) => {
      if (String(data).includes('\n')) interrupt(waiting);
    });
    expect(await ended(waiting)).toBe(130);

    const single = talk('-st', '-c', '16384');
    single.stdout?.once('data', () => interrupt(single));
    expect(await ended(single)).toBe(130);
  });
});

describe.skipIf(process.platform === 'win32')('a pipe that nobody writes to', () => {
  test.each([
    [['run', '-m', 'pipe', '-p', 'x'], /pipe" is no file but a pipe or a device/],
    [['run', '-m', 'm.gguf', '-p', 'x', '--duo-gates', 'pipe'], /pipe: not a file or folder/],
    [['pattern', 'show', 'pipe'], /pipe: not a file or folder/],
  ])('%j is refused, and not waited for', (args, message) => {
    const { status, stderr } = shell('[ -p pipe ] || mkfifo pipe; exec timeout 30 "$@"', ...args);
    expect(status).toBe(1);
    expect(stderr).toMatch(message);
  });
});

describe('inspect', () => {
  const inspect = (contextSize: number, ...args: string[]) => {
    const { status, stdout, stderr } = cli(
      'inspect',
      '-m',
      needle,
      '-c',
      `${contextSize}`,
      '-ctk',
      'q8_0',
      '-ctv',
      'q8_0',
      '--json',
      ...args,
    );
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    return JSON.parse(stdout) as {
      heads: { retrieval: number };
      window: { recent: number };
      contexts: { contextSize: number; mixedBytes: number | null }[];
      tradeOffs: { choices: { choice: string; bytes: number; typeK: string; expectedLoss: number | null }[] };
    };
  };

  test('shows what a budget chooses by gates that only rank', () => {
    const { heads, window, contexts, tradeOffs } = inspect(8192, '--duo-budget', '0.35', '--duo-recent', '512');
    expect(window.recent).toBe(512);
    const full = 8192 * 24 * 64 * 2 * 2;
    const mine = contexts.find(({ contextSize }) => contextSize === 8192)?.mixedBytes;
    expect(mine).toBeLessThanOrEqual(0.35 * full);
    expect(mine).toBeGreaterThan(0.3 * full);
    const shown = tradeOffs.choices.find(({ choice }) => choice === '--duo-budget 0.35');
    expect(shown).toMatchObject({ bytes: mine, typeK: 'q8_0', retrievalHeads: heads.retrieval, expectedLoss: null });
  });

  test('names the layers whose K rows are of a finer type', () => {
    const pattern = JSON.parse(readFileSync(needle.replace(/\.gguf$/, '.duo.json'), 'utf8')) as GatePatternJson;
    const right = { loss: 0.001, correct: 1 };
    const file = join(folder, 'finer.json');
    writeFileSync(
      file,
      JSON.stringify({
        ...pattern,
        llamaDuoPattern: 2,
        losses: { windows: [256], heads: pattern.gates.map((row) => row.map(() => [1])) },
        cacheTypes: {
          k: { f16: { loss: 0, correct: 1 }, q4_0: { loss: 4, correct: 0, finer: [{ type: 'f16', layers: [1], ...right }] } },
          v: { f16: { loss: 0, correct: 1 }, q4_0: right },
        },
      }),
    );
    const { status, stdout } = cli('inspect', '-m', needle, '-c', '8192', '--duo-gates', file);
    expect(status).toBe(0);
    expect(stdout).toMatch(/--duo-budget 0.35 .* q4_0\+f16\/q4_0 +24 \+ 0/);
    expect(stdout).toContain("q4_0+f16: K rows of layer 1 are f16, the others' q4_0\n");
  });

  test('says where a budget is too small for a larger context', () => {
    const { contexts } = inspect(4096, '--duo-budget', '13MiB', '--duo-recent', '6000');
    expect(contexts.map(({ mixedBytes }) => mixedBytes === null)).toEqual([false, true, true, true, true]);
  });
});

describe.skipIf(process.platform === 'win32')('a full disk', () => {
  test('stdout that cannot be written is an error with a message', () => {
    for (const args of [
      ['run', '--help'],
      ['run', '-m', needle, '-p', 'x', '-n', '2', '-t', '1'],
      ['inspect', '-m', needle, '--json'],
    ]) {
      const { status, stderr } = shell('"$@" > /dev/full', ...args);
      expect(status).toBe(1);
      expect(stderr).toMatch(/^llama-duo: stdout cannot be written: .*no space left/i);
    }
  });

  test('a pattern that cannot be written leaves the old one as it was', () => {
    const heads = {
      llamaDuoPattern: 1,
      layers: 64,
      kvHeads: 32,
      gates: Array.from({ length: 64 }, () => new Array<number>(32).fill(0.123456)),
    };
    writeFileSync(join(folder, 'large.json'), JSON.stringify(heads));
    writeFileSync(join(folder, 'good.tsv'), '0.5\t1\n');
    // Files may have 8 KiB: what is to be written has 50. Not every runtime ignores the signal of it.
    const { status, stderr } = shell('trap "" XFSZ; ulimit -f 8; exec "$@"', 'pattern', 'convert', 'large.json', 'good.tsv');
    expect(status).toBe(1);
    expect(stderr).toMatch(/good\.tsv cannot be written: .*(EFBIG|too large)/i);
    expect(readFileSync(join(folder, 'good.tsv'), 'utf8')).toBe('0.5\t1\n');
    expect(readdirSync(folder).filter((name) => name.endsWith('.part'))).toEqual([]);
  });
});

describe.skipIf(process.platform === 'win32')('an interrupted calibration', { timeout: 300_000 }, () => {
  const args = ['calibrate', '-m', 'm.gguf', '-o', 'found.json', '--samples', '1', '--strict', '-c', '1024', '-t', '1'];
  const partial = (): string => join(folder, 'found.json.partial');
  const lines = (): number => (existsSync(partial()) ? readFileSync(partial(), 'utf8').split('\n').length - 1 : 0);
  const found = (): number[][] => (JSON.parse(readFileSync(join(folder, 'found.json'), 'utf8')) as GatePatternJson).gates;

  let whole: number[][];
  beforeAll(() => {
    expect(cli(...args).status).toBe(0);
    whole = found();
  }, 300_000);
  beforeEach(() => {
    for (const file of ['found.json', 'found.json.partial']) rmSync(join(folder, file), { force: true });
  });

  const start = (): ChildProcess => spawn(process.execPath, [main, ...args], { ...options(), stdio: 'ignore' });
  const ended = (child: ChildProcess): Promise<number | null> => new Promise((resolve) => child.once('exit', resolve));

  /** Runs several at once until the file has so many lines. */
  async function untilLines(count: number, processes: number): Promise<void> {
    const children = Array.from({ length: processes }, start);
    const ends = children.map(ended);
    while (lines() < count) await setTimeout(5);
    for (const child of children) child.kill('SIGINT');
    // Deno gives no code for a process that it has sent a signal.
    expect(await Promise.all(ends)).toEqual(children.map(() => ('Deno' in globalThis ? null : 130)));
  }

  test('goes on to the same gates', async () => {
    await untilLines(6, 1);
    expect(cli(...args).status).toBe(0);
    expect(found()).toEqual(whole);
    expect(existsSync(partial())).toBe(false);
  });

  test('goes on to the same gates where two runs had gone on from it at once', async () => {
    await untilLines(6, 1);
    await untilLines(16, 2);
    expect(cli(...args).status).toBe(0);
    expect(found()).toEqual(whole);
  });

  test('is not thrown away by other options', async () => {
    await untilLines(6, 1);
    const before = readFileSync(partial(), 'utf8');
    const { status, stderr } = cli(...args, '--seed', '2');
    expect(status).toBe(2);
    expect(stderr).toMatch(
      /found\.json\.partial: it has measurements that were made with other options \(other samples, seed 1 there and 2 here\)/,
    );
    expect(stderr).toMatch(/remove the file to begin anew/);
    expect(readFileSync(partial(), 'utf8')).toBe(before);
  });
});

// A script in the place of llama.cpp's tool, with words that it has not.
describe.skipIf(process.platform === 'win32')("llama.cpp's own commands", () => {
  const script = `#!/bin/sh
if [ "$*" = "help all" ]; then
  printf 'Available commands:\\n  serve           HTTP API server\\n  update          Update\\n  shout           Say it aloud\\n  die             End by a signal\\n\\n'
  exit 0
fi
case "$1" in
  shout|cry) [ "$2" = --version ] && exit 1; echo "$*|$(pwd)|$(cat)"; echo aloud >&2; exit 7 ;;
  serve) trap 'echo ended; exit 3' TERM; trap 'echo interrupted; exit 4' INT; echo ready; while :; do sleep 0.05; done ;;
  die) kill -TERM $$ ;;
  *) echo "error: unknown command '$1'" >&2; exit 1 ;;
esac
`;
  let tool: string;
  const env = (): NodeJS.ProcessEnv => ({ ...options().env, LLAMA_DUO_TOOL: tool });
  beforeAll(() => {
    tool = join(folder, 'bin/llama');
    mkdirSync(join(folder, 'bin'));
    writeFileSync(tool, script);
    writeFileSync(join(folder, 'bin/llama-gguf-split'), '#!/bin/sh\necho "split $*"\n');
    for (const file of [tool, join(folder, 'bin/llama-gguf-split')]) chmodSync(file, 0o755);
  });

  function call(...args: string[]): { status: number | null; stdout: string; stderr: string } {
    const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...args], { ...options(), env: env(), input: 'in' });
    return { status, stdout, stderr };
  }

  test('get the arguments, stdin, stdout, stderr and the exit code', () => {
    const ended = { status: 7, stdout: `shout --duo-sparsity 0.5 -p a  b|${folder}|in\n`, stderr: 'aloud\n' };
    expect(call('shout', '--duo-sparsity', '0.5', '-p', 'a  b')).toEqual(ended);
    // The tool's own flags are not llama-duo's.
    expect(call('shout', '--help')).toMatchObject({ status: 7, stdout: `shout --help|${folder}|in\n` });
  });

  test('have other names', () => {
    expect(call('cry', 'x')).toMatchObject({ status: 7, stdout: `cry x|${folder}|in\n` });
  });

  test('are programs beside the tool, too', () => {
    expect(call('gguf-split', '--merge', 'a', 'b')).toEqual({ status: 0, stdout: 'split --merge a b\n', stderr: '' });
  });

  test('end as signals end them', () => {
    expect(call('die').status).toBe(128 + 15);
  });

  test.each([
    ['SIGTERM', 'ended', 3],
    ['SIGINT', 'interrupted', 4],
  ] as const)('get %s', async (signal, says, code) => {
    const child = spawn(process.execPath, [main, 'serve'], { ...options(), env: env(), stdio: ['ignore', 'pipe', 'inherit'] });
    let stdout = '';
    child.stdout.on('data', (data) => {
      if (stdout === '') child.kill(signal);
      stdout += String(data);
    });
    const ended = await new Promise<number | null>((resolve) => child.once('close', resolve));
    expect(stdout).toBe(`ready\n${says}\n`);
    // Deno gives no code for a process that it has sent a signal.
    expect(ended).toBe('Deno' in globalThis ? null : code);
  });

  test('are in the help, beside those of llama-duo', () => {
    const { status, stdout } = call('--help');
    expect(status).toBe(0);
    expect(stdout).toMatch(/^ {2}run +Continues a prompt/m);
    expect(stdout).toMatch(/^ {2}serve +HTTP API server$/m);
    expect(stdout).toMatch(/^ {2}gguf-split +\S/m);
    expect(stdout).not.toContain('update');
  });

  test.each([
    ['shuot', 'Unknown command "shuot". Did you mean shout?'],
    ['inspekt', 'Unknown command "inspekt". Did you mean inspect?'],
    ['frobnicate', 'Known: run, inspect, eval, calibrate, pattern, demo, serve, shout, die, gguf-split.'],
    ['../bin/llama', 'Unknown command "../bin/llama"'],
    ['update', 'would fetch a llama.cpp that knows no mixed heads'],
  ])('%s ends with 2', (word, message) => {
    const { status, stdout, stderr } = call(word);
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
    expect(stderr).toContain(message);
  });

  test('need the tool, and say how to get it', () => {
    const without = (...args: string[]): string =>
      spawnSync(process.execPath, [main, ...args], { ...options(), env: { ...env(), LLAMA_DUO_TOOL: join(folder, 'none') } }).stderr;
    expect(without('serve')).toContain(`there is no ${join(folder, 'none')}: correct LLAMA_DUO_TOOL`);
    expect(without('inspekt')).toContain('Did you mean inspect?');
  });
});
