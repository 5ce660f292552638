/** Whether all cases are asked for (LLAMA_DUO_TEST_ALL), some of which the others stand for where time is short. */
export const all = process.env['LLAMA_DUO_TEST_ALL'] !== undefined;
