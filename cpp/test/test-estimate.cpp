// What a context is estimated to take is what it takes, on models of all kinds of cache; and what does not fit is a typed error that names the largest that does.
#include "abi-calls.h"
#include "architectures.h"
#include "check.h"
#include "random-model.h"

#include <set>
#include <string>
#include <utility>
#include <vector>

static uint32_t load(const std::string & path, json more = json::object()) {
    more["path"] = path;
    return take_result(submit(llama_duo_model_load, dump(more))).at("model");
}

static json estimate(uint32_t model, const json & options) {
    return take_result(submit([=](const void * j, int32_t n, uint32_t * job) { return llama_duo_context_estimate(model, j, n, job); }, dump(options)));
}

static uint32_t begin_create(uint32_t model, const json & options) {
    return submit([=](const void * j, int32_t n, uint32_t * job) { return llama_duo_context_create(model, j, n, job); }, dump(options));
}

static uint64_t sum(const json & devices, const char * key) {
    uint64_t result = 0;
    for (const json & d : devices) {
        result += d.at(key).get<uint64_t>();
    }
    return result;
}

static json test_exact(const std::string & name, uint32_t model, uint32_t bare, const json & options) {
    const json made  = take_result(begin_create(model, options));
    const json there = estimate(model, options); // of a model with weights
    const json alone = estimate(bare, options);  // and of one without
    for (const json & e : { there, alone }) {
        CHECK(e.at("supported") == true);
        CHECK(e.at("fits") == true);
        CHECK(e.at("kv") == made.at("kv"));
        CHECK(e.at("draftKv") == made.at("draftKv"));
        CHECK(e.at("contextSize") == made.at("contextSize"));
        CHECK(e.at("largestContextSize") == made.at("contextSize"));
        for (const char * key : { "weightsBytes", "contextBytes", "computeBytes" }) {
            const uint64_t taken = sum(made.at("devices"), key);
            if (e.at(key) != taken || taken == 0) {
                fprintf(stderr, "%s %s: %s estimated %s, taken %s\n", name.c_str(), dump(options).c_str(), key, dump(e.at(key)).c_str(), std::to_string(taken).c_str());
            }
            CHECK(e.at(key) == taken);
            CHECK(taken > 0);
            CHECK_EQ(sum(e.at("devices"), key), taken);
        }
    }
    give_back(llama_duo_context_free, made.at("context"));
    return there;
}

// Models of each kind of cache.
static void test_models() {
    std::set<std::string> names;
    for (const architecture & a : architectures()) {
        if (a.name != "llama" && a.name != "gemma3" && a.name != "gpt-oss" && a.name != "qwen35" && a.name != "lfm2" && a.name != "gemma3n") {
            continue;
        }
        names.insert(a.name);
        random_model_params params = a.params(7);
        params.words   = true;
        params.n_vocab = 512;
        const random_model_file file(params);
        const uint32_t model = load(file.path(), { { "useMmap", false } });
        const uint32_t bare  = load(file.path(), { { "weights", false } });
        const bool     small = params.head_size % 32 != 0; // smaller than a block of quantised values
        for (const json & options : {
                json { { "contextSize", 1024 } },
                json { { "contextSize", 4096 }, { "duo", { { "sparsity", 0 } } } },
                json { { "contextSize", 4096 }, { "typeK", small ? "bf16" : "q8_0" }, { "typeV", small ? "f32" : "q4_0" }, { "ubatchSize", 64 }, { "duo", { { "sparsity", 1 }, { "sink", 16 }, { "recent", 100 } } } },
                json { { "contextSize", 2048 }, { "sequences", 3 }, { "batchSize", 128 }, { "duo", { { "sparsity", 1 } } } },
            }) {
            test_exact(a.name, model, bare, options);
        }
        // and what drafts for it: the model itself, whose weights are there once, or another one
        const bool         can_draft = a.name != "qwen35" && a.name != "lfm2"; // recurrent layers
        const json options = { { "contextSize", 2048 }, { "sequences", 2 }, { "duo", { { "sparsity", 1 } } } };
        json by_lookup = options, by_itself = options;
        by_lookup["speculative"] = { { "lookup", true } };
        by_itself["speculative"] = { { "draft", model }, { "typeK", "f32" }, { "maxTokens", 100 } };
        test_exact(a.name, model, bare, by_lookup);
        if (can_draft) {
            const json one = test_exact(a.name, model, model, by_itself), none = estimate(model, options);
            CHECK(one.at("draftKv").at("totalBytes") > 0);
            CHECK(one.at("weightsBytes") == none.at("weightsBytes"));
            CHECK(one.at("contextBytes") > none.at("contextBytes"));
            const uint32_t other = load(file.path(), { { "useMmap", false } });
            json by_other = by_itself;
            by_other["speculative"]["draft"] = other;
            const json two = test_exact(a.name, model, bare, by_other);
            CHECK(two.at("draftKv") == one.at("draftKv"));
            CHECK(two.at("weightsBytes") > one.at("weightsBytes"));
            give_back(llama_duo_model_free, other);
        }
        give_back(llama_duo_model_free, model);
        give_back(llama_duo_model_free, bare);

        // mapped, weights may take less, and the rest is the same
        const uint32_t mapped = load(file.path());
        test_exact(a.name, mapped, mapped, { { "contextSize", 1024 }, { "duo", { { "sparsity", 1 } } } });
        give_back(llama_duo_model_free, mapped);
    }
    CHECK_EQ(names.size(), size_t(6));
}

