#include "shapes.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <stdexcept>

namespace {

// Windowed layers and global ones in turn, as `pattern` has it: "wwwwwg".
void repeat(bench_shape & p, const std::string & pattern, int times, int of) {
    p.kinds.clear();
    for (int i = 0; i < times; ++i) {
        p.kinds += pattern;
    }
    p.n_layer = int64_t(p.kinds.size());
    p.note    = std::to_string(p.n_layer) + " of " + std::to_string(of) + " layers";
}

// Attention as it is, and little beside it: in a model of few layers it is what takes the time.
void shrink(bench_shape & p, int64_t n_ff = 2048) {
    p.n_embd  = 1024;
    p.n_ff    = n_ff;
    p.n_vocab = 32768;
    p.note   += ", embedding 1024, feed-forward " + std::to_string(n_ff) + ", vocabulary 32768";
}

const char * const tied   = "token_embd E V; output_norm E; ";
const char * const untied = "token_embd E V; output_norm E; output E V; ";
const char * const gated  = "ffn_gate E F; ffn_up E F; ffn_down F E; ";
const char * const norms_before_and_after = "attn_norm E; attn_q_norm D; attn_k_norm D; post_attention_norm E; ffn_norm E; post_ffw_norm E; ";

void llama(bench_shape & p, int64_t n_layer, int64_t n_head, int64_t n_head_kv, int64_t head_size, int64_t n_ff, int64_t n_vocab) {
    p.n_layer = n_layer; p.n_head = n_head; p.n_head_kv = n_head_kv; p.head_size = head_size; p.n_ff = n_ff; p.n_vocab = n_vocab;
}

void llama_3_8b(bench_shape & p, bool small) {
    llama(p, 32, 32, 8, 128, 14336, 128256);
    if (small) {
        p.n_layer = 2;
        p.note    = "2 of 32 layers";
        shrink(p);
    }
}

void gemma_3_27b(bench_shape & p, bool small) {
    p.arch = "gemma3";
    llama(p, 62, 32, 16, 128, 21504, 262208);
    p.n_embd = 5376;
    repeat(p, "wwwwwg", small ? 1 : 2, 62);
    p.tensors  = tied;
    p.block    = std::string(norms_before_and_after) + "attn_q E HD; attn_k E GD; attn_v E GW; attn_output HW E; " + gated;
    p.metadata = "attention.sliding_window=1024 attention.sliding_window_pattern=6 rope.freq_base_swa=10000.0";
    if (small) {
        shrink(p);
    }
}

// Global layers have heads twice as large, a quarter of the KV heads, and no matrix of values: K is V, too.
void gemma_4_31b(bench_shape & p, bool small) {
    p.arch = "gemma4";
    llama(p, 60, 32, 16, 512, 21504, 262144);
    p.n_embd = 5376;
    repeat(p, "wwwwwg", small ? 1 : 2, 60);
    std::string windowed;
    for (const char kind : p.kinds) {
        p.n_head_kv_layer.push_back(kind == 'w' ? 16 : 4);
        p.head_size_layer.push_back(kind == 'w' ? 256 : 512);
        windowed += std::string(windowed.empty() ? "" : ",") + (kind == 'w' ? "1" : "0");
    }
    p.tensors  = std::string(tied) + "rope_freqs 256; ";
    p.block    = std::string(norms_before_and_after) + "attn_q E HD; attn_k E GD; w?attn_v E GW; attn_output HW E; " + gated;
    p.metadata = "attention.sliding_window=1024 attention.sliding_window_pattern=" + windowed + " embedding_length_per_layer_input=0 "
                 "attention.key_length_swa=256 attention.value_length_swa=256 rope.dimension_count_swa=256 final_logit_softcapping=30.0";
    if (small) {
        shrink(p);
    }
}

// 4 of 8 experts for a token, not of 32: as many bytes and products for each token.
void gpt_oss_20b(bench_shape & p, bool small) {
    p.arch = "gpt-oss";
    llama(p, 24, 64, 8, 64, 2880, 201088);
    p.n_embd = 2880;
    repeat(p, "wg", small ? 3 : 6, 24);
    p.tensors  = untied;
    p.block    = "attn_norm E; post_attention_norm E; attn_q E HD; attn_k E GD; attn_v E GW; attn_output HW E; attn_q.bias HD; attn_k.bias GD; attn_v.bias GW; attn_output.bias E; "
                 "attn_sinks H; ffn_gate_inp E 8; ffn_gate_inp.bias 8; ffn_gate_exps E F 8; ffn_up_exps E F 8; ffn_down_exps F E 8; "
                 "ffn_gate_exps.bias F 8; ffn_up_exps.bias F 8; ffn_down_exps.bias E 8; ";
    p.metadata = "attention.sliding_window=128 expert_count=8 expert_used_count=4 expert_feed_forward_length=F";
    p.note    += ", 8 of 32 experts";
    if (small) {
        shrink(p, 512);
    }
}

// Gated delta nets of 16 heads of K and 32 of V, of 128; each fourth layer attends.
void qwen35_9b(bench_shape & p, bool small) {
    p.arch = "qwen35";
    llama(p, 32, 16, 4, 256, 12288, 248320);
    p.n_embd = 4096;
    p.n_rot  = 64;
    repeat(p, "rrra", small ? 1 : 4, 32);
    p.tensors  = untied;
    p.block    = "attn_norm E; post_attention_norm E; r?attn_qkv E 8192; r?attn_gate E 4096; r?ssm_conv1d 4 8192; r?ssm_dt.bias 32; r?ssm_a. 32; r?ssm_beta E 32; r?ssm_alpha E 32; "
                 "r?ssm_norm 128; r?ssm_out 4096 E; a?attn_q E 2HD; a?attn_k E GD; a?attn_v E GW; a?attn_output HW E; a?attn_q_norm D; a?attn_k_norm D; " + std::string(gated);
    p.metadata = "ssm.conv_kernel=4 ssm.inner_size=4096 ssm.state_size=128 ssm.time_step_rank=32 ssm.group_count=16 full_attention_interval=4 rope.dimension_sections=11,11,10,0";
    if (small) {
        shrink(p);
    }
}

struct named_shape {
    const char * name;
    void (*make)(bench_shape & p);
};

const named_shape shapes[] = {
    { "smollm2",           [](bench_shape & p) { llama(p, 30,  9, 3,  64,  1536,  49152); } },
    { "llama-1b",          [](bench_shape & p) { llama(p, 16, 32, 8,  64,  8192, 128256); } },
    { "llama-3-8b",        [](bench_shape & p) { llama_3_8b(p, false); } },
    { "gemma-3-27b",       [](bench_shape & p) { gemma_3_27b(p, false); } },
    { "gemma-4-31b",       [](bench_shape & p) { gemma_4_31b(p, false); } },
    { "gpt-oss-20b",       [](bench_shape & p) { gpt_oss_20b(p, false); } },
    { "qwen3.5-9b",        [](bench_shape & p) { qwen35_9b(p, false); } },
    { "llama-3-8b-small",  [](bench_shape & p) { llama_3_8b(p, true); } },
    { "gemma-3-27b-small", [](bench_shape & p) { gemma_3_27b(p, true); } },
    { "gemma-4-31b-small", [](bench_shape & p) { gemma_4_31b(p, true); } },
    { "gpt-oss-20b-small", [](bench_shape & p) { gpt_oss_20b(p, true); } },
    { "qwen3.5-9b-small",  [](bench_shape & p) { qwen35_9b(p, true); } },
};

} // namespace

