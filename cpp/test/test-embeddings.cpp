// Embeddings and ranks of texts: together they are what they are alone, and a mean is the mean. On small random models.
#include "abi-calls.h"
#include "check.h"
#include "contexts.h"
#include "random-model.h"

#include <cmath>
#include <random>

using tokens_t = std::vector<int32_t>;

// K and V are f16, and GELU is a table of f16: what another batch rounds otherwise grows to 1e-3. Another text's embedding is 0.1 off and more.
static constexpr double same = 5e-3;

static json_call on(int32_t (*call)(uint32_t, const void *, int32_t, uint32_t *), uint32_t handle) {
    return [=](const void * j, int32_t n, uint32_t * job) { return call(handle, j, n, job); };
}

static random_model_params bert(uint64_t seed) {
    random_model_params p;
    p.seed      = seed;
    p.words     = true;
    p.arch      = "bert";
    p.n_head_kv = p.n_head;
    p.n_ctx     = 256;
    p.metadata  = "attention.causal=false pooling_type=2 .tokenizer.ggml.token_type_count=2";
    p.tensors   = "token_embd E V; token_types E 2; position_embd E C; token_embd_norm E; token_embd_norm.bias E; cls E E; cls.bias E; cls.output.weight E 1; cls.output.bias 1";
    p.block     = "attn_q E HD; attn_k E GD; attn_v E GW; attn_q.bias HD; attn_k.bias GD; attn_v.bias GW; attn_output HW E; attn_output.bias E; attn_output_norm E; attn_output_norm.bias E; "
                  "ffn_up E F; ffn_up.bias F; ffn_down F E; ffn_down.bias E; layer_output_norm E; layer_output_norm.bias E";
    return p;
}

// Texts of all lengths, more than one batch of them.
static std::vector<tokens_t> random_texts(std::mt19937_64 & rng, size_t n, size_t longest) {
    std::vector<tokens_t> texts(n);
    for (auto & t : texts) {
        t.resize(1 + rng() % longest);
        for (auto & x : t) {
            x = int32_t(3 + rng() % 500);
        }
    }
    texts[0].resize(longest, 7);
    return texts;
}

static double furthest(const float * a, const float * b, size_t n) {
    double d = 0;
    for (size_t i = 0; i < n; i++) {
        d = std::max(d, double(std::fabs(a[i] - b[i])));
    }
    return d;
}

// How far apart two of the texts' embeddings are, on average.
static double spread(const std::vector<float> & all, size_t size) {
    double sum = 0;
    size_t n   = 0;
    for (size_t a = 0; a < all.size(); a += size) {
        for (size_t b = 0; b < a; b += size, n++) {
            sum += furthest(&all[a], &all[b], size);
        }
    }
    return sum / double(n);
}

// The mean of what llama.cpp makes of each token.
static std::vector<float> mean_of(llama_model * model, const tokens_t & text) {
    llama_context_params p = llama_context_default_params();
    p.n_ctx = p.n_batch = p.n_ubatch = 256;
    p.embeddings   = true;
    p.pooling_type = LLAMA_POOLING_TYPE_NONE;
    const context_ptr ctx = make_context(model, p);
    tokens_t copy = text;
    CHECK_EQ(llama_decode(ctx.get(), llama_batch_get_one(copy.data(), int32_t(copy.size()))), 0);
    const size_t n = size_t(llama_model_n_embd_out(model));
    std::vector<float> mean(n);
    for (size_t k = 0; k < n; k++) {
        double sum = 0;
        for (size_t i = 0; i < text.size(); i++) {
            sum += llama_get_embeddings_ith(ctx.get(), int32_t(i))[k];
        }
        mean[k] = float(sum / double(text.size()));
    }
    return mean;
}

