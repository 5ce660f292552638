import js from '@eslint/js';
import { defineConfig, globalIgnores } from 'eslint/config';
import tseslint from 'typescript-eslint';

/**
 * The layers of src/, from the one that knows no other: each imports itself, those before it, and src/errors.ts. src/index.ts, the entry, is for programs and
 * for eval/ and cli/, which use the package as a program does.
 */
const layers = ['ffi', 'core', 'synthetic', 'gates', 'eval', 'cli'];

/**
 * Rules that keep to that order, for static and for dynamic imports.
 *
 * @type {import('eslint').Linter.Config[]}
 */
export const layerRules = ['errors.ts', ...layers.slice(0, -1)].map((layer) => {
  const above = layers.slice(layers.indexOf(layer) + 1).map((name) => `${name}/`);
  const regex = `^\\.\\.?/(${[...above, ...(layer === 'eval' ? [] : ['index\\.ts'])].join('|')})`;
  const message = `${layer} is below that layer: ${layers.join(' <- ')}.`;
  const dynamic = { selector: `ImportExpression > Literal[value=/${regex.replaceAll('/', '\\/')}/]`, message };
  return {
    files: [layer === 'errors.ts' ? 'src/errors.ts' : `src/${layer}/**`],
    rules: { 'no-restricted-imports': ['error', { patterns: [{ regex, message }] }], 'no-restricted-syntax': ['error', dynamic] },
  };
});

export default defineConfig(
  globalIgnores(['dist/', 'build*/', 'vendor/', '.cache/']),
  js.configs.recommended,
  tseslint.configs.strictTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      // TypeScript knows which names exist, in the scripts too.
      'no-undef': 'off',
      // A number in a message is plain enough.
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
    },
  },
  layerRules,
);
