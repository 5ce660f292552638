#include "architectures.h"

#include "llama-model.h"

#include <sstream>

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

llama_model_ptr_t architecture::load(uint64_t seed) const {
    const auto model = make_random_model(params(seed));
    if (n_swa > 0) {
        model->hparams.n_swa = n_swa;
    }
    return model;
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

// Sliding windows: prompts go far beyond them.
const words window       = "attention.sliding_window=32 ";
const words window_first = window + "attention.sliding_window_pattern=1,0 "; // of two layers
const words window_last  = window + "attention.sliding_window_pattern=0,1 ";
const words learned_sinks = "attn_sinks H; ";

const words sections = "rope.dimension_sections=4,4,4,4 "; // M-RoPE, heads of 32

// Only in layers of a kind.
words of(char kind, const words & tensors) {
    words out;
    std::stringstream list(tensors);
    for (words item; std::getline(list, item, ';');) {
        const size_t name = item.find_first_not_of(' ');
        if (name != words::npos) {
            out += words(1, kind) + "?" + item.substr(name) + "; ";
        }
    }
    return out;
}

// Recurrent layers, in models whose embedding has 128 values. Mamba: a state of 16 for each of 256 channels; Mamba 2: of 8 heads in 2 groups.
const words mamba_sizes  = "ssm.conv_kernel=4 ssm.inner_size=256 ssm.state_size=16 ssm.time_step_rank=8 ";
const words mamba        = "ssm_in E 512; ssm_conv1d 4 256; ssm_conv1d.bias 256; ssm_x 256 40; ssm_dt_norm 8; ssm_dt 8 256; ssm_dt.bias 256; "
                           "ssm_b_norm 16; ssm_c_norm 16; ssm_a. 16 256; ssm_d. 256; ssm_out 256 E; ";
const words mamba2_sizes = mamba_sizes + "ssm.group_count=2 ";
const words mamba2       = "ssm_in E 584; ssm_conv1d 4 320; ssm_conv1d.bias 320; ssm_dt.bias 8; ssm_a. 1 8; ssm_d. 1 8; ssm_norm 128 2; ssm_out 256 E; ";
// Gated delta nets: 2 heads of K and 4 of V, of 16.
const words delta_sizes  = "ssm.conv_kernel=4 ssm.inner_size=64 ssm.state_size=16 ssm.time_step_rank=4 ssm.group_count=2 full_attention_interval=2 ";
const words delta_net    = "attn_qkv E 128; attn_gate E 64; ssm_conv1d 4 128; ssm_dt.bias 4; ssm_a. 4; ssm_norm 16; ssm_out 64 E; ";
const words predicts     = "nextn.eh_proj.weight 2E E; nextn.enorm.weight E; nextn.hnorm.weight E; "; // multi-token prediction
const words gated_split  = "attn_q E 2HD; attn_k E GD; attn_v E GW; " + out; // Q and a gate of the output in one
const words conv         = "shortconv.conv.weight 3 E; shortconv.in_proj.weight E 3E; shortconv.out_proj.weight E E; ";

// Recurrent, attention, recurrent.
void one_attends(random_model_params & p) {
    p.n_layer = 3;
    p.kinds   = "rar";
    p.n_head_kv_layer = { 0, p.n_head_kv, 0 };
}

// Each second layer attends, as full_attention_interval=2 says.
void second_attends(random_model_params & p) {
    p.n_layer = 4;
    p.kinds   = "rara";
}

// And a fifth predicts ahead.
void and_one_predicts(random_model_params & p) {
    p.n_layer = 5;
    p.kinds   = "raran";
}

// Recurrent, attention, feed-forward: each a layer of its own.
void nemotron_sizes(random_model_params & p) {
    one_attends(p);
    p.kinds = "raf";
}

// Windowed and global layers in turn, the global ones with heads twice as large and half as many of K and V.
void gemma4_sizes(random_model_params & p) {
    p.n_layer   = 6;
    p.n_embd    = 128;
    p.head_size = 64;
    p.kinds     = "wgwgwg";
    p.n_head_kv_layer = { 2, 1, 2, 1, 2, 1 };
    p.head_size_layer = { 32, 64, 32, 64, 32, 64 };
}

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

        // --- sliding windows on some layers ---
        { "gemma2",        tied, norms + split + post_norms + gated, window_first, nullptr, true },
        { "gemma3",        tied, norms + split + head_norms + post_norms + gated, window_first + "rope.freq_base_swa=1000.0", nullptr, true },
        { "gemma3n",       tied + "altup_proj E E 3; altup_unembd_proj E E 3; per_layer_token_embd 256L V; per_layer_model_proj E 256L; per_layer_proj_norm 256; ",
                           norms + split + head_norms + post_norms + gated + "inp_gate E 256; proj 256 E; post_norm E; altup_correct_coef 4 4; altup_correct_scale E; "
                           "altup_predict_coef 4 16; altup_router E 4; altup_router_norm E; laurel_l E 64; laurel_r 64 E; laurel_post_norm E; ", window,
                           [](random_model_params & p) { p.n_layer = 25; p.n_embd = 64; p.head_size = 16; }, true, false }, // layers from the 21st on attend to rows of two before
        { "gemma4",        tied + "rope_freqs 32; per_layer_token_embd 16L V; per_layer_model_proj E 16L; per_layer_proj_norm 16; ",
                           norms + split + head_norms + post_norms + gated + "layer_output_scale 1; inp_gate E 16; proj 16 E; post_norm E; ",
                           window + "attention.sliding_window_pattern=1,0,1,0,1,0 attention.shared_kv_layers=2 embedding_length_per_layer_input=16 "
                           "attention.key_length_swa=32 attention.value_length_swa=32 rope.dimension_count_swa=32", gemma4_sizes, true, false },
        { "gemma4",        tied + "rope_freqs 32; ", norms + "attn_q E HD; attn_k E GD; " + of('w', "attn_v E GW; ") + out + head_norms + post_norms + gated,
                           window + "attention.sliding_window_pattern=1,0,1,0,1,0 embedding_length_per_layer_input=0 "
                           "attention.key_length_swa=32 attention.value_length_swa=32 rope.dimension_count_swa=32", gemma4_sizes, true, false }, // K is V, too, on global layers
        { "gemma4",        tied + "rope_freqs 32; ", norms + split + head_norms + post_norms + gated + experts + "ffn_gate_inp.scale E; pre_ffw_norm_2 E; post_ffw_norm_1 E; post_ffw_norm_2 E; ",
                           window + two_experts + "attention.sliding_window_pattern=1,0,1,0,1,0 embedding_length_per_layer_input=0 "
                           "attention.key_length_swa=32 attention.value_length_swa=32 rope.dimension_count_swa=32", gemma4_sizes, true, false },
        { "cohere2",       tied, "attn_norm E; " + split + gated, window_first + "logit_scale=0.5" },
        { "exaone4",       untied, split + head_norms + post_norms + gated, window, [](random_model_params & p) { p.n_layer = 64; p.n_embd = 64; p.head_size = 16; }, false, false },
        { "granite_swa",   untied, norms + split + learned_sinks + gated, window_first + "logit_scale=4.0 residual_scale=0.3 embedding_scale=6.0 attention.scale=0.2" },
        { "muse-glimmer",  untied, norms + split + head_norms + "attn_gate E HD; " + post_norms + gated, window_first + "logit_scale=0.5 final_logit_softcapping=20.0" },
        { "olmo2",         untied, split + wide_norms + post_norms + gated, window_first },
        { "plamo3",        untied, norms + fused + head_norms + "post_attention_norm. E; post_ffw_norm. E; " + twice, window_first,
                           [](random_model_params & p) { p.head_size_v = 48; p.n_embd = 128; } },
        { "spark2_5",      untied, norms + split + "attn_gate E H; " + gated, window_first, nullptr, true },
        { "afmoe",         untied, norms + split + head_norms + "attn_gate E HD; " + post_norms + experts + shared + expert_bias, window_first + one_shared },
        { "cohere2moe",    tied, "attn_norm E; " + split + experts, window_last + two_experts + "logit_scale=0.5 leading_dense_block_count=0" },
        { "exaone-moe",    untied, norms + split + head_norms + experts + shared + expert_bias, window_first + one_shared + sigmoid },
        { "gpt-oss",       untied, "attn_norm E; post_attention_norm E; " + split + out_bias + learned_sinks + experts +
                           "ffn_gate_inp.bias 2; ffn_gate_exps.bias F 2; ffn_up_exps.bias F 2; ffn_down_exps.bias E 2; ", window_first + two_experts },
        { "laguna",        untied, norms + split + head_norms + "attn_gate E H; " + experts + shared + expert_bias, window_last + two_experts +
                           "leading_dense_block_count=0 rope.dimension_count_swa=32", [](random_model_params & p) { p.n_head_layer = { 4, 6 }; p.n_rot = 16; } },
        { "llama4",        untied, norms + split + experts + shared, window + two_experts + "interleave_moe_layer_step=1", [](random_model_params & p) { p.n_layer = 4; }, false, false, 32 }, // chunks
        { "maple",         untied, norms + split + head_norms + experts, window_first + two_experts + "swiglu_clamp_exp=7.0" },
        { "mellum",        untied, norms + split + head_norms + experts, window_first + two_experts },
        { "mimo2",         untied, norms + split + learned_sinks + experts + expert_bias, window_first + two_experts + "attention.value_scale=0.7",
                           [](random_model_params & p) { p.n_embd = 128; p.head_size = 48; p.head_size_v = 32; p.n_head_kv_layer = { 4, 2 }; } },
        { "smallthinker",  untied, norms + split + experts, window_last + two_experts + sigmoid, nullptr, false, false, 32 },
        { "step35",        untied + "rope_freqs 16; ", norms + split + head_norms + "attn_gate E H; " + experts + shared + expert_bias, window_last + two_experts +
                           "expert_shared_feed_forward_length=F rope.dimension_count_swa=32", [](random_model_params & p) { p.n_head_layer = { 4, 6 }; } },

        // --- recurrent layers beside those that attend ---
        { "qwen35",        tied,   "attn_norm E; post_attention_norm E; " + gated + of('r', delta_net + "ssm_beta E 4; ssm_alpha E 4; ") + of('a', gated_split + head_norms),
                           delta_sizes + sections, second_attends },
        { "qwen35",        tied,   "attn_norm E; post_attention_norm E; " + gated + of('r', delta_net + "ssm_beta E 4; ssm_alpha E 4; ") + of('a', gated_split + head_norms) +
                           of('n', gated_split + head_norms + predicts), delta_sizes + sections + "nextn_predict_layers=1", and_one_predicts }, // and a layer that only predicts ahead
        { "qwen35moe",     untied, "attn_norm E; post_attention_norm E; " + experts + shared + "ffn_gate_inp_shexp E; " +
                           of('r', delta_net + "ssm_beta E 4; ssm_alpha E 4; ") + of('a', gated_split + head_norms), delta_sizes + sections + two_experts, second_attends },
        { "qwen3next",     untied, "attn_norm E; post_attention_norm E; " + experts + shared + "ffn_gate_inp_shexp E; " +
                           of('r', delta_net + "ssm_ba E 8; ") + of('a', gated_split + head_norms), delta_sizes + two_experts, second_attends },
        { "qwen35moe",     untied, "attn_norm E; post_attention_norm E; " + experts + shared + "ffn_gate_inp_shexp E; " +
                           of('r', delta_net + "ssm_beta E 4; ssm_alpha E 4; ") + of('a', gated_split + head_norms) + of('n', gated_split + head_norms + predicts),
                           delta_sizes + sections + two_experts + "nextn_predict_layers=1", and_one_predicts },
        { "qwen3next",     untied, "attn_norm E; post_attention_norm E; " + experts + shared + "ffn_gate_inp_shexp E; " +
                           of('r', delta_net + "ssm_ba E 8; ") + of('a', gated_split + head_norms) + of('n', gated_split + head_norms + predicts),
                           delta_sizes + two_experts + "nextn_predict_layers=1", and_one_predicts },
        { "granitehybrid", untied, norms + gated + of('r', mamba2) + of('a', split), mamba2_sizes + "logit_scale=4.0 residual_scale=0.3 embedding_scale=6.0 attention.scale=0.2", one_attends },
        { "nemotron_h",    untied, "attn_norm E; " + of('r', mamba2) + of('a', split) + of('f', plain), mamba2_sizes + "feed_forward_length=0,0,F", nemotron_sizes },
        { "nemotron_h_moe", untied, "attn_norm E; " + of('r', mamba2) + of('a', split) +
                           of('f', "ffn_gate_inp E 2; ffn_up_exps E F 2; ffn_down_exps F E 2; ffn_up_shexp E F; ffn_down_shexp F E; " + expert_bias),
                           mamba2_sizes + one_shared + "feed_forward_length=0,0,F expert_shared_feed_forward_length=F", nemotron_sizes },
        { "falcon-h1",     untied, "attn_norm E; ffn_norm. E; " + split + mamba2 + gated, mamba2_sizes },
        { "jamba",         untied, norms + of('r', mamba + gated) + of('a', split + experts), mamba_sizes + two_experts, one_attends },
        { "plamo2",        untied, norms + "post_attention_norm. E; post_ffw_norm. E; " + twice + of('a', fused + "attn_q_norm D H; attn_k_norm D G; ") +
                           of('r', "ssm_in E 512; ssm_conv1d 4 256; ssm_x 256 96; ssm_dt 64 8; ssm_dt.bias 8; ssm_a. 8; ssm_d. 8; ssm_out 256 E; "
                           "ssm_dt_norm. 64; ssm_b_norm. 16; ssm_c_norm. 16; "), mamba_sizes + "ssm.group_count=0", one_attends },
        { "minimax-01",    untied, norms + out + experts + of('a', "attn_q E HD; attn_k E GD; attn_v E GW; ") + of('r', "attn_norm_2 HD; attn_qkv E 3HD; attn_gate E HD; "),
                           two_experts + "residual_scale=1.5 full_attention_interval=2", second_attends },
        { "kimi-linear",   untied, norms + experts + shared + expert_bias + of('a', "attn_q E HD; attn_kv_a_mqa E 80; attn_kv_a_norm 64; attn_kv_b 64 128+HW; " + out) +
                           of('r', "ssm_conv1d_q 4 1 64; ssm_conv1d_k 4 1 64; ssm_conv1d_v 4 1 64; attn_q E 64; attn_k E 64; attn_v E 64; ssm_f_a E 16; ssm_f_b 16 64; "
                           "ssm_beta E 4; ssm_a. 1 4; ssm_dt.bias 64; ssm_g_a E 16; ssm_g_b 16 64; ssm_norm 16; attn_output 64 E; "),
                           one_shared + sigmoid + "attention.key_length_mla=0 attention.value_length_mla=0 attention.kv_lora_rank=64 ssm.conv_kernel=4 kda.head_dim=16",
                           [](random_model_params & p) { latent_sizes(p); one_attends(p); } },
        { "lfm2",          "token_embd E V; token_embd_norm E; ", norms + gated + of('r', conv) + of('a', split + head_norms), "shortconv.l_cache=3", one_attends },
        { "lfm2",          "token_embd E V; token_embd_norm E; ", norms + gated + of('r', conv) + of('a', split + head_norms), window + "shortconv.l_cache=3", one_attends },
        { "lfm2moe",       "token_embd E V; token_embd_norm E; ", norms + experts + expert_bias + of('r', conv) + of('a', split + head_norms),
                           two_experts + sigmoid + "shortconv.l_cache=3", one_attends },

        // --- M-RoPE: text here, images in test-images ---
        { "qwen2vl",       tied,   norms + split + split_biases + gated, sections },
        { "qwen3vl",       tied,   norms + split + head_norms + gated, sections },
        { "qwen3vlmoe",    untied, norms + split + head_norms + experts, sections + two_experts },
        { "qwen3tts",      untied, norms + split + head_norms + gated, sections, [](random_model_params & p) { p.n_vocab = 3072; } }, // as many as it can say
        { "paddleocr",     tied,   norms + split + gated, sections },
        { "glm4",          untied, norms + split + split_biases + post_norms + twice, sections },
        { "glm4moe",       untied, "attn_norm E; post_attention_norm E; " + split + head_norms + experts + shared + expert_bias, sections + one_shared },
        { "hunyuan_vl",    untied, norms + split + head_norms + gated, sections },

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
        { "laguna",        untied, norms + split + head_norms + "attn_gate E HD; " + experts + shared + expert_bias, two_experts + "leading_dense_block_count=0" },
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
    const words scale = "logit_scale=1.0 ";
    const words mla   = "attention.q_lora_rank=32 attention.kv_lora_rank=64 attention.key_length_mla=48 attention.value_length_mla=32 rope.dimension_count=16 ";
    const words kda   = mla + one_shared + sigmoid + "ssm.conv_kernel=4 kda.head_dim=16 ";
    static const std::vector<refused_architecture> table = {
        { "baichuan",     "ALiBi",          "block_count=40" }, // of 13 billion parameters
        { "bloom",        "ALiBi",          "" },
        { "mpt",          "ALiBi",          "attention.max_alibi_bias=8.0" },
        { "refact",       "ALiBi",          "" },
        { "jais",         "ALiBi",          "attention.max_alibi_bias=8.0" },
        { "deepseek2",    "MLA",            one_shared + mla },
        { "mistral4",     "MLA",            one_shared + mla },
        { "kimi-linear",  "MLA",            kda },
        { "kimi-k3",      "MLA",            kda + "attn_res.block_size=0 activation.situ_beta=1.0 activation.situ_linear_beta=1.0" },
        { "bailingmoe3",  "MLA",            kda + "kda.gate_lower_bound=-5.0 leading_dense_block_count=0" },
        { "qwen3",        "not causal",     "attention.causal=false" },
        { "graniteswitch", "router layer",  scale + "adapters.count=2 adapters.lora_rank=4 adapters.token_ids_activate=1,2 adapters.token_ids_substitute=1,2" },
    };
    return table;
}
