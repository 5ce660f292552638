// The C ABI that src/ffi binds: flat functions over numbers and byte buffers, the same for koffi, bun:ffi and Deno.dlopen.
//
// Rules
// - Types: int32_t, uint32_t, double and pointers to buffers. No struct, bool, size_t, 64-bit integer, char * result or function pointer.
// - Every function but llama_duo_abi_version returns a status: 0, or a negative LLAMA_DUO_E_*. No C++ exception leaves the library.
// - Handles are numbers (slot and generation): a stale one is LLAMA_DUO_E_HANDLE, never a crash. 0 is never a handle.
// - Text goes in as (pointer, bytes), UTF-8, no NUL needed. Text comes out into (buffer, capacity); *needed gets the bytes of the whole text,
//   and if they exceed the capacity nothing is written and the status is LLAMA_DUO_E_SPACE. The buffer may be NULL with capacity 0.
// - Whatever can take long is a job: submit returns at once, the library's own threads work, and the caller polls. Nothing calls back.
// - Options are one JSON object (at least "{}"), checked here: an unknown key, a wrong type (null is one for every key) or a value out of range fails the job
//   with a message that names the key, the value and what was expected.
// - Nothing is ever printed: what llama.cpp has to say is in the log.
// - A submit copies its input and a drain copies its output: no caller's buffer is used after the call returns.
// - Calls may come from any thread.
#pragma once

#include <stdint.h>

#if defined(_WIN32)
#    define LLAMA_DUO_API __declspec(dllexport)
#else
#    define LLAMA_DUO_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define LLAMA_DUO_ABI_VERSION 2

enum llama_duo_status {
    LLAMA_DUO_OK         =  0,
    LLAMA_DUO_E_ARGUMENT = -1,  // a null pointer, a negative size, a value out of range
    LLAMA_DUO_E_HANDLE   = -2,  // not a live handle of the expected kind
    LLAMA_DUO_E_SPACE    = -3,  // the buffer is too small; *needed says how large it must be
    LLAMA_DUO_E_STATE    = -4,  // not now: the job has not ended, or ended otherwise
    LLAMA_DUO_E_INTERNAL = -5,  // an exception that should not have happened
};

enum llama_duo_job_state {
    LLAMA_DUO_JOB_QUEUED    = 0,
    LLAMA_DUO_JOB_RUNNING   = 1,
    LLAMA_DUO_JOB_DONE      = 2,
    LLAMA_DUO_JOB_FAILED    = 3,  // llama_duo_job_error says why
    LLAMA_DUO_JOB_CANCELLED = 4,
};

// The version of this header that the library was built from. A caller refuses another.
LLAMA_DUO_API int32_t llama_duo_abi_version(void);

// JSON: { "abi", "version", "llamaCpp": { "tag", "tree", "patchedTree" }, "compiler", "simd": [...], "backends": [...] }
LLAMA_DUO_API int32_t llama_duo_build_info(void * buf, int32_t cap, int32_t * needed);

// Takes the oldest log lines that fit, whole lines, oldest first, each "level\tmessage\n" with level one of debug, info, warn, error. *needed gets
// the bytes written (0: nothing there), or those of the oldest line with LLAMA_DUO_E_SPACE where not even it fits. At most 64 KiB are kept; the
// oldest lines are dropped first.
LLAMA_DUO_API int32_t llama_duo_log_drain(void * buf, int32_t cap, int32_t * needed);

// --- jobs ---

// *state gets a llama_duo_job_state, *progress a number from 0 to 1 (loading, prefill, calibration, embedding gates), or -1 where there is none.
LLAMA_DUO_API int32_t llama_duo_job_poll(uint32_t job, int32_t * state, double * progress);

// The result's JSON once the job is done; each submit below says what it holds.
LLAMA_DUO_API int32_t llama_duo_job_result(uint32_t job, void * buf, int32_t cap, int32_t * needed);

