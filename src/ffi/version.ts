/** The version of package.json, which bundled programs have no file of. test/unit/ffi/library.test.ts compares the two. */
export const packageVersion = '0.1.0';
