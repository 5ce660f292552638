#include "architectures.h"

random_model_params architecture::params(uint64_t seed) const {
    random_model_params p;
    p.arch      = name;
    p.tensors   = tensors;
    p.block     = block;
    p.metadata  = metadata;
    p.seed      = seed;
    p.n_layer   = 2;
    p.head_size = 32;
    p.n_vocab   = 128;
    if (sizes) {
        sizes(p);
    }
    return p;
}

namespace {

// --- what architectures are made of ---

using words = std::string;

const words tied   = "token_embd E V; output_norm E; ";
const words untied = tied + "output E V; ";
const words final_bias  = "output_norm.bias E; "; // of a layer norm
const words output_bias = "output.bias V; ";

const words norms       = "attn_norm E; ffn_norm E; ";
const words norm_biases = "attn_norm.bias E; ffn_norm.bias E; ";
const words post_norms  = "post_attention_norm E; post_ffw_norm E; ";

const words out   = "attn_output HW E; ";
const words split = "attn_q E HD; attn_k E GD; attn_v E GW; " + out;
const words fused = "attn_qkv E HD+GD+GW; " + out; // V is a strided view
const words split_biases = "attn_q.bias HD; attn_k.bias GD; attn_v.bias GW; ";
const words fused_bias   = "attn_qkv.bias HD+GD+GW; ";
const words out_bias     = "attn_output.bias E; ";
const words head_norms   = "attn_q_norm D; attn_k_norm D; ";   // one for all heads
const words wide_norms   = "attn_q_norm HD; attn_k_norm GD; "; // over all heads together

const words plain = "ffn_up E F; ffn_down F E; ";
const words gated = plain + "ffn_gate E F; ";
const words twice = "ffn_up E 2F; ffn_down F E; "; // gate and up in one
const words plain_biases = "ffn_up.bias F; ffn_down.bias E; ";

// Two experts, both used: which are chosen is a step that a last bit decides, and not what is tested.
const words two_experts = "expert_count=2 expert_used_count=2 expert_feed_forward_length=F ";
const words experts = "ffn_gate_inp E 2; ffn_gate_exps E F 2; ffn_up_exps E F 2; ffn_down_exps F E 2; ";
const words shared  = "ffn_gate_shexp E F; ffn_up_shexp E F; ffn_down_shexp F E; ";
const words one_shared = two_experts + "expert_shared_count=1 ";
const words expert_bias = "exp_probs_b.bias 2; ";
const words sigmoid = "expert_gating_func=2 ";

void all_heads_have_kv(random_model_params & p) { p.n_head_kv = p.n_head; }

// K's heads are of 48, of which 16 are rotated, V's of 32.
void latent_sizes(random_model_params & p) {
    p.n_head_kv   = p.n_head;
    p.n_embd      = 128;
    p.head_size   = 48;
    p.head_size_v = 32;
    p.n_rot       = 16;
}
const words latent_kv = "attn_kv_a_mqa E 80; attn_kv_a_norm 64; attn_kv_b 64 128+HW; "; // rank 64 + 16 rotated; 4 heads of 32 not rotated
const words latent_q  = "attn_q_a E 32; attn_q_a_norm 32; attn_q_b 32 HD; ";

} // namespace

