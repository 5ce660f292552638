#include "duo-state-file.h"

#include "llama-impl.h"
#include "llama.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <vector>

namespace fs = std::filesystem;

namespace {

// What a file ends with. Rows of K and V are numbers like any others: only this tells that they are the ones that were saved.
struct checksum {
    char     magic[8];
    uint64_t hash; // of all bytes before
};

constexpr char checksum_magic[8] = { 'd', 'u', 'o', '-', 's', 'u', 'm', '1' };

// Each step maps different words to different hashes, so a change within a word is always seen. By words: a file may have gigabytes.
uint64_t hash_of(std::istream & in, uint64_t size) {
    uint64_t hash = size;
    std::vector<uint64_t> words(1 << 16);
    for (uint64_t at = 0; at < size;) {
        const uint64_t n = std::min<uint64_t>(size - at, words.size() * sizeof(uint64_t));
        words[(n - 1) / sizeof(uint64_t)] = 0; // the last word may be filled in part
        if (!in.read(reinterpret_cast<char *>(words.data()), std::streamsize(n))) {
            throw std::runtime_error("it cannot be read");
        }
        for (size_t i = 0; i < (n + sizeof(uint64_t) - 1) / sizeof(uint64_t); ++i) {
            hash = (hash ^ words[i]) * 1099511628211ull;
            hash ^= hash >> 32;
        }
        at += n;
    }
    return hash;
}

std::string reason_of(int error, const char * otherwise) {
    return error ? strerror(error) : otherwise;
}

void append_checksum(const fs::path & path) {
    checksum sum;
    memcpy(sum.magic, checksum_magic, sizeof(sum.magic));
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    sum.hash = hash_of(file, fs::file_size(path));
    file.seekp(0, std::ios::end);
    errno = 0;
    file.write(reinterpret_cast<const char *>(&sum), sizeof(sum));
    file.close();
    if (!file) {
        throw std::runtime_error("it cannot be written: " + reason_of(errno, "the disk may be full"));
    }
}

} // namespace

size_t duo_save_state_file(const std::string & path, bool checked, const std::function<size_t(const char * path)> & write) {
    duo_state_file_error().clear();
    // another process may save the same file
    const std::string part = path + format(".part%llx", (unsigned long long) (ggml_time_us() ^ reinterpret_cast<uintptr_t>(&write)));
    std::error_code ignored;
    try {
        const size_t n = write(part.c_str());
        if (n == 0) {
            throw std::runtime_error("nothing was written");
        }
        if (fs::file_size(fs::u8path(part)) != n) {
            throw std::runtime_error("not all of it was written: the disk may be full");
        }
        if (checked) {
            append_checksum(fs::u8path(part));
        }
        fs::rename(fs::u8path(part), fs::u8path(path));
        return n;
    } catch (...) {
        fs::remove(fs::u8path(part), ignored);
        throw;
    }
}

void duo_check_state_file(const std::string & path, bool checked) {
    duo_state_file_error().clear();
    errno = 0;
    std::ifstream file(fs::u8path(path), std::ios::binary);
    uint32_t head[3] = {}; // what llama.cpp writes first: what it is, its version, how many tokens follow
    if (!file) {
        throw std::runtime_error("it cannot be opened: " + reason_of(errno, "it may be missing"));
    }
    if (!file.read(reinterpret_cast<char *>(head), sizeof(head)) || head[0] != LLAMA_STATE_SEQ_MAGIC) {
        throw std::runtime_error("it is not the state of a sequence");
    }
    if (head[1] != LLAMA_STATE_SEQ_VERSION) {
        throw std::runtime_error(format("it has version %u of the format; expected %u", head[1], LLAMA_STATE_SEQ_VERSION));
    }
    const uint64_t size = fs::file_size(fs::u8path(path));
    if (head[2] > (size - sizeof(head)) / sizeof(llama_token)) {
        throw std::runtime_error(format("it is cut off: it says that it has %u tokens, and has %llu bytes", head[2], (unsigned long long) size));
    }
    if (!checked) {
        return;
    }
    checksum sum = {};
    if (size >= sizeof(head) + sizeof(sum)) {
        file.seekg(-std::streamoff(sizeof(sum)), std::ios::end);
        file.read(reinterpret_cast<char *>(&sum), sizeof(sum));
    }
    if (memcmp(sum.magic, checksum_magic, sizeof(sum.magic)) != 0) {
        throw std::runtime_error("it does not end with a checksum: it is cut off, or was saved without mixed heads or by another version");
    }
    file.seekg(0);
    if (sum.hash != hash_of(file, size - sizeof(sum))) {
        throw std::runtime_error("it is damaged: its checksum is that of other bytes");
    }
}

std::string & duo_state_file_error() {
    static thread_local std::string error;
    return error;
}
