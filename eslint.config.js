import js from '@eslint/js';
import { defineConfig, globalIgnores } from 'eslint/config';
import tseslint from 'typescript-eslint';

/** The layers of src/: each imports itself and those before it. src/index.ts is what programs import; eval/ and cli/ may use the package as they do. */
const layers = ['errors.ts', 'ffi/', 'core/', 'synthetic/', 'gates/', 'index.ts', 'eval/', 'cli/'];

/**
 * Rules that keep to that order, for static and for dynamic imports.
 *
 * @type {import('eslint').Linter.Config[]}
 */
export const layerRules = layers.slice(0, -1).map((layer, index) => {
  const above = layers.slice(index + 1).map((name) => name.replace('.', '\\.'));
  const regex = `^\\.\\.?/(${above.join('|')})`;
  const message = `${layer} is below that layer: ${layers.join(' <- ')}.`;
  const dynamic = { selector: `ImportExpression > Literal[value=/${regex.replaceAll('/', '\\/')}/]`, message };
  return {
    files: [layer.endsWith('/') ? `src/${layer}**` : `src/${layer}`],
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
  // Programs that are run as they stand, without types of their own.
  { files: ['examples/**', 'bench/**'], extends: [tseslint.configs.disableTypeChecked] },
);
