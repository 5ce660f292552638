import type { SampleKind as Kind } from '../synthetic/facts.ts';

/** What samples ask for. Apart from how they do: who loads a model loads nothing of that. */
export const sampleKinds = ['numbers', 'passkeys', 'multi', 'chains', 'code'] as const satisfies readonly Kind[];
export type SampleKind = (typeof sampleKinds)[number];
