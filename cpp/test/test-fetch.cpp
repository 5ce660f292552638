// Models from elsewhere: a server of our own that speaks as much of the hub's protocol as llama.cpp's downloader uses, with breakdowns.
#include "abi-calls.h"
#include "check.h"
#include "random-model.h"

#include <cpp-httplib/httplib.h>

#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace fs = std::filesystem;

static std::string read_file(const fs::path & path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream out;
    out << file.rdbuf();
    return out.str();
}

static const std::string commit(40, 'a');

class hub {
public:
    std::map<std::string, std::string> files; // of the repository "user/repo", and under /plain/

    std::atomic<int64_t> n_sent  = 0; // bytes of files
    std::atomic<int64_t> slow_at = -1; // a transfer waits where it has sent so many bytes, as long as this stays
    std::atomic<int64_t> cut_at  = -1; // a transfer ends there, once

    hub() {
        server.Get("/api/models/user/repo/refs", [](const httplib::Request & q, httplib::Response & r) {
            if (q.get_header_value("Authorization") == "Bearer wrong") {
                r.status = 401;
                return;
            }
            r.set_content(dump({ { "branches", { { { "name", "main" }, { "targetCommit", commit } } } } }), "application/json");
        });
        server.Get("/api/models/user/repo/tree/" + commit, [this](const httplib::Request &, httplib::Response & r) {
            json list = json::array();
            int n = 0;
            for (const auto & [path, content] : files) {
                std::string oid(64, '0');
                oid[0] = char('a' + n++);
                list.push_back({ { "type", "file" }, { "path", path }, { "size", content.size() }, { "oid", std::string(40, 'b') },
                        { "lfs", { { "oid", oid }, { "size", content.size() } } } });
            }
            r.set_content(dump(list), "application/json");
        });
        const auto serve = [this](const httplib::Request & q, httplib::Response & r) {
            const auto it = files.find(std::string(q.matches[1]));
            if (it == files.end()) {
                r.status = 404;
                return;
            }
            r.set_header("Accept-Ranges", "bytes");
            r.set_header("ETag", "\"" + std::to_string(std::hash<std::string>()(it->second)) + "\"");
            r.set_content_provider(it->second.size(), "application/octet-stream", [this, &content = it->second](size_t offset, size_t length, httplib::DataSink & sink) {
                const size_t n = std::min<size_t>(length, 16384);
                if (cut_at >= 0 && int64_t(offset + n) > cut_at) {
                    cut_at = -1;
                    return false;
                }
                while (slow_at >= 0 && int64_t(offset + n) > slow_at) {
                    sleep_ms(2);
                    if (!sink.is_writable()) {
                        return false;
                    }
                }
                n_sent += int64_t(n);
                return sink.write(content.data() + offset, n);
            });
        };
        server.Get("/user/repo/resolve/" + commit + "/(.+)", serve);
        server.Get("/plain/(.+)", serve);
        port   = server.bind_to_any_port("127.0.0.1");
        thread = std::thread([this] { server.listen_after_bind(); });
        server.wait_until_ready();
    }

    ~hub() {
        server.stop();
        thread.join();
    }

    std::string url() const { return "http://127.0.0.1:" + std::to_string(port) + "/"; }

private:
    httplib::Server server;
    std::thread     thread;
    int             port;
};

static uint32_t fetch(const json & options) {
    return submit(llama_duo_model_fetch, dump(options));
}

static std::string failure(const json & options) {
    const uint32_t job = fetch(options);
    CHECK_EQ(wait_for(job), LLAMA_DUO_JOB_FAILED);
    const json error = error_of(job);
    llama_duo_job_free(job);
    return error.at("code").get<std::string>() + ": " + error.at("message").get<std::string>();
}

static bool holds(const std::string & text, const std::string & part) {
    if (text.find(part) == std::string::npos) {
        fprintf(stderr, "no \"%s\" in: %s\n", part.c_str(), text.c_str());
        return false;
    }
    return true;
}