static void test_model(const random_model_params & p, const char * own_pooling, std::mt19937_64 & rng) {
    const random_model_file file(p);
    const uint32_t model = take_result(submit(llama_duo_model_load, dump({ { "path", file.path() } }))).at("model");
    const auto create = on(llama_duo_embedder_create, model);
    check_refused(create, R"({"pooling":"sum"})", "pooling", "one of model, mean, cls, last, rank");
    check_refused(create, R"({"contextSize":1000000})", "contextSize", "trained for");

    const json by_model = take_result(submit(create, "{}"));
    CHECK_EQ(by_model.at("pooling"), own_pooling);
    give_back(llama_duo_embedder_free, by_model.at("embedder"));

    const auto texts = random_texts(rng, 25, 120);
    for (const char * pooling : { "mean", "cls", "last" }) {
        const json made = take_result(submit(create, dump({ { "pooling", pooling }, { "contextSize", 256 }, { "sequences", 5 }, { "threads", 2 } })));
        const uint32_t e    = made.at("embedder");
        const size_t   size = made.at("size");
        CHECK_EQ(size, size_t(p.n_head * p.head_size));
        json r;
        const auto all = take_data<float>(submit(on(llama_duo_embed, e), dump({ { "texts", texts } })), &r);
        CHECK_EQ(r.at("texts"), 25);
        CHECK_EQ(all.size(), 25 * size);
        CHECK(spread(all, size) > 10 * same); // of one pair alone, chance may make them alike
        for (size_t i = 0; i < texts.size(); i++) {
            const auto alone = take_data<float>(submit(on(llama_duo_embed, e), dump({ { "texts", { texts[i] } } })));
            CHECK(furthest(&all[i * size], alone.data(), size) < same);
            double sum = 0;
            for (const float x : alone) {
                sum += double(x) * x;
            }
            CHECK_NEAR(sum, 1, 1e-5);
        }
        if (std::string(pooling) == "mean") {
            const auto plain = take_data<float>(submit(on(llama_duo_embed, e), dump({ { "texts", { texts[1] } }, { "normalize", false } })));
            const auto expected = mean_of(file.load().get(), texts[1]);
            CHECK(relative(plain, expected) < 2 * same);
        }

        check_refused(on(llama_duo_embed, e), R"({"texts":[]})", "texts", "at least one text");
        check_refused(on(llama_duo_embed, e), R"({"texts":[[]]})", "texts", "at least a token");
        check_refused(on(llama_duo_embed, e), R"({"texts":[[512]]})", "texts", "ids");
        const json full = take_error(submit(on(llama_duo_embed, e), dump({ { "texts", { { 5 }, tokens_t(257, 5) } } })));
        CHECK_EQ(full.at("code"), "full");
        CHECK(contains(full.at("message"), "number 1 has 257 tokens"));
        CHECK_EQ(take_error(submit(on(llama_duo_rank, e), R"({"query":"a","documents":["b"]})")).at("code"), "context");

        // cancelled, and as good as new
        const uint32_t job = submit(on(llama_duo_embed, e), dump({ { "texts", random_texts(rng, 400, 250) } }));
        sleep_ms(20);
        CHECK_EQ(llama_duo_job_cancel(job), LLAMA_DUO_OK);
        CHECK_EQ(wait_for(job), LLAMA_DUO_JOB_CANCELLED);
        CHECK_EQ(llama_duo_job_free(job), LLAMA_DUO_OK);
        const auto again = take_data<float>(submit(on(llama_duo_embed, e), dump({ { "texts", { texts[0] } } })));
        CHECK(furthest(&all[0], again.data(), size) < same);
        give_back(llama_duo_embedder_free, e);
        uint32_t none = 0;
        CHECK_EQ(llama_duo_embed(e, "{}", 2, &none), LLAMA_DUO_E_HANDLE);
    }

    if (p.arch == "llama") {
        CHECK(contains(take_error(submit(create, R"({"pooling":"rank"})")).at("message"), "no reranker"));
        // with a vocabulary: words, too
        const uint32_t e = take_result(submit(create, "{}")).at("embedder");
        json r;
        take_data<float>(submit(on(llama_duo_embed, e), R"({"texts":["hello there","</s>"]})"), &r);
        CHECK(r.at("tokens") > 5);
        give_back(llama_duo_embedder_free, e);
    } else {
        const uint32_t e = take_result(submit(create, R"({"pooling":"rank"})")).at("embedder");
        CHECK_EQ(take_error(submit(on(llama_duo_embed, e), R"({"texts":[[5]]})")).at("code"), "context");
        check_refused(on(llama_duo_rank, e), R"({"query":"a"})", "documents", "at least one");
        check_refused(on(llama_duo_rank, e), R"({"documents":["b"]})", "query", "a text");
        const json documents = { "the sea", "a tree </s> of words", "x", "the sea", "many words and more of them" };
        const auto scores = take_data<float>(submit(on(llama_duo_rank, e), dump({ { "query", "where?" }, { "documents", documents } })));
        CHECK_EQ(scores.size(), size_t(5));
        CHECK_NEAR(scores[3], scores[0], 2 * same);
        CHECK(scores[1] != scores[2]);
        for (size_t i = 0; i < 5; i++) {
            const auto alone = take_data<float>(submit(on(llama_duo_rank, e), dump({ { "query", "where?" }, { "documents", { documents[i] } } })));
            CHECK_NEAR(alone.at(0), scores[i], 2 * same);
        }
        give_back(llama_duo_embedder_free, e);
    }
    give_back(llama_duo_model_free, model);
}

int main() {
    std::mt19937_64 rng(check::seed());
    random_model_params p;
    p.words = true;
    p.seed  = rng();
    test_model(p, "mean", rng);
    test_model(bert(rng()), "cls", rng);
    return check::result();
}
