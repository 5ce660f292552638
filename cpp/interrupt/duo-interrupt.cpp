#include "duo-interrupt.h"

#include <utility>

static thread_local duo_interrupt * current = nullptr;

duo_interrupt::duo_interrupt(std::function<void()> check) : check(std::move(check)), outer(current) {
    current = this;
}

duo_interrupt::~duo_interrupt() {
    current = outer;
}

const std::function<void()> * duo_interrupt::innermost() {
    return current ? &current->check : nullptr;
}

void duo_interrupt::poll() {
    if (current) {
        current->check();
    }
}
