// Stops llama.cpp where it works long on a caller's text and has no way to be stopped: the loops of its tokenizers and grammars call poll().
#pragma once

#include <functional>

// While it lives, those loops call `check` on the thread that made it; what it throws leaves llama.cpp and ends the work.
class duo_interrupt {
public:
    explicit duo_interrupt(std::function<void()> check);
    ~duo_interrupt();
    duo_interrupt(const duo_interrupt &) = delete;

    static void poll();

    // What poll calls; null where it does nothing.
    static const std::function<void()> * innermost();

private:
    std::function<void()> check;
    duo_interrupt *       outer;
};
