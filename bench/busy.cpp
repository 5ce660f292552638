// Decoding and prefill beside busy processes, builds of llama.cpp taking turns on the same cores.
//
//   bench-busy --variant NAME=PROGRAM[,mixed] [--variant ...] [--shape smollm2] [--cpus 0,1] [--busy 0,1,2,4] [--seconds 0.5]
//              [--budget 120] [--tests decode,prefill] [--json FILE]
//
// PROGRAM is this program as linked with the build in question (bench/busy.sh makes them); with ",mixed" all attention is the mixed-head operator's, and no
// head streams. Each variant runs as a process of its own, with as many threads as there are cores and a random model of the shape, and computes only when it
// is its turn. Before its turn K processes that only count have been started on the same cores. All turns are repeated, in another order, until the budget
// (in seconds) is spent.
//
// Printed: the median of tokens/s, and in percent: with no busy process beside, of the first variant's speed; else of the variant's own speed with none. A
// fair scheduler gives cores / (cores + busy) of it, and the bar is 80% of that. In the JSON ofFirst and ofQuiet are these shares, ofFirst for all K.
#include "random-model.h"
#include "shapes.h"

#include "llama.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace {

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> x) {
    std::sort(x.begin(), x.end());
    return x.empty() ? 0 : x[x.size() / 2]; // the budget may end before the first round does
}

std::vector<std::string> split(const std::string & list) {
    std::vector<std::string> out;
    for (size_t i = 0; i <= list.size();) {
        const size_t end = std::min(list.find(',', i), list.size());
        out.push_back(list.substr(i, end - i));
        i = end + 1;
    }
    return out;
}

[[noreturn]] void fail(const std::string & why) {
    fprintf(stderr, "bench-busy: %s\n", why.c_str());
    exit(1);
}

// --- a variant's process ---

// Reads "decode SECONDS" and "prefill SECONDS" from stdin, and prints tokens/s.
int work(const char * path, int n_threads, bool mixed) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    llama_log_set([](ggml_log_level level, const char * text, void *) { if (level == GGML_LOG_LEVEL_ERROR) { fputs(text, stderr); } }, nullptr);
    llama_backend_init();
    llama_model * model = llama_model_load_from_file(path, llama_model_default_params());
    if (!model) {
        return 1;
    }

    constexpr int n_ctx = 1024, n_prefill = 128;
    llama_context_params params = llama_context_default_params();
    params.n_ctx           = n_ctx;
    params.n_ubatch        = n_prefill;
    params.n_threads       = n_threads;
    params.n_threads_batch = n_threads;
#ifdef LLAMA_DUO
    params.duo.enabled  = mixed;
    params.duo.sparsity = 0;
#else
    (void) mixed;
#endif
    llama_context * ctx = llama_init_from_model(model, params);
    if (!ctx) {
        return 1;
    }
    int  depth = 0;
    auto decode = [&](int n) {
        if (depth + n > n_ctx) {
            llama_memory_clear(llama_get_memory(ctx), false);
            depth = 0;
        }
        std::vector<llama_token> tokens(n);
        for (int i = 0; i < n; ++i) {
            tokens[i] = int64_t(depth + i) * 7919 % 32000;
        }
        if (llama_decode(ctx, llama_batch_get_one(tokens.data(), n)) != 0) {
            exit(1);
        }
        llama_get_logits_ith(ctx, -1);
        depth += n;
    };
    decode(n_prefill);
    decode(1);

    printf("ready\n");
    fflush(stdout);
    char   test[16];
    double seconds;
    while (scanf("%15s %lf", test, &seconds) == 2) {
        const int n = strcmp(test, "decode") == 0 ? 1 : n_prefill;
        int n_tokens = 0;
        const double start = now();
        do {
            decode(n);
            n_tokens += n;
        } while (now() - start < seconds);
        const double took = now() - start;
        printf("%.4f\n", n_tokens / took);
        fflush(stdout);
    }
    llama_free(ctx);
    llama_model_free(model);
    return 0;
}

// --- the driver ---

struct variant {
    std::string name, program;
    bool mixed;

    pid_t  pid = 0;
    FILE * to = nullptr;
    FILE * from = nullptr;
    std::map<std::pair<std::string, int>, std::vector<double>> results; // by test and number of busy processes

    std::string read_line() {
        char line[64];
        if (!fgets(line, sizeof(line), from)) {
            fail(name + " ended");
        }
        return line;
    }
};

variant parse_variant(const std::string & text) {
    const size_t equals = text.find('=');
    if (equals == std::string::npos) {
        fail("--variant is " + text + "; expected NAME=PROGRAM[,mixed]");
    }
    variant v;
    v.name = text.substr(0, equals);
    const size_t end = text.find(",mixed", equals);
    v.program = text.substr(equals + 1, end - equals - 1);
    v.mixed   = end != std::string::npos;
    return v;
}

void restrict_to(const std::vector<int> & cpus) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (const int cpu : cpus) {
        CPU_SET(cpu, &set);
    }
    if (sched_setaffinity(0, sizeof(set), &set) != 0) {
        fail("these cpus cannot be used");
    }
}

