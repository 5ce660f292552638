import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

import type { CudaPackage, PlatformPackage } from './packages.ts';

/** What the package's probe prints: one JSON object. */
export type Probe = {
  /** What stopped it. */
  error?: string;
  /** The CUDA version that the driver supports, 13000 for 13.0; absent without a driver. */
  driver?: number;
  devices?: { name: string; major: number; minor: number }[];
};

/** How long a probe may take: a driver wakes GPUs up for seconds. */
const timeout = 60_000;

/**
 * Whether a CUDA package works here, found out in a process of its own, which a driver may crash or hang.
 *
 * @returns why not, as a sentence; undefined where it works
 */
export async function whyNotCuda({ library, cuda }: PlatformPackage): Promise<string | undefined> {
  if (!cuda) return 'The package says nothing of CUDA: it is damaged.';
  let probe: Probe;
  try {
    const { stdout } = await promisify(execFile)(cuda.probe, [library], { timeout, encoding: 'utf8' });
    probe = JSON.parse(stdout) as Probe;
  } catch (cause) {
    return `The probe ${cuda.probe} failed: ${describeFailure(cause)}.`;
  }
  return judge(probe, cuda);
}

function describeFailure(cause: unknown): string {
  const { code, signal, killed } = cause as { code?: string | number | null; signal?: string | null; killed?: boolean };
  if (killed) return `it did not end within ${timeout / 1000} s`;
  if (signal) return `it was ended by ${signal}, as where a driver crashes`;
  if (typeof code === 'number') return `it ended with exit code ${code}`;
  return cause instanceof Error ? cause.message : String(cause);
}

/** What a probe's answer means for a package. */
export function judge(probe: Probe, { oldestDriver, toolkit, architectures, ptx }: CudaPackage): string | undefined {
  const { error, driver, devices = [] } = probe;
  if (driver === undefined) return `There is no NVIDIA driver that works: ${error ?? 'it tells no version'}.`;
  if (driver < oldestDriver) {
    return `The NVIDIA driver supports CUDA ${version(driver)}, and the package needs ${version(oldestDriver)}: install a newer driver.`;
  }
  if (error !== undefined) return `The NVIDIA driver is there, but ${error}.`;
  if (devices.length === 0) return 'The NVIDIA driver sees no GPU (CUDA_VISIBLE_DEVICES may hide them).';
  const reasons = devices.map(({ name, major, minor }) => {
    const capability = major * 10 + minor;
    // Code of an architecture runs on later ones of the same generation.
    if (architectures.some((built) => Math.floor(built / 10) === major && built <= capability)) return undefined;
    const gpu = `${name} has compute capability ${major}.${minor}`;
    if (capability < ptx)
      return `${gpu}, and the package needs ${Math.floor(Math.min(...architectures) / 10)}.${Math.min(...architectures) % 10} or later`;
    if (driver < toolkit)
      return `${gpu}, for which the driver must compile the package's code, and it needs CUDA ${version(toolkit)} for that, not ${version(driver)}`;
    return undefined;
  });
  const refused = reasons.filter((reason) => reason !== undefined);
  if (refused.length === 0) return undefined;
  // llama.cpp spreads a model over all that it sees.
  const advice = refused.length < devices.length ? ' Hide that GPU with CUDA_VISIBLE_DEVICES.' : '';
  return `${refused.join('; ')}.${advice}`;
}

function version(number: number): string {
  return `${Math.floor(number / 1000)}.${Math.floor((number % 1000) / 10)}`;
}
