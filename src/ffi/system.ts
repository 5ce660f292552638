import { closeSync, openSync, readFileSync, readSync } from 'node:fs';

/** What decides whether a library made elsewhere can run here, replaceable so that tests need no such computer. */
export type System = {
  platform: NodeJS.Platform;
  arch: NodeJS.Architecture;
  /** Linux's C library; undefined elsewhere, and where it cannot be told. */
  libc: 'glibc' | 'musl' | undefined;
  /** The processor's features in Linux's words; undefined where they cannot be told. */
  cpuFlags: ReadonlySet<string> | undefined;
};

/** This computer. */
export function thisSystem(): System {
  const { platform, arch } = process;
  return { platform, arch, libc: platform === 'linux' ? libcOf(process.execPath) : undefined, cpuFlags: cpuFlags(platform) };
}

/** The processors of ELF files (e_machine), in Node's words. */
const elfMachines: Readonly<Record<number, string>> = { 3: 'ia32', 40: 'arm', 62: 'x64', 183: 'arm64', 243: 'riscv64' };

/** Which processor a library is for; undefined where that cannot be told. */
export function machineOf(library: string): string | undefined {
  const head = firstBytes(library);
  if (head?.toString('latin1', 0, 4) !== '\x7fELF') return undefined;
  return elfMachines[head.readUInt16LE(18)];
}

/** Which C library a program uses, told by the loader that it names in its first bytes. */
export function libcOf(program: string): System['libc'] {
  const loader = /\/lib[^\0]*\/ld-(musl|linux)/.exec(firstBytes(program)?.toString('latin1') ?? '')?.[1];
  return loader === undefined ? undefined : loader === 'musl' ? 'musl' : 'glibc';
}

function firstBytes(path: string): Buffer | undefined {
  try {
    const file = openSync(path, 'r');
    const head = Buffer.alloc(4096);
    try {
      readSync(file, head, 0, head.length, 0);
    } finally {
      closeSync(file);
    }
    return head;
  } catch {
    return undefined; // not readable, as where Deno may not
  }
}

function cpuFlags(platform: NodeJS.Platform): System['cpuFlags'] {
  if (platform !== 'linux') return undefined;
  try {
    const flags = /^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1];
    return flags === undefined ? undefined : new Set(flags.trim().split(/\s+/));
  } catch {
    return undefined;
  }
}

/** x86-64-v2, which packages for x64 are compiled for, in Linux's words. */
const x64Flags = ['cx16', 'lahf_lm', 'popcnt', 'pni', 'ssse3', 'sse4_1', 'sse4_2'];

/** What the processor lacks of what packages are compiled for. */
export function missingCpuFlags({ arch, cpuFlags }: System): string[] {
  return arch === 'x64' && cpuFlags ? x64Flags.filter((flag) => !cpuFlags.has(flag)) : [];
}