// Numbers that belong to the result, as bytes in the machine's order, once the job is done; a submit that makes any says so. *needed counts bytes.
LLAMA_DUO_API int32_t llama_duo_job_data(uint32_t job, void * buf, int32_t cap, int32_t * needed);

// { "code", "message" } once the job has failed. code is one of: option (bad option), gates (bad gate pattern), model (cannot be loaded),
// unsupported (mixed heads cannot apply), context (cannot be created), full (the prompt does not fit the context), grammar (it allows no token of the
// vocabulary), decode, output (a file cannot be written), internal (what should not have happened). code "option" adds "name" (the key, "duo.sink" for one within another, "prompt" for
// llama_duo_generate's tokens or text and "text" for llama_duo_score's, "" where the options are no JSON object), "value" and "expected"; code "grammar" adds
// "text", all that was generated; code "gates" of a pattern for another model adds "patternShape" and "modelShape", [KV heads of each layer].
LLAMA_DUO_API int32_t llama_duo_job_error(uint32_t job, void * buf, int32_t cap, int32_t * needed);

// Asks the job to stop; it ends as cancelled unless it had ended already. Returns at once.
LLAMA_DUO_API int32_t llama_duo_job_cancel(uint32_t job);

// Cancels the job if it runs and gives its handle back. Models and contexts that a job made live on.
LLAMA_DUO_API int32_t llama_duo_job_free(uint32_t job);

// --- models ---

// Options: { "path": string, "gpuLayers"?: integer >= -1 (-1: all), "useMmap"?: boolean, "vocabOnly"?: boolean, "weights"?: boolean (true; false: the
//   model can tell what it is, tokenize and be planned with, and takes no memory for weights) }
// Result: { "model": handle, "description", "architecture", "path", "sizeBytes", "parameters", "layers", "embeddingSize", "contextSize" (trained),
//   "vocabularySize", "heads": [per layer], "kvHeads": [per layer], "headSizeK", "headSizeV", "bosToken", "eosToken" (or null), "addBos": boolean,
//   "chatTemplate": string | null, "metadata": { key: value } }
LLAMA_DUO_API int32_t llama_duo_model_load(const void * json, int32_t len, uint32_t * job);

// Gives the model back at once and is done when its memory is free, or at once where a context or a job still uses it: then its memory is free once
// they are. Freeing is safe in any order. Result: {}
LLAMA_DUO_API int32_t llama_duo_model_free(uint32_t model, uint32_t * job);

// Token ids of a text. flags: 1 add special tokens as the model wants them, 2 parse special tokens in the text. *needed counts tokens.
// LLAMA_DUO_E_STATE: the model has no vocabulary.
LLAMA_DUO_API int32_t llama_duo_tokenize(
        uint32_t model, const void * text, int32_t len, int32_t flags, int32_t * tokens, int32_t cap, int32_t * needed);

// As llama_duo_tokenize, for a text that takes long. Result: { "tokens": how many }; data: the ids, int32_t
LLAMA_DUO_API int32_t llama_duo_tokenize_long(uint32_t model, const void * text, int32_t len, int32_t flags, uint32_t * job);

// The bytes of tokens; they may end within a UTF-8 sequence. flags: 1 leave special tokens out, 2 render special tokens as text.
// LLAMA_DUO_E_STATE: the model has no vocabulary. LLAMA_DUO_E_ARGUMENT: an id is not in it.
LLAMA_DUO_API int32_t llama_duo_detokenize(
        uint32_t model, const int32_t * tokens, int32_t n_tokens, int32_t flags, void * buf, int32_t cap, int32_t * needed);

// --- gate patterns ---

// Options: { "path": string } or { "text": string, "source"?: string }
// Result: the pattern as its JSON: { "llamaDuoPattern": 1, "layers", "kvHeads", "sink"?, "recent"?, "gates": [[...]], "provenance"? }
LLAMA_DUO_API int32_t llama_duo_gates_read(const void * json, int32_t len, uint32_t * job);

