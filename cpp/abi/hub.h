// Models from elsewhere: llama.cpp's own downloader and its cache.
#pragma once

#include "job.h"
#include "options.h"

#include <string>

namespace duo::abi {

struct fetch_options {
    std::string repo;  // "user/name" or "user/name:quantisation"; "" for a URL
    std::string file;  // of the repository; "": the best of the quantisation
    std::string url;
    std::string token; // what a repository that is not public asks for
    bool        offline = false;

    static fetch_options read(options o);

    // The model as it was asked for, for messages.
    std::string name() const { return repo.empty() ? url : "hf:" + repo; }
};

// The work of llama_duo_model_fetch.
void fetch_model(job & j, const fetch_options & o);

} // namespace duo::abi