const std::vector<architecture> & architectures() {
    static const std::vector<architecture> table = {
        // --- gated, RMS norms: llama and what differs from it in a detail ---
        { "llama",         untied, norms + split + gated, "" },
        { "arcee",         untied, norms + split + plain, "" },
        { "baichuan",      untied, norms + split + gated, "", [](random_model_params & p) { p.n_layer = 32; p.n_embd = 64; p.head_size = 16; }, false, false },
        { "chameleon",     untied, norms + split + gated + "attn_q_norm D H; attn_k_norm D G; attn_q_norm.bias D H; attn_k_norm.bias D G; ", "",
                           [](random_model_params & p) { p.n_vocab = 8300; }, false, false }, // it suppresses 8192 image tokens, and must have outputs
        { "chatglm",       untied, norms + fused + fused_bias + twice, "" },
        { "cogvlm",        untied, norms + fused + gated + "vis_attn_qkv E 3HD; vis_attn_output HD E; vis_gate E F; vis_up E F; vis_down F E; ", "", all_heads_have_kv },
        { "ernie4_5",      tied,   norms + split + gated, "" },
        { "exaone",        untied + "rope_freqs 16; ", norms + split + gated, "" },
        { "exaone4",       untied, split + head_norms + post_norms + gated, "" },
        { "glm4",          untied, norms + split + split_biases + post_norms + twice, "", [](random_model_params & p) { p.n_rot = 16; } },
        { "granite",       untied, norms + split + gated, "logit_scale=4.0 residual_scale=0.3 embedding_scale=6.0 attention.scale=0.2" },
        { "hunyuan-dense", untied, norms + split + head_norms + gated, "" },
        { "hunyuan_vl",    untied, norms + split + head_norms + gated, "rope.scaling.alpha=2.0" },
        { "internlm2",     untied, norms + split + gated, "" },
        { "maincoder",     untied, norms + split + head_norms + gated, "" },
        { "minicpm",       untied, norms + split + gated, "" },
        { "mistral3",      untied, norms + split + gated, "attention.temperature_scale=0.1 rope.scaling.original_context_length=100" },
        { "nanbeige",      untied, norms + split + gated, "num_loops=2", nullptr, false, false },
        { "olmo2",         untied, split + wide_norms + post_norms + gated, "" },
        { "openelm",       tied,   norms + fused + head_norms + gated, "", [](random_model_params & p) { p.n_layer = 3; p.n_head_layer = { 4, 6, 8 }; p.n_head_kv_layer = { 1, 3, 2 }; } },
        { "deci",          untied, "H?attn_norm E; G?attn_q E HD; attn_k E GD; attn_v E GW; attn_output HW E; ffn_norm E; " + gated, "", // layers without attention
                           [](random_model_params & p) { p.n_layer = 5; p.n_head_layer = { 4, 4, 0, 4, 4 }; p.n_head_kv_layer = { 4, 0, 0, 1, 2 }; } },
        { "pangu-embedded", untied, norms + split + split_biases + out_bias + gated, "" },
        { "phi3",          untied + "rope_factors_long 16; rope_factors_short 16; ", norms + fused + twice, "rope.scaling.original_context_length=512" },
        { "plamo",         untied, "attn_norm E; " + split + gated, "" },
        { "plamo3",        untied, norms + fused + head_norms + "post_attention_norm. E; post_ffw_norm. E; " + twice, "", [](random_model_params & p) { p.head_size_v = 48; p.n_embd = 128; } },
        { "qwen",          untied, norms + fused + fused_bias + gated, "feed_forward_length=2F", all_heads_have_kv },
        { "qwen2",         untied, norms + split + split_biases + gated, "" },
        { "qwen3",         tied,   norms + split + head_norms + gated, "", [](random_model_params & p) { p.n_embd = 96; } },
        { "seed_oss",      untied, "attn_norm E; post_attention_norm E; " + split + split_biases + gated, "" },
        { "smollm3",       tied,   norms + split + gated, "", [](random_model_params & p) { p.n_layer = 4; } }, // each fourth layer has no RoPE
        { "talkie",        "token_embd E V; output E V; ", split + "attn_q_norm 1 H; layer_output_scale 1; " + gated, "logit_scale=1.5" },
        { "xverse",        untied, norms + split + gated, "" },
        { "hrm_text",      "token_embd E V; output E V; hrm.z_l_init. E; ", split + "attn_gate E HD; " + gated, "hrm.layers_per_stack=1 hrm.h_cycles=2 hrm.l_cycles=1 block_count=4", nullptr, false, false },
        { "apertus",       untied, norms + split + head_norms + plain, ".xielu.alpha_n=0.8 .xielu.alpha_p=0.8 .xielu.beta=0.5 .xielu.eps=0.000001" },
        { "bitnet",        tied,   norms + split + "attn_sub_norm E; ffn_sub_norm F; " + gated, "" },

        // --- layer norms, biases, GELU ---
        { "command-r",     tied,   "attn_norm E; " + split + gated, "logit_scale=0.5" },
        { "orion",         untied + final_bias, norms + norm_biases + split + gated, "" },
        { "stablelm",      untied + final_bias, norms + norm_biases + split + "attn_q_norm D H; attn_k_norm D G; " + gated, "", [](random_model_params & p) { p.n_rot = 8; } },
        { "olmo",          "token_embd E V; output E V; ", split + gated, "attention.clamp_kqv=2.0" },
        { "nemotron",      untied + final_bias, norms + norm_biases + split + out_bias + plain + plain_biases, "", [](random_model_params & p) { p.n_rot = 16; } },
        { "jais2",         untied + final_bias, norms + norm_biases + split + split_biases + out_bias + plain + plain_biases, "" },
        { "jais",          untied + final_bias, norms + norm_biases + fused + fused_bias + out_bias + gated + plain_biases + "ffn_gate.bias F; ", "" },
        { "falcon",        untied + final_bias, "attn_norm E; attn_norm.bias E; attn_norm_2 E; attn_norm_2.bias E; " + fused + plain, "", nullptr, true },
        { "gptneox",       untied + final_bias, norms + norm_biases + fused + fused_bias + out_bias + plain + plain_biases, "use_parallel_residual=true", [](random_model_params & p) { p.n_rot = 8; }, true },
        { "gpt2",          untied + final_bias + "position_embd E C; ", norms + norm_biases + fused + fused_bias + out_bias + plain + plain_biases, "", nullptr, true },
        { "starcoder",     untied + final_bias + "position_embd E C; ", norms + norm_biases + fused + fused_bias + out_bias + plain + plain_biases, "", [](random_model_params & p) { p.n_head_kv = 1; }, true },
        { "starcoder2",    untied + final_bias, norms + norm_biases + split + split_biases + out_bias + plain + plain_biases, "", nullptr, true },
        { "codeshell",     untied + final_bias, norms + norm_biases + fused + fused_bias + out_bias + plain + plain_biases, "", nullptr, true },
        { "phi2",          untied + final_bias + output_bias, "attn_norm E; attn_norm.bias E; " + split + split_biases + out_bias + plain + plain_biases, "", [](random_model_params & p) { p.n_rot = 16; }, true },
        { "pockettts",     tied + final_bias, norms + norm_biases + split + plain, "", nullptr, true },
        { "gemma",         tied, norms + split + gated, "", [](random_model_params & p) { p.n_embd = 96; }, true },
        { "gemma3",        tied, norms + split + head_norms + post_norms + gated, "", nullptr, true },

        // --- K and V heads of different sizes, from a latent row ---
        { "minicpm3",      tied, norms + latent_q + latent_kv + out + gated + "", "attention.q_lora_rank=32 attention.kv_lora_rank=64", latent_sizes },
        { "plm",           tied, norms + "attn_q E HD; " + latent_kv + out + plain, "attention.kv_lora_rank=64", latent_sizes },
        { "deepseek2",     untied, norms + latent_q + latent_kv + out + experts + shared, one_shared + "attention.q_lora_rank=32 attention.kv_lora_rank=64", latent_sizes },

        // --- experts ---
        { "llama",         untied, norms + split + experts, two_experts }, // Mixtral
        { "arctic",        untied, norms + split + "ffn_norm_exps E; ffn_gate E E; ffn_up E E; ffn_down E E; " + experts, two_experts },
        { "bailingmoe",    untied, norms + split + experts + shared, one_shared },
        { "bailingmoe2",   untied, norms + fused + head_norms + experts + shared + expert_bias, one_shared + sigmoid },
        { "dbrx",          untied, "attn_norm E; attn_output_norm E; " + fused + experts, two_experts + "attention.clamp_kqv=2.0" },
        { "deepseek",      untied, norms + split + experts + shared, one_shared },
        { "deepseek2-ocr", untied, norms + split + experts + shared, one_shared, all_heads_have_kv },
        { "dots1",         untied, norms + split + head_norms + experts + shared + expert_bias, one_shared + sigmoid, all_heads_have_kv },
        { "ernie4_5-moe",  untied, norms + split + experts, two_experts + "interleave_moe_layer_step=1" },
        { "glm4moe",       untied, "attn_norm E; post_attention_norm E; " + split + head_norms + experts + shared + expert_bias, one_shared },
        { "glm4moe",       untied, "attn_norm E; post_attention_norm E; " + split + head_norms + experts + shared + expert_bias,
                           one_shared + "block_count=3 nextn_predict_layers=1", nullptr, false, false }, // and a layer that only predicts ahead
        { "granitemoe",    untied, norms + split + experts, two_experts + "logit_scale=4.0 residual_scale=0.3 embedding_scale=6.0 attention.scale=0.2" },
        { "grovemoe",      untied, norms + split + head_norms + experts + "ffn_gate_chexps E D 2; ffn_up_chexps E D 2; ffn_down_chexps D E 2; ",
                           two_experts + "expert_group_scale=0.5 experts_per_group=1" },
        { "hunyuan-moe",   untied, norms + split + head_norms + experts + shared, two_experts },
        { "hy_v3",         untied, norms + split + head_norms + experts + shared + "exp_probs_b. 2; ", two_experts },
        { "laguna",        untied, norms + split + head_norms + "attn_gate E H; " + experts + shared + expert_bias, two_experts + "leading_dense_block_count=0" },
        { "mellum",        untied, norms + split + head_norms + experts, two_experts },
        { "minimax-m2",    untied, norms + split + wide_norms + experts + expert_bias, two_experts + sigmoid },
        { "olmoe",         untied, norms + split + wide_norms + experts, two_experts, all_heads_have_kv },
        { "phimoe",        untied + final_bias + output_bias, norms + norm_biases + split + split_biases + out_bias + experts, two_experts },
        { "qwen2moe",      untied, norms + split + split_biases + experts + shared + "ffn_gate_inp_shexp E; ", two_experts },
        { "qwen3moe",      untied, norms + split + head_norms + experts, two_experts },
        { "smallthinker",  untied, norms + split + experts, two_experts + sigmoid },
    };
    return table;
}