// A model whose context of record is beyond any machine's memory.
static void test_limits() {
    random_model_params params;
    params.words     = true;
    params.n_ctx     = 1 << 24;
    params.n_head    = 16;
    params.n_head_kv = 16;
    params.head_size = 64;
    const random_model_file file(params);
    const uint32_t model = load(file.path());

    // 400 GiB, of f32
    const json wide = { { "typeK", "f32" }, { "typeV", "f32" } };
    const auto sized = [&](json options) {
        options.update(wide);
        return options;
    };
    const json as_trained = estimate(model, sized({ { "contextSize", 0 } }));
    CHECK(as_trained.at("supported") == true);
    CHECK(as_trained.at("fits") == false);
    const auto largest = as_trained.at("largestContextSize").get<int64_t>();
    CHECK(largest > 0 && largest < params.n_ctx && largest % 256 == 0);

    const json fit = estimate(model, sized({ { "contextSize", "fit" } }));
    CHECK(fit.at("fits") == true);
    const auto fitting = fit.at("contextSize").get<int64_t>();
    CHECK(fitting > 0 && fitting <= largest * 1.2); // other programs come and go meanwhile
    CHECK(fit.at("devices").at(0).at("freeBytes").get<double>() > fit.at("contextBytes").get<double>());

    const json streaming = estimate(model, sized({ { "contextSize", 0 }, { "duo", { { "sparsity", 1 } } } }));
    CHECK(streaming.at("contextBytes").get<double>() < as_trained.at("contextBytes").get<double>() / 1000);

    const json automatic = estimate(model, { { "contextSize", "auto" } });
    CHECK(automatic.at("contextSize") == 8192);
    CHECK(estimate(model, { { "contextSize", "auto" }, { "sequences", 2 } }).at("contextSize") == 16384);

    // an error, and the process goes on
    const uint32_t job = begin_create(model, sized({ { "contextSize", params.n_ctx } }));
    CHECK_EQ(wait_for(job), LLAMA_DUO_JOB_FAILED);
    const json error = error_of(job);
    CHECK(error.at("code") == "memory");
    CHECK(error.at("device") == "CPU");
    CHECK(error.at("neededBytes").get<double>() > error.at("freeBytes").get<double>());
    CHECK(error.at("largestContextSize").get<int64_t>() > 0);
    CHECK(error.at("largestContextSize").get<int64_t>() <= largest * 1.2);
    CHECK(error.at("message").get<std::string>().find("The largest that fits holds ") != std::string::npos);
    CHECK_EQ(llama_duo_job_free(job), LLAMA_DUO_OK);
    // cells without end are not even tried out
    const json endless = estimate(model, { { "contextSize", 2147483392 } });
    CHECK(endless.at("fits") == false && endless.at("largestContextSize").get<int64_t>() > 0);
    const uint32_t endless_job = begin_create(model, { { "contextSize", 2147483392 } });
    CHECK_EQ(wait_for(endless_job), LLAMA_DUO_JOB_FAILED);
    CHECK(error_of(endless_job).at("code") == "memory");
    llama_duo_job_free(endless_job);

    const json made = take_result(begin_create(model, { { "contextSize", 512 } }));
    CHECK(made.at("contextSize") == 512);
    give_back(llama_duo_context_free, made.at("context"));

    for (const json & bad : { json("Fit"), json(-1), json(1.5), json(true), json(nullptr) }) {
        const uint32_t j = begin_create(model, { { "contextSize", bad } });
        CHECK_EQ(wait_for(j), LLAMA_DUO_JOB_FAILED);
        CHECK(error_of(j).at("code") == "option");
        CHECK(error_of(j).at("name") == "contextSize");
        llama_duo_job_free(j);
    }
    give_back(llama_duo_model_free, model);
}

// Options of a model that say where and how it is loaded.
static void test_model_options() {
    random_model_params params;
    params.words = true;
    const random_model_file file(params);

    const json devices = take_result(submit(llama_duo_devices, "{}")).at("devices");
    CHECK(devices.size() >= 1);
    CHECK(devices.at(0).at("freeBytes").get<double>() > 0);
    CHECK(devices.at(0).at("freeBytes") <= devices.at(0).at("totalBytes"));
    CHECK(!devices.at(0).contains("contextBytes"));

    const auto result = [&](json more) {
        more["path"] = file.path();
        return take_result(submit(llama_duo_model_load, dump(more)));
    };
    const json overridden = result({ { "overrides", { { "llama.context_length", 1234 }, { "general.name", "another" }, { "llama.rope.freq_base", 5e5 } } }, { "devices", json::array() },
            { "useMmap", false }, { "checkTensors", true }, { "splitMode", "layer" }, { "mainGpu", 0 } });
    CHECK(overridden.at("contextSize") == 1234);
    give_back(llama_duo_model_free, overridden.at("model"));

    const std::vector<std::pair<std::string, json>> refused = {
        { "devices",     json::array({ "CUDA99" }) },
        { "devices",     "CUDA0" },
        { "devices",     json::array({ 1 }) },
        { "tensorSplit", json::array({ 0, 0 }) },
        { "tensorSplit", json::array({ -1 }) },
        { "tensorSplit", "1,1" },
        { "splitMode",   "rows" },
        { "mainGpu",     -1 },
        { "useMlock",    1 },
        { "overrides",   { { "", 1 } } },
        { "overrides",   { { "general.name", std::string(200, 'x') } } },
        { "overrides",   { { "general.name", json::array() } } },
    };
    for (const auto & [name, value] : refused) {
        const uint32_t job = submit(llama_duo_model_load, dump({ { "path", file.path() }, { name, value } }));
        CHECK_EQ(wait_for(job), LLAMA_DUO_JOB_FAILED);
        const json error = error_of(job);
        CHECK(error.at("code") == "option");
        CHECK(error.at("name").get<std::string>().rfind(name, 0) == 0);
        llama_duo_job_free(job);
    }
}

int main() {
    test_models();
    test_limits();
    test_model_options();
    return check::result();
}