// Options: { "pattern": the pattern's JSON object, "sparsity"?: number, "threshold"?: number, "kvHeads"?: [per layer] (default: the pattern's) }
// Result: { "streaming": [[0 | 1, ...], ...], "retrievalHeads", "streamingHeads" }
LLAMA_DUO_API int32_t llama_duo_gates_select(const void * json, int32_t len, uint32_t * job);

// Copies a model with the pattern in its metadata, where "auto" finds it.
// Options: { "pattern": the pattern's JSON object, "model": path, "target": path of the copy }
// Result: { "target" }
LLAMA_DUO_API int32_t llama_duo_gates_embed(const void * json, int32_t len, uint32_t * job);

// Finds out how much each KV head needs its whole cache, with forward passes only: a context is read once for each sample, then its questions and
// answers again and again with other heads restricted to sinks and recent keys.
// Options: { "samples": [{ "tokens": [token], "context": integer (tokens before the questions), "answers": [[first, end], ...] }], "method"?: "combined" |
//   "typical" | "ablation" | "greedy" | "masks" | "mass" | "kvzip" | "mean-qk", "sink"?, "recent"?, "strict"?: boolean (read the contexts under the restriction, too),
//   "masks"?: integer (method masks: how many), "seed"?: 0 to 4294967295 (method masks), "threads"?, "partial"?: path (measurements are kept there, and a
//   later job with the same options goes on from them, several at once, too; a file of other options or of anything else is refused), "modelId"?: string
//   (tells models apart there) }
// Result: { "pattern": the pattern's JSON (gates are the ranks of scores, from 0 to 1), "scores": [[...]], "correct": number | null (share of the
//   answers' tokens that are the likeliest with every head seeing everything), "contextTokens", "tailTokens", "answerTokens", "passes" }
LLAMA_DUO_API int32_t llama_duo_calibrate(uint32_t model, const void * json, int32_t len, uint32_t * job);

// --- contexts ---

// Options: { "contextSize"?: integer >= 0 (all sequences together; 0, the default: as trained; it is rounded up to 256 before batches are cut to it),
//   "sequences"?: integer >= 1, "batchSize"?: integer >= sequences, "ubatchSize"?, "threads"?, "threadsBatch"?, "typeK"?, "typeV"?: "f32" | "f16" | "bf16" | "q8_0" | ..., "flashAttention"?: "auto" | "on" | "off",
//   "duo"?: { "gates"?: "auto" | path | pattern object, "sparsity"?, "threshold"?, "sink"?, "recent"?, "chunk"? } }
// Result: { "context": handle, "contextSize", "sequences", "contextPerSequence", "batchSize", "ubatchSize", "threads", "threadsBatch",
//   "typeK", "typeV", "kv": KV, "warnings": WARNINGS }
// KV: { "retrievalBytes", "streamingBytes", "windowedBytes", "totalBytes", "fullBytes", "retrievalHeads", "streamingHeads", "retrievalCells",
//   "streamingCells", "windowedHeads", "windowedCells" (of layers with the model's own sliding windows),
//   "sequences", "sink", "recent", "chunk" }
// WARNINGS: [{ "code": "beyond-training" (the context is larger than what the model was trained for), "message" }]
LLAMA_DUO_API int32_t llama_duo_context_create(uint32_t model, const void * json, int32_t len, uint32_t * job);

// What llama_duo_context_create would make, without making it. Same options.
// Result: { "supported": boolean, "reason": string | null, "kv": KV | null, "warnings": WARNINGS }. Where llama.cpp's own cache is asked for and it is not
//   the standard one, the model's file is read again, without its weights.
LLAMA_DUO_API int32_t llama_duo_context_plan(uint32_t model, const void * json, int32_t len, uint32_t * job);

// Gives the context back at once, ends its jobs, and is done when its memory is free. Result: {}
LLAMA_DUO_API int32_t llama_duo_context_free(uint32_t context, uint32_t * job);

