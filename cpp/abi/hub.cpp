#include "hub.h"

#include "arg.h"
#include "common.h"
#include "download.h"
#include "http.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <map>
#include <mutex>

namespace duo::abi {

fetch_options fetch_options::read(options o) {
    fetch_options result;
    const std::string expected = "\"hf:user/repository\", with \":quantisation\" behind it or not, or an http or https URL of a GGUF file";

    const std::string model = o.string("model").value_or("");
    const auto begins = [&](const char * prefix) { return model.rfind(prefix, 0) == 0; };
    if (begins("hf:")) {
        result.repo = model.substr(3);
        const auto repo = result.repo.substr(0, result.repo.find(':'));
        if (std::count(repo.begin(), repo.end(), '/') != 1 || repo.front() == '/' || repo.back() == '/') {
            throw o.error("model", expected);
        }
    } else if (begins("http://") || begins("https://")) {
        result.url = model;
    } else {
        throw o.error("model", expected);
    }
    if (const auto file = o.string("file")) {
        if (result.repo.empty() || file->empty()) {
            throw o.error("file", "a file of the repository, which only \"hf:\" models have");
        }
        result.file = *file;
    }
    result.token   = o.string("token").value_or("");
    result.offline = o.boolean("offline").value_or(false);
    o.finish();
    return result;
}

namespace {

// Files are loaded side by side, each on a thread of its own, which makes all calls about it.
class progress : public common_download_callback {
public:
    explicit progress(job & j) : j(j) {}

    void on_start(const common_download_progress & p) override {
        done = false;
        on_update(p);
    }

    void on_update(const common_download_progress & p) override {
        std::lock_guard lock(mutex);
        files[p.url] = p;
        size_t n = 0;
        size_t total = 0;
        for (const auto & [url, file] : files) {
            n     += file.downloaded;
            total += file.total;
        }
        if (total > 0) { // a file that begins later adds to the total
            most = std::max(most, std::min(1.0, double(n) / double(total)));
            j.set_progress(most);
        }
    }

    void on_done(const common_download_progress & p, bool ok) override {
        // What was loaded of a file is removed where the callback says afterwards that it was cancelled. It is kept, for the next time to go on from.
        done = true;
        fetched = fetched || (ok && !p.cached);
    }

    bool is_cancelled() const override { return !done && j.cancelled(); }

    std::atomic<bool> fetched = false; // whether anything came over the network

private:
    static thread_local bool done;

    job & j;
    std::mutex mutex;
    std::map<std::string, common_download_progress> files;
    double most = 0;
};

thread_local bool progress::done = false;

} // namespace

// Why a repository has no files for us: llama.cpp says it in a log of its own only.
static std::string why_not(const fetch_options & o) {
    if (o.offline) {
        return "it is not in the cache, and \"offline\" forbids to load it";
    }
    const auto repo = common_download_split_repo_tag(o.repo).first;
    try {
        auto [client, url] = common_http_client(common_get_model_endpoint() + "api/models/" + repo + "/refs");
        client.set_read_timeout(30, 0);
        httplib::Headers headers;
        if (!o.token.empty()) {
            headers.emplace("Authorization", "Bearer " + o.token);
        }
        const httplib::Result answer = client.Get(url.path, headers);
        if (!answer) {
            return "the server cannot be reached: " + httplib::to_string(answer.error());
        }
        const int status = answer->status;
        switch (status) {
            case 401:
            case 403: return "the server refuses access (" + std::to_string(status) + "): it may not exist, or want a token";
            case 404: return "there is no such repository (404)";
            case 200: return o.file.empty() ? "it has no GGUF file of that quantisation" : "it has no file \"" + o.file + "\"";
            default:  return "the server answered " + std::to_string(status);
        }
    } catch (const std::exception & e) {
        return std::string("the server cannot be asked: ") + e.what();
    }
}

void fetch_model(job & j, const fetch_options & o) {
    common_params params;
    params.model.hf_repo = o.repo;
    params.model.hf_file = o.file;
    params.model.url     = o.url;
    params.hf_token      = o.token;
    params.offline       = o.offline;

    j.set_progress(0);
    progress callback(j);
    std::string failure;
    try {
        auto handler = common_models_handler_init(params, LLAMA_EXAMPLE_COMMON);
        j.throw_if_cancelled();
        if (!o.repo.empty() && handler.plan.model_files.empty()) {
            throw job_error("download", "cannot load \"" + o.name() + "\": " + why_not(o));
        }
        common_models_handler_apply(handler, params, &callback);
    } catch (const job_error &) {
        throw;
    } catch (const std::exception & e) {
        failure = e.what();
    }
    j.throw_if_cancelled();
    if (failure.empty() && !std::filesystem::exists(std::filesystem::u8path(params.model.path))) {
        failure = "nothing was loaded";
    }
    if (!failure.empty()) {
        throw job_error("download", "cannot load \"" + o.name() + "\": " + failure + ". What came of it is kept, and the next try goes on from there");
    }
    j.finish([&] { return json { { "path", params.model.path }, { "fetched", callback.fetched.load() } }; });
}

} // namespace duo::abi