bench_shape shape_of(const std::string & name) {
    for (const named_shape & shape : shapes) {
        if (name == shape.name) {
            bench_shape p;
            p.type   = GGML_TYPE_Q8_0;
            p.n_ctx  = 1 << 20;
            p.pooled = true;
            shape.make(p);
            return p;
        }
    }
    throw std::invalid_argument("--shape is \"" + name + "\"; expected " + shape_names());
}

bench_shape shape_or_exit(const std::string & name) {
    try {
        return shape_of(name);
    } catch (const std::invalid_argument & e) {
        fprintf(stderr, "%s\n", e.what());
        exit(2);
    }
}

std::string shape_names() {
    std::string names;
    for (const named_shape & shape : shapes) {
        const bool last = &shape == std::end(shapes) - 1;
        names += (names.empty() ? "" : last ? " or " : ", ") + std::string(shape.name);
    }
    return names;
}

int64_t global_heads(const random_model_params & p, int64_t il) {
    const bool global = p.kinds.empty() || p.kinds[il] == 'g' || p.kinds[il] == 'a';
    return !global ? 0 : p.n_head_kv_layer.empty() ? p.n_head_kv : p.n_head_kv_layer[il];
}

std::string periodic_gates(const random_model_params & p) {
    static const char * const gates[] = { "1", "0", "0.5", "0.25" };
    std::string rows;
    int64_t widest = 0;
    for (int64_t il = 0, i = 0; il < p.n_layer; ++il) {
        std::string row;
        const int64_t n = global_heads(p, il);
        for (int64_t h = 0; h < n; ++h, ++i) {
            row += (h ? "," : "") + std::string(gates[i % 4]);
        }
        rows += (il ? ",[" : "[") + row + "]";
        widest = std::max(widest, n);
    }
    return "{\"llamaDuoPattern\":1,\"layers\":" + std::to_string(p.n_layer) + ",\"kvHeads\":" + std::to_string(widest) + ",\"gates\":[" + rows + "]}";
}
