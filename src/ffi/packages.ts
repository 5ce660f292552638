/** What a CUDA package says of itself. CUDA's versions are its numbers, 13000 for 13.0; architectures are compute capabilities, 90 for 9.0. */
export type CudaPackage = {
  /** The path of the program that looks for a GPU. */
  probe: string;
  /** The oldest version that a driver may support. */
  oldestDriver: number;
  /** The version that it was compiled with, which a driver must support to compile it for other GPUs. */
  toolkit: number;
  /** GPUs that it is compiled for. */
  architectures: readonly number[];
  /** The oldest GPU that a driver can compile it for. */
  ptx: number;
};

/** What a platform's package exports. */
export type PlatformPackage = {
  /** The path of the library. */
  library: string;
  /** What llama_duo_build_id of that library says. */
  buildId: string;
  /** The version of glibc that it needs. */
  glibc: string;
  cuda?: CudaPackage | undefined;
};

/** What a platform's packages are called, and how each is loaded. Imports are written out, so that bundlers see them; one that is not installed is no error to them. */
type NamedPackage = { readonly name: string; readonly load: () => Promise<PlatformPackage> };
type PlatformPackages = { readonly cpu: NamedPackage; readonly cuda?: NamedPackage };

/** The platforms that have packages: Node's names of the system and of the processor. */
export const platformPackages: Readonly<Record<string, PlatformPackages>> = {
  'linux-x64': {
    cpu: { name: '@llama-duo/linux-x64', load: async () => import('@llama-duo/linux-x64').catch(notInstalled) },
    cuda: { name: '@llama-duo/linux-x64-cuda', load: async () => import('@llama-duo/linux-x64-cuda').catch(notInstalled) },
  },
  'linux-arm64': {
    cpu: { name: '@llama-duo/linux-arm64', load: async () => import('@llama-duo/linux-arm64').catch(notInstalled) },
  },
};

/** A package cannot be loaded: it is not installed, or a file of it is missing. */
export class PackageMissing extends Error {}

function notInstalled(cause: unknown): never {
  throw new PackageMissing(cause instanceof Error ? cause.message : String(cause), { cause });
}