// Generates from a prompt on sequence 0 of the context; jobs of a context run one after the other in the order of their submits. What the cache
// already holds of the prompt is reused where it can be.
// The prompt: n_tokens ids, or, where n_tokens is -1, n_bytes of text, which the context's thread tokenizes when it is the job's turn. A text that
// cannot fit, whatever its tokens are, is refused before that.
// Options: { "addSpecial"?: boolean (true), "parseSpecial"?: boolean (false; both as llama_duo_tokenize's flags, of a prompt that is text),
//   "maxTokens"?: integer >= -1 (-1: until the context is full), "ignoreEos"?: boolean, "temperature"?: >= 0 (0: greedy), "topK"?, "topP"?,
//   "minP"?, "typicalP"?, "repeatPenalty"?, "repeatLastN"?, "frequencyPenalty"?, "presencePenalty"?, "seed"?: 0 to 4294967295, "grammar"?: string,
//   "stop"?: [string] (generation ends before the text that matches), "specialTokens"?: boolean (render special tokens in text),
//   "reuse"?: boolean, "window"?: integer >= 1 (tokens that may wait undrained before the engine pauses; 256. It
//   does not pause while another job of the context waits: what the reader does not take is kept) }
// Result: { "stop": "length" | "eos" | "text" | "full", "stopText": string | null, "promptTokens", "reusedTokens", "generatedTokens",
//   "prefillSeconds", "decodeSeconds", "prefillTokensPerSecond", "decodeTokensPerSecond" } (a rate without tokens is 0)
//   The token that ends a generation ("eos") is neither counted nor drained. A grammar whose text is complete ends it so as well, with ignoreEos too. One that
//   allows no token before that fails the job with code "grammar". decodeSeconds leaves out waiting for the reader.
LLAMA_DUO_API int32_t llama_duo_generate(uint32_t context, const int32_t * tokens, int32_t n_tokens, const void * text, int32_t n_bytes,
        const void * json, int32_t len, uint32_t * job);

// Takes tokens that wait, and their text: whole UTF-8 sequences, so text may lag behind its tokens but never runs ahead; when the job has
// ended the last drain gives the rest. info[0] tokens written, info[1] bytes of text written, info[2] the job's state, info[3] 1 if more waits;
// info has room for 4. Draining lets a paused engine go on. Both buffers must hold at least 16 tokens and 4096 bytes.
LLAMA_DUO_API int32_t llama_duo_job_drain(
        uint32_t job, int32_t * tokens, int32_t cap, void * text, int32_t text_cap, int32_t * info);

// The logarithms of the probabilities of given tokens, each after those before it, on sequence 0 of the context. What the cache already holds
// of the tokens before the first scored one is reused. Ids or text as for llama_duo_generate: at least 2 tokens, at most one more than a sequence holds.
// Options: { "addSpecial"?, "parseSpecial"?, "from"?: integer from 1 to the number of tokens - 1 (the first token to score; 1) }
// Result: { "reusedTokens", "seconds" }; data: natural logarithms of the tokens from `from` on, double
LLAMA_DUO_API int32_t llama_duo_score(uint32_t context, const int32_t * tokens, int32_t n_tokens, const void * text, int32_t n_bytes,
        const void * json, int32_t len, uint32_t * job);

// --- process ---

// From now on what the calling thread submits, and what comes of it, ends with that thread: its jobs are cancelled, its models and contexts freed. For
// a JavaScript worker, which may end without another call. Other threads may use those handles as before.
LLAMA_DUO_API int32_t llama_duo_own_by_this_thread(void);

// Cancels all jobs and waits, at most timeout_ms, until the library's threads rest; LLAMA_DUO_E_STATE where some still work then. The library
// does this itself at exit; a caller may do so earlier, and go on using it.
LLAMA_DUO_API int32_t llama_duo_shutdown(int32_t timeout_ms);

#ifdef __cplusplus
}
#endif
