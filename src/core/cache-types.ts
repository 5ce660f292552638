/** The types that a cache's rows may have. */
export const cacheTypes = ['f32', 'f16', 'bf16', 'q8_0', 'q4_0', 'q4_1', 'iq4_nl', 'q5_0', 'q5_1'] as const;
export type CacheType = (typeof cacheTypes)[number];

/** As in q8_0, q8_0/q4_0, or q4_0+q8_0/q4_0, where K rows of some layers are of a finer type. */
export function rowTypes(typeK: CacheType, typeV: CacheType, finerK: CacheType | null): string {
  const k = finerK ? `${typeK}+${finerK}` : typeK;
  return k === typeV ? k : `${k}/${typeV}`;
}
