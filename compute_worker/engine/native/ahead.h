// Memory that is read next, asked for while the processor multiplies what it has.
#pragma once
#include <cstddef>
#include <vector>

// From here on, so many bytes with each step.
struct Next {
    const char *at = nullptr;
    long bytes = 0;
};

// What a thread will read in the operation behind a product, in pieces, in the order in which it will: a product of many
// tokens waits for its multiplications, and leaves memory idle.
struct Errand {
    // Of a cache line: more than one with each step would hold the multiplications up.
    static constexpr long MOST = 64;
    struct Piece {
        const char *at;
        long bytes;
    };
    std::vector<Piece> pieces;
    size_t piece = 0;
    long done = 0, bytes = 0, pace = 0;

    void clear() {
        pieces.clear();
        piece = 0;
        done = bytes = pace = 0;
    }
    void add(const void *at, long size) {
        pieces.push_back({(const char *)at, size});
        bytes += size;
    }
    // All of it within so many steps.
    void spread(long steps) {
        pace = (bytes + steps - 1) / steps;
        pace = pace < MOST ? pace : MOST;
    }
    // What goes with the next `steps`.
    Next take(long steps) {
        if (piece == pieces.size() || !pace) return {};
        Next next{pieces[piece].at + done, pace};
        done += steps * pace;
        if (done >= pieces[piece].bytes) piece++, done = 0;
        return next;
    }
};
