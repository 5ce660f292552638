// Checks for small test programs. A failed check prints where, what and the values, and the program goes on; end main with `return check::result();`.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <random>
#include <sstream>
#include <string>
#include <type_traits>

namespace check {

// threads of a test check, too
inline std::atomic<int> n_passed { 0 };
inline std::atomic<int> n_failed { 0 };

template <typename T, typename = void>
struct is_printable : std::false_type {};
template <typename T>
struct is_printable<T, std::void_t<decltype(std::declval<std::ostream &>() << std::declval<const T &>())>> : std::true_type {};

template <typename T>
std::string text(const T & value) {
    std::ostringstream out;
    out.precision(17);
    if constexpr (std::is_integral_v<T> && sizeof(T) == 1) {
        out << int(value); // bool, char, uint8_t
    } else if constexpr (is_printable<T>::value) {
        out << value;
    } else {
        out << "(a value of " << sizeof(T) << " bytes)";
    }
    return out.str();
}

inline void report(bool passed, const char * file, int line, const std::string & what, const std::string & values = "") {
    (passed ? n_passed : n_failed)++;
    if (!passed) {
        std::cerr << file << ":" << line << ": " << what << (values.empty() ? "" : "\n    ") << values << "\n";
    }
}

template <typename A, typename B>
void equal(const A & a, const B & b, const char * file, int line, const char * what) {
    report(a == b, file, line, what, "found " + text(a) + "\n    expected " + text(b));
}

inline void near(double a, double b, double tolerance, const char * file, int line, const char * what) {
    report(std::fabs(a - b) <= tolerance, file, line, what, "found " + text(a) + "\n    expected " + text(b) + " within " + text(tolerance));
}

// Runs f, which must throw an E whose what() holds the text.
template <typename E, typename F>
void throws(F f, const std::string & wanted, const char * file, int line, const char * what) {
    try {
        f();
    } catch (const E & e) {
        report(std::string(e.what()).find(wanted) != std::string::npos, file, line, what, std::string("found ") + e.what() + "\n    expected " + wanted);
        return;
    } catch (const std::exception & e) {
        report(false, file, line, what, std::string("threw another type: ") + e.what());
        return;
    }
    report(false, file, line, what, "threw nothing, expected: " + wanted);
}

// A seed for this run: LLAMA_DUO_TEST_SEED, or fresh; printed, so that a failure can be had again. Programs draw their other seeds from it.
inline uint64_t seed() {
    const char * given = std::getenv("LLAMA_DUO_TEST_SEED");
    const uint64_t value = given ? std::strtoull(given, nullptr, 10) : std::random_device()();
    std::cout << "LLAMA_DUO_TEST_SEED=" << value << std::endl;
    return value;
}

// The exit code. A program that checked nothing, as where a name selects no case, has failed.
inline int result() {
    std::cout << n_passed << " checks passed, " << n_failed << " failed\n";
    return n_failed == 0 && n_passed > 0 ? 0 : 1;
}

} // namespace check

#define CHECK(condition)                 check::report(bool(condition), __FILE__, __LINE__, #condition)
#define CHECK_EQ(found, expected)        check::equal(found, expected, __FILE__, __LINE__, #found " == " #expected)
#define CHECK_NEAR(found, expected, tol) check::near(found, expected, tol, __FILE__, __LINE__, #found " near " #expected)
#define CHECK_THROWS(expression, type, wanted) check::throws<type>([&] { (void) (expression); }, wanted, __FILE__, __LINE__, #expression)
