#include "image-models.h"

#include "architectures.h"

#include <sstream>
#include <stdexcept>

namespace {

// Tensors "name sizes; name sizes", as those of a layer of the vision part.
std::string of_vision_layer(int il, const std::string & tensors) {
    std::string out;
    std::stringstream list(tensors);
    for (std::string tensor; std::getline(list >> std::ws, tensor, ';');) {
        out += "v.blk." + std::to_string(il) + "." + tensor + "; ";
    }
    return out;
}

} // namespace

image_model make_image_model(const std::string & name, uint64_t seed) {
    image_model m;
    for (const architecture & a : architectures()) {
        if (a.name == name) {
            m.text = a.params(seed);
            break;
        }
    }
    if (m.text.arch != name) {
        throw std::runtime_error("there is no random model of " + name);
    }
    m.text.words    = true;
    m.text.n_vocab  = 512;
    m.text.tensors += "output E V; "; // where it is the embeddings', a token's own logit outdoes all that it sees
    const std::string n_embd = std::to_string(m.text.n_embd ? m.text.n_embd : m.text.n_head * m.text.head_size);

    const bool qwen3 = name != "qwen2vl" && name != "gemma3";
    random_model_params & v = m.vision;
    v.arch    = "clip";
    v.seed    = seed + 1;
    v.n_layer = 2;
    v.n_head  = 4;
    v.n_embd  = 64;
    v.n_ff    = 128;
    v.block   = "";
    v.metadata = "has_vision_encoder=true use_gelu=true vision.embedding_length=64 vision.feed_forward_length=128 vision.block_count=2 "
                 "vision.attention.head_count=4 vision.attention.layer_norm_epsilon=0.00001 vision.image_size=32 vision.patch_size=4 "
                 "vision.image_mean=0.5,0.5,0.5 vision.image_std=0.5,0.5,0.5 vision.projection_dim=" + n_embd;
    v.tensors = "v.patch_embd.weight 4 4 3 E; v.post_ln.weight E; v.post_ln.bias E; ";
    const std::string layer = std::string("ln1.weight E; ln1.bias E; ln2.weight E; ln2.bias E; attn_out.weight E E; attn_out.bias E; ffn_up.weight E F; ffn_up.bias F; "
                              "ffn_down.weight F E; ffn_down.bias E; ") + (qwen3 ? "attn_qkv.weight E 3E; attn_qkv.bias 3E" :
                              "attn_q.weight E E; attn_q.bias E; attn_k.weight E E; attn_k.bias E; attn_v.weight E E; attn_v.bias E");
    for (int il = 0; il < int(v.n_layer); ++il) {
        v.tensors += of_vision_layer(il, layer);
    }
    if (name == "gemma3") {
        v.metadata += " projector_type=gemma3";
        v.tensors  += "v.patch_embd.bias E; v.position_embd.weight E 64; mm.input_projection.weight " + n_embd + " E; mm.soft_emb_norm.weight E; ";
        return m;
    }
    v.metadata += qwen3 ? " projector_type=qwen3vl_merger" : " projector_type=qwen2vl_merger";
    v.tensors  += "v.patch_embd.weight.1 4 4 3 E; mm.0.weight 4E 4E; mm.0.bias 4E; mm.2.weight 4E " + n_embd + "; mm.2.bias " + n_embd + "; ";
    if (qwen3) {
        v.tensors += "v.patch_embd.bias E; v.position_embd.weight E 64; ";
    }
    if (name == "qwen3vl") {
        m.text.metadata += " n_deepstack_layers=1";
        v.tensors += "v.deepstack.1.norm.weight 4E; v.deepstack.1.norm.bias 4E; v.deepstack.1.fc1.weight 4E 4E; v.deepstack.1.fc1.bias 4E; "
                     "v.deepstack.1.fc2.weight 4E " + n_embd + "; v.deepstack.1.fc2.bias " + n_embd + "; ";
    }
    return m;
}