const std::vector<refused_architecture> & refused_architectures() {
    const words window   = "attention.sliding_window=32 ";
    const words pattern  = window + "attention.sliding_window_pattern=0,1 ";
    const words sections = "rope.dimension_sections=4,4,4,4 ";
    const words scale    = "logit_scale=1.0 ";
    static const std::vector<refused_architecture> table = {
        { "llama4",       "sliding-window", two_experts + "interleave_moe_layer_step=1" },
        { "gemma2",       "sliding-window", window },
        { "gemma3",       "sliding-window", window },
        { "gemma3n",      "sliding-window", window },
        { "gemma4",       "sliding-window", pattern + "embedding_length_per_layer_input=16 attention.key_length_swa=D attention.value_length_swa=D" },
        { "cohere2",      "sliding-window", window + scale },
        { "cohere2moe",   "sliding-window", pattern + scale + two_experts + "leading_dense_block_count=0" },
        { "exaone-moe",   "sliding-window", window + two_experts + sigmoid },
        { "gpt-oss",      "sliding-window", window + two_experts },
        { "granite_swa",  "sliding-window", pattern + scale },
        { "maple",        "sliding-window", pattern + two_experts + "swiglu_clamp_exp=7.0" },
        { "mimo2",        "sliding-window", pattern + two_experts },
        { "muse-glimmer", "sliding-window", window + scale },
        { "spark2_5",     "sliding-window", pattern },
        { "step35",       "sliding-window", pattern + two_experts },
        { "plamo3",       "sliding-window", window },
        { "olmo2",        "sliding-window", window },
        { "bloom",        "ALiBi",          "" },
        { "mpt",          "ALiBi",          "attention.max_alibi_bias=8.0" },
        { "refact",       "ALiBi",          "" },
        { "jais",         "ALiBi",          "attention.max_alibi_bias=8.0" },
        { "qwen2vl",      "M-RoPE",         sections },
        { "paddleocr",    "M-RoPE",         sections },
        { "qwen3vl",      "M-RoPE",         sections },
        { "qwen3vlmoe",   "M-RoPE",         sections + two_experts },
        { "glm4",         "M-RoPE",         sections },
        { "hunyuan_vl",   "M-RoPE",         sections },
        { "deepseek2",    "MLA",            one_shared + "attention.q_lora_rank=32 attention.kv_lora_rank=64 attention.key_length_mla=48 attention.value_length_mla=32 rope.dimension_count=16" },
        { "mistral4",     "MLA",            one_shared + "attention.q_lora_rank=32 attention.kv_lora_rank=64 attention.key_length_mla=48 attention.value_length_mla=32 rope.dimension_count=16" },
        { "qwen3",        "not causal",     "attention.causal=false" },
        { "graniteswitch", "router layer",  scale + "adapters.count=2 adapters.lora_rank=4 adapters.token_ids_activate=1,2 adapters.token_ids_substitute=1,2" },
        { "qwen3tts",     "M-RoPE",         sections },
    };
    return table;
}
