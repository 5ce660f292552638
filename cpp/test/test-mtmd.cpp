// Images through llama.cpp's own tools/mtmd, with random models that see. With "write FOLDER": only writes them, for what runs the tools themselves.
#include "check.h"
#include "contexts.h"
#include "decode.h"
#include "image-models.h"
#include "random-model.h"

#include "llama-model.h"
#include "mtmd-helper.h"
#include "mtmd.h"

#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace {

std::string log_text; // errors since it was last emptied

// A text model, its eyes, and a prompt of two images between texts.
struct seeing_model {
    explicit seeing_model(const std::string & name) : m(make_image_model(name, fresh_seed())), vision_file(m.vision) {
        text = make_random_model(m.text);
        mtmd_context_params params = mtmd_context_params_default();
        params.use_gpu   = false;
        params.warmup    = false;
        params.n_threads = 1;
        params.print_timings = false;
        mtmd.reset(mtmd_init_from_file(vision_file.path().c_str(), text.get(), params));
        CHECK(mtmd);

        std::mt19937_64 rng(fresh_seed());
        std::string words;
        const auto add_words = [&](int n) {
            for (int i = 0; i < n; ++i) {
                words += " w" + std::to_string(300 + rng() % 200);
            }
        };
        std::vector<std::unique_ptr<mtmd_bitmap, decltype(&mtmd_bitmap_free)>> bitmaps;
        add_words(10 + int(rng() % 30));
        for (int i = 0; i < 2; ++i) {
            const uint32_t width = 40 + uint32_t(rng() % 90), height = 40 + uint32_t(rng() % 90);
            std::vector<unsigned char> rgb(3 * width * height);
            for (unsigned char & x : rgb) {
                x = (unsigned char) rng();
            }
            bitmaps.emplace_back(mtmd_bitmap_init(width, height, rgb.data()), mtmd_bitmap_free);
            words += mtmd_default_marker();
            add_words(5 + int(rng() % 30));
        }
        chunks.reset(mtmd_input_chunks_init());
        const mtmd_bitmap * two[] = { bitmaps[0].get(), bitmaps[1].get() };
        const mtmd_input_text prompt = { words.c_str(), words.size(), true, false };
        CHECK_EQ(mtmd_tokenize(mtmd.get(), chunks.get(), &prompt, two, 2), 0);
    }

    // Logits of the last token of the prompt, and of some that follow; empty where the prompt is refused.
    std::vector<float> logits(llama_context * ctx, int n_batch) const {
        llama_memory_clear(llama_get_memory(ctx), true);
        llama_pos n_past = 0;
        if (mtmd_helper_eval_chunks(mtmd.get(), ctx, chunks.get(), 0, 0, n_batch, true, &n_past) != 0) {
            return {};
        }
        const float * last = llama_get_logits_ith(ctx, -1);
        std::vector<float> out(last, last + m.text.n_vocab);
        for (int i = 0; i < 6; ++i) {
            const llama_token next = 300 + i;
            CHECK_EQ(decode(ctx, &next, 1, n_past++, true, out), 0);
        }
        return out;
    }

    image_model       m;
    random_model_file vision_file;
    llama_model_ptr_t text;

    std::unique_ptr<mtmd_context, decltype(&mtmd_free)>                    mtmd { nullptr, mtmd_free };
    std::unique_ptr<mtmd_input_chunks, decltype(&mtmd_input_chunks_free)>  chunks { nullptr, mtmd_input_chunks_free };
};

context_ptr make(const seeing_model & m, llama_context_params p, int n_ubatch) {
    p.n_threads = p.n_threads_batch = 1;
    p.n_ubatch  = n_ubatch;
    return make_context(m.text.get(), p);
}

void test_images(const char * name) {
    const seeing_model m(name);
    const auto gates = random_gates(m.text.get(), fresh_seed());
    const auto want  = m.logits(make(m, stock_params(GGML_TYPE_F32, 2048), 512).get(), 512);
    CHECK(!want.empty());

    double worst = 0.0, pieces = 0.0;
    const auto none = make(m, duo_params(GGML_TYPE_F32, 2048, 0.0f), 512);
    for (const int n_batch : { 512, 7 }) {
        worst = std::max(worst, worst_relative(m.logits(none.get(), n_batch), want, m.m.text.n_vocab));
    }
    CHECK(worst < 1e-5);

    llama_context_params half = duo_params(GGML_TYPE_F32, 2048, 0.5f, gates.c_str());
    half.duo.sink   = 4;
    half.duo.recent = 16;
    const auto whole = m.logits(make(m, half, 512).get(), 512);
    const auto small = make(m, half, 32); // rings that go round within an image
    for (const int n_batch : { 512, 32, 5 }) {
        pieces = std::max(pieces, worst_relative(m.logits(small.get(), n_batch), whole, m.m.text.n_vocab));
    }
    CHECK(pieces < 1e-5);
    CHECK(worst_relative(whole, want, m.m.text.n_vocab) > 1e-4);
    printf("%s: %zu tokens at %d positions, %.1e from stock, pieces %.1e apart\n", name, mtmd_helper_get_n_tokens(m.chunks.get()),
            mtmd_helper_get_n_pos(m.chunks.get()), worst, pieces);
    CHECK(mtmd_helper_get_n_pos(m.chunks.get()) < llama_pos(mtmd_helper_get_n_tokens(m.chunks.get())));
}

// Images without causal attention are refused by name; text goes on.
void test_gemma3() {
    const seeing_model m("gemma3");
    CHECK(mtmd_decode_use_non_causal(m.mtmd.get(), nullptr));
    CHECK(!m.logits(make(m, stock_params(GGML_TYPE_F32, 2048), 512).get(), 512).empty());
    const auto ctx = make(m, duo_params(GGML_TYPE_F32, 2048, 0.0f), 512);
    log_text.clear();
    CHECK(m.logits(ctx.get(), 512).empty());
    CHECK(log_text.find("not causal, as that of some models' images") != std::string::npos);
    CHECK(!prefill(ctx.get(), random_tokens(50, 500, fresh_seed()), 64).empty());
}

} // namespace

int main(int argc, char ** argv) {
    if (argc == 3 && strcmp(argv[1], "write") == 0) {
        for (const char * name : { "qwen2vl", "qwen3vl", "qwen35", "gemma3" }) {
            const image_model m = make_image_model(name, 1);
            write_random_model(m.text,   argv[2] + std::string("/") + name + ".gguf");
            write_random_model(m.vision, argv[2] + std::string("/") + name + "-mmproj.gguf");
        }
        return 0;
    }
    const auto log = [](ggml_log_level level, const char * text, void *) { log_text += level >= GGML_LOG_LEVEL_ERROR ? text : ""; };
    llama_log_set(log, nullptr);
    mtmd_helper_log_set(log, nullptr);
    llama_backend_init();
    for (const char * name : { "qwen2vl", "qwen3vl", "qwen35" }) {
        test_images(name);
    }
    test_gemma3();
    return check::result();
}
