// llama.cpp's log: kept for the caller to drain, and listened to for the reason when a call fails. It comes here from the moment that the library is
// loaded, so nothing is ever printed.
#pragma once

#include <cstdint>
#include <string>

namespace duo::abi {

// Takes whole lines that fit, oldest first, and returns their bytes; where not even the first fits, takes none and returns minus its bytes.
int32_t log_drain(char * buf, int32_t cap);

// Collects the errors that this thread logs during the capture's life; llama.cpp's functions return null and log why.
class log_capture {
public:
    log_capture();
    ~log_capture();
    log_capture(const log_capture &) = delete;

    // The first lines, joined, for what went wrong first is the cause; `otherwise` if there are none.
    std::string reason(const std::string & otherwise) const;

    void add(const std::string & line);

private:
    log_capture * outer;
    std::string   lines;
};

} // namespace duo::abi