int main() {
    const fs::path cache = fs::temp_directory_path() / ("llama-duo-test-fetch-" + std::to_string(getpid()));
    fs::create_directories(cache);
    setenv("LLAMA_CACHE", cache.c_str(), 1);

    hub server;
    setenv("MODEL_ENDPOINT", server.url().c_str(), 1);

    random_model_params params;
    params.words = true;
    const std::string model = read_file(random_model_file(params).path());
    server.files["model-Q8_0.gguf"] = model;
    server.files["other-Q4_0.gguf"] = model.substr(0, 300000); // no model: it is only loaded from afar
    server.files["parts-F16-00001-of-00002.gguf"] = "GGUF first";
    server.files["parts-F16-00002-of-00002.gguf"] = "GGUF second";

    // from the hub, and then from the cache
    const json first = take_result(fetch({ { "model", "hf:user/repo:Q8_0" } }));
    CHECK(first.at("fetched") == true);
    CHECK(read_file(first.at("path").get<std::string>()) == model);
    CHECK(holds(first.at("path"), cache.string()));
    const json loaded = take_result(submit(llama_duo_model_load, dump({ { "path", first.at("path") } })));
    CHECK(loaded.at("architecture") == "llama");
    give_back(llama_duo_model_free, loaded.at("model"));

    const int64_t sent = server.n_sent;
    const json again = take_result(fetch({ { "model", "hf:user/repo:Q8_0" } }));
    CHECK(again.at("fetched") == false);
    CHECK(again.at("path") == first.at("path"));
    CHECK(take_result(fetch({ { "model", "hf:user/repo:Q8_0" }, { "offline", true } })).at("path") == first.at("path"));
    CHECK_EQ(int64_t(server.n_sent), sent);

    // all files of a split model; the path is that of the first
    const json parts = take_result(fetch({ { "model", "hf:user/repo" }, { "file", "parts-F16-00001-of-00002.gguf" } }));
    CHECK(read_file(parts.at("path").get<std::string>()) == "GGUF first");
    CHECK(read_file(fs::path(parts.at("path").get<std::string>()).parent_path() / "parts-F16-00002-of-00002.gguf") == "GGUF second");

    // a cancelled download goes on where it was
    {
        const std::string & content = server.files["other-Q4_0.gguf"];
        server.slow_at = 150000;
        int64_t before = server.n_sent;
        const uint32_t job = fetch({ { "model", "hf:user/repo:Q4_0" } });
        double progress = 0;
        int32_t state   = 0;
        while (progress < 0.4 && state < LLAMA_DUO_JOB_DONE) {
            CHECK_EQ(llama_duo_job_poll(job, &state, &progress), LLAMA_DUO_OK);
            sleep_ms(1);
        }
        CHECK(progress < 0.6);
        CHECK_EQ(llama_duo_job_cancel(job), LLAMA_DUO_OK);
        server.slow_at = 200000; // a little more: it is looked at when something comes
        CHECK_EQ(wait_for(job), LLAMA_DUO_JOB_CANCELLED);
        server.slow_at = -1;
        llama_duo_job_free(job);
        CHECK(int64_t(server.n_sent) - before < int64_t(content.size()));

        before = server.n_sent;
        const json resumed = take_result(fetch({ { "model", "hf:user/repo:Q4_0" } }));
        CHECK(read_file(resumed.at("path").get<std::string>()) == content);
        CHECK(int64_t(server.n_sent) - before < int64_t(content.size()) - 100000);
    }

    // a plain URL; the connection breaks once
    {
        server.files["plain.gguf"] = model;
        server.cut_at = 100000;
        const int64_t before = server.n_sent;
        const json plain = take_result(fetch({ { "model", server.url() + "plain/plain.gguf" } }));
        CHECK(read_file(plain.at("path").get<std::string>()) == model);
        CHECK(int64_t(server.n_sent) - before < int64_t(model.size()) + 40000);
        CHECK_EQ(int64_t(server.cut_at), -1);
    }

    // what cannot be
    CHECK(holds(failure({ { "model", "hf:user/none" } }), "download: cannot load \"hf:user/none\": there is no such repository (404)"));
    CHECK(holds(failure({ { "model", "hf:user/repo" }, { "file", "none.gguf" } }), "it has no file \"none.gguf\""));
    CHECK(holds(failure({ { "model", "hf:user/none:Q8_0" }, { "offline", true } }), "\"offline\" forbids"));
    CHECK(holds(failure({ { "model", server.url() + "plain/none.gguf" } }), "404"));
    for (const json & bad : { json("user/repo"), json("hf:repo"), json("hf:/repo"), json("hf:a/b/c"), json("ftp://x/y.gguf"), json(1), json() }) {
        CHECK(holds(failure({ { "model", bad } }), "option: option \"model\" is"));
    }
    CHECK(holds(failure({ { "model", server.url() + "plain/plain.gguf" }, { "file", "x" } }), "option: option \"file\" is"));
    CHECK(holds(failure({ { "model", "hf:user/repo" }, { "quant", "x" } }), "unknown option \"quant\""));

    std::error_code ignored;
    fs::remove_all(cache, ignored);
    return check::result();
}