void start(variant & v, const std::string & path, const std::vector<int> & cpus) {
    int in[2], out[2];
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) { // a variant that held another's would keep it from seeing its end
        fail("no pipe");
    }
    v.pid = fork();
    if (v.pid == 0) {
        restrict_to(cpus);
        dup2(in[0], 0);
        dup2(out[1], 1);
        const std::string n = std::to_string(cpus.size());
        execl(v.program.c_str(), v.program.c_str(), "--work", path.c_str(), n.c_str(), v.mixed ? "mixed" : "stock", (char *) nullptr);
        fail("cannot run " + v.program);
    }
    close(in[0]);
    close(out[1]);
    v.to   = fdopen(in[1], "w");
    v.from = fdopen(out[0], "r");
    v.read_line();
}

std::vector<pid_t> start_busy(int n, const std::vector<int> & cpus) {
    std::vector<pid_t> pids(n);
    for (pid_t & pid : pids) {
        pid = fork();
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            restrict_to(cpus);
            for (volatile uint64_t i = 0;; i = i + 1) {
            }
        }
    }
    usleep(100 * 1000); // for the scheduler to spread them
    return pids;
}

void stop(const std::vector<pid_t> & pids) {
    for (const pid_t pid : pids) {
        kill(pid, SIGKILL);
        waitpid(pid, nullptr, 0);
    }
}

} // namespace

int main(int argc, char ** argv) {
    if (argc == 5 && strcmp(argv[1], "--work") == 0) {
        return work(argv[2], atoi(argv[3]), strcmp(argv[4], "mixed") == 0);
    }
    std::vector<variant> variants;
    std::string shape = "smollm2", json;
    std::vector<int> cpus { 0, 1 }, busy { 0, 1, 2, 4 };
    std::vector<std::string> tests { "decode", "prefill" };
    double seconds = 0.5, budget = 120;
    auto numbers = [](const std::string & list) {
        std::vector<int> out;
        for (const std::string & s : split(list)) {
            out.push_back(atoi(s.c_str()));
        }
        return out;
    };
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string flag = argv[i], value = argv[i + 1];
        if      (flag == "--variant") { variants.push_back(parse_variant(value)); }
        else if (flag == "--shape")   { shape   = value; }
        else if (flag == "--cpus")    { cpus    = numbers(value); }
        else if (flag == "--busy")    { busy    = numbers(value); }
        else if (flag == "--tests")   { tests   = split(value); }
        else if (flag == "--seconds") { seconds = atof(value.c_str()); }
        else if (flag == "--budget")  { budget  = atof(value.c_str()); }
        else if (flag == "--json")    { json    = value; }
        else                          { fail("there is no flag " + flag); }
    }
    if (variants.empty()) {
        fail("no --variant is given");
    }
    const double begin = now();
    const random_model_file file(shape_or_exit(shape));
    for (variant & v : variants) {
        start(v, file.path(), cpus);
    }
    fprintf(stderr, "%s: %zu variants started in %.0f s\n", shape.c_str(), variants.size(), now() - begin);

    const double end = now() + budget;
    for (int round = 0; now() < end; ++round) {
        for (const int k : busy) {
            const std::vector<pid_t> pids = start_busy(k, cpus);
            for (const std::string & test : tests) {
                for (size_t i = 0; i < variants.size() && now() < end; ++i) {
                    variant & v = variants[(i + round) % variants.size()];
                    fprintf(v.to, "%s %.3f\n", test.c_str(), seconds);
                    fflush(v.to);
                    v.results[{ test, k }].push_back(atof(v.read_line().c_str()));
                    usleep(20 * 1000); // OpenMP's threads spin on for some milliseconds
                }
            }
            stop(pids);
        }
    }

    FILE * out = json.empty() ? nullptr : fopen(json.c_str(), "w");
    const char * separator = "[\n";
    for (const std::string & test : tests) {
        printf("\n%s, %s, tokens/s\n%-28s", shape.c_str(), test.c_str(), "busy processes:");
        for (const int k : busy) {
            printf(" %15d", k);
        }
        printf("\n%-28s", "the bar:");
        for (const int k : busy) {
            printf(" %8s %5.1f%%", "", k == 0 ? 97.0 : 80.0 * cpus.size() / (cpus.size() + k));
        }
        printf("\n");
        for (variant & v : variants) {
            printf("%-28s", v.name.c_str());
            for (const int k : busy) {
                const std::vector<double> & runs = v.results[{ test, k }];
                const double rate     = median(runs);
                const double of_quiet = rate / median(v.results[{ test, busy[0] }]);
                const double of_first = rate / median(variants[0].results[{ test, k }]);
                printf(" %8.2f %5.1f%%", rate, 100 * (k == busy[0] ? of_first : of_quiet));
                if (out && !runs.empty()) {
                    fprintf(out, "%s  {\"shape\": \"%s\", \"test\": \"%s\", \"variant\": \"%s\", \"cores\": %zu, \"busy\": %d, \"tokensPerSecond\": %.3f, "
                            "\"ofQuiet\": %.4f, \"ofFirst\": %.4f, \"least\": %.3f, \"most\": %.3f, \"runs\": %zu}",
                            separator, shape.c_str(), test.c_str(), v.name.c_str(), cpus.size(), k, rate, of_quiet, of_first,
                            *std::min_element(runs.begin(), runs.end()), *std::max_element(runs.begin(), runs.end()), runs.size());
                    separator = ",\n";
                }
            }
            printf("\n");
        }
    }
    if (out) {
        fprintf(out, "\n]\n");
        fclose(out);
    }
    for (variant & v : variants) {
        fclose(v.to); // its scanf ends, and it with that
        fclose(v.from);
        waitpid(v.pid, nullptr, 0);
    }
    return 0;
}
