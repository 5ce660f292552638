#include "log.h"

#include "utf8.h"

#include "../common/log.h"
#include "ggml.h"
#include "llama.h"

#include <cstring>
#include <deque>
#include <mutex>
#include <string_view>

namespace duo::abi {

static constexpr size_t max_kept     = 64 * 1024;  // bytes of log lines
static constexpr size_t max_captured = 1024;       // bytes of an error message

namespace {

struct log_store {
    std::mutex              mutex;
    std::deque<std::string> lines;
    size_t                  n_bytes = 0;

    void add(std::string line) {
        std::lock_guard lock(mutex);
        n_bytes += line.size();
        lines.push_back(std::move(line));
        while (n_bytes > max_kept) {
            n_bytes -= lines.front().size();
            lines.pop_front();
        }
    }
};

// Messages come in parts (progress dots, GGML_LOG_LEVEL_CONT), so each thread assembles its own line.
struct open_line {
    ggml_log_level level = GGML_LOG_LEVEL_INFO;
    std::string    text;
};

thread_local open_line     line;
thread_local log_capture * capture = nullptr;

} // namespace

// never destroyed: threads may log while the process ends
static log_store & store() {
    static auto * s = new log_store;
    return *s;
}

static const char * name_of(ggml_log_level level) {
    switch (level) {
        case GGML_LOG_LEVEL_DEBUG: return "debug";
        case GGML_LOG_LEVEL_WARN:  return "warn";
        case GGML_LOG_LEVEL_ERROR: return "error";
        default:                   return "info";
    }
}

static void end_line() {
    if (line.text.empty()) {
        return;
    }
    if (capture && line.level == GGML_LOG_LEVEL_ERROR) {
        capture->add(line.text);
    }
    store().add(std::string(name_of(line.level)) + '\t' + line.text + '\n');
    line.text.clear();
}

static void on_log(ggml_log_level level, const char * text, void *) {
    if (level != GGML_LOG_LEVEL_CONT) {
        end_line();
        line.level = level;
    }
    for (const char * c = text; *c; c++) {
        if (*c == '\n') {
            end_line();
        } else {
            line.text += *c == '\t' ? ' ' : *c;
        }
    }
}

static const bool listening = [] {
    llama_log_set(on_log, nullptr);
    common_log_set_verbosity_thold(-1); // llama-common's own log can only print
    return true;
}();

int32_t log_drain(char * buf, int32_t cap) {
    log_store & s = store();
    std::lock_guard lock(s.mutex);

    if (!s.lines.empty() && s.lines.front().size() > size_t(cap)) {
        return -int32_t(s.lines.front().size());
    }

    size_t n = 0;
    while (!s.lines.empty() && n + s.lines.front().size() <= size_t(cap)) {
        memcpy(buf + n, s.lines.front().data(), s.lines.front().size());
        n += s.lines.front().size();
        s.lines.pop_front();
    }
    s.n_bytes -= n;
    return int32_t(n);
}

log_capture::log_capture() : outer(capture) {
    capture = this;
}

log_capture::~log_capture() {
    capture = outer;
}

void log_capture::add(const std::string & text) {
    if (lines.size() < max_captured) {
        lines += (lines.empty() ? "" : "; ") + text;
        lines.resize(utf8_cut(lines, max_captured));
    }
}

std::string log_capture::reason(const std::string & otherwise) const {
    return lines.empty() ? otherwise : lines;
}

} // namespace duo::abi
