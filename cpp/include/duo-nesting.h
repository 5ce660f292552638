// Ends llama.cpp's recursions over a text (a template, JSON, what a model wrote) before the thread's stack ends.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <stdexcept>

// To be made in each call of such a recursion. Throws where the calls that are under way on this thread take more of its stack than a text of any use
// needs: counting bytes, not calls, holds whatever the size of a call's frame. Threads have 8 MiB on Linux.
class duo_nesting {
public:
    duo_nesting() : is_outermost(outermost == nullptr) {
        const char * here = reinterpret_cast<const char *>(this);
        if (is_outermost) {
            outermost = here;
        } else if (size_t(std::abs(outermost - here)) > max_stack) {
            throw std::runtime_error("it is nested too deeply");
        }
    }

    ~duo_nesting() {
        if (is_outermost) {
            outermost = nullptr;
        }
    }

    duo_nesting(const duo_nesting &) = delete;

private:
    static constexpr size_t max_stack = 1 << 20;

    static inline thread_local const char * outermost = nullptr;

    const bool is_outermost;
};
