// The files of sequences' states, as llama_state_seq_save_file and llama_state_seq_load_file have them: what they are beside llama.cpp's own.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

// Has `write` write a file beside the one at path, and puts it in that one's place once it is whole: whoever is killed meanwhile leaves the old file. Its
// result is the bytes that it wrote, 0 where it failed; so is this one's. checked: the file ends with a checksum. Throws std::runtime_error where files fail.
size_t duo_save_state_file(const std::string & path, bool checked, const std::function<size_t(const char * path)> & write);

// Throws std::runtime_error where the file is not one of a sequence's state or, if checked, is not what was saved.
void duo_check_state_file(const std::string & path, bool checked);

// Why this thread's last file failed; "": it did not.
std::string & duo_state_file_error();
