#include "scheduler.h"

#include "context.h"
#include "drafter.h"
#include "log.h"
#include "sequence.h"
#include "token-batch.h"

#include <algorithm>
#include <numeric>
#include <set>

namespace duo::abi {

scheduler::scheduler(std::shared_ptr<job> j, creation create) : creating(std::move(j)), create(std::move(create)) {
    live.push_back(creating);
}

scheduler::~scheduler() = default;

void scheduler::start(std::shared_ptr<job> j, creation create) {
    start_thread(std::make_shared<scheduler>(std::move(j), std::move(create)));
}

// --- from any thread ---

bool scheduler::post(std::shared_ptr<task> t) {
    const auto self = weak_from_this();
    const auto j    = t->j;
    // the job outlives the context where its handle is kept
    j->set_notify([self] {
        if (const auto s = self.lock()) {
            s->wake();
        }
    });
    const auto prepare = [self, t] {
        t->j->attempt([&] { t->prepare(); });
        t->prepared = true;
        if (const auto s = self.lock()) {
            s->wake();
        }
    };
    {
        std::lock_guard lock(mutex);
        if (closed) {
            return false;
        }
        live.push_back(j);
        inbox.push_back(t);
        if (t->on) {
            t->on->add_job(j);
        }
    }
    if (t->is_long()) {
        try {
            run_part(j, prepare);
        } catch (...) { // no thread
            prepare();
        }
    }
    wake();
    return true;
}

void scheduler::release(const std::shared_ptr<sequence> & s) {
    s->cancel_jobs();
    {
        std::lock_guard lock(mutex);
        released.push_back(s);
    }
    wake();
}

void scheduler::wake() {
    std::lock_guard lock(mutex);
    woken = true;
    changed.notify_one();
}

void scheduler::end(std::function<void()> then) {
    cancel();
    std::lock_guard lock(mutex);
    closed = true;
    if (then) {
        last = std::move(then);
    }
    woken = true;
    changed.notify_one();
}

void scheduler::cancel() {
    std::vector<std::shared_ptr<job>> jobs;
    {
        std::lock_guard lock(mutex);
        jobs = live;
    }
    for (const auto & j : jobs) { // which wakes this
        j->cancel();
    }
}

bool scheduler::idle() {
    std::lock_guard lock(mutex);
    return !closed && live.empty(); // a closed one is at work until it has ended
}

// --- the thread ---

void scheduler::run() {
    creating->run([&](job & j) { owner = create(j, shared_from_this()); });
    create = nullptr;
    forget(creating);

    if (owner) {
        ctx = owner->ptr.get();
        const uint32_t n_seq = llama_n_seq_max(ctx);
        sequences.reserve(n_seq);
        for (uint32_t i = 0; i < n_seq; i++) {
            sequences.emplace_back(ctx, llama_seq_id(i));
        }
        // one that is cancelled while others go on is left out of the next step
        const auto in_vain = [](void * self) {
            const auto * pieces = static_cast<const scheduler *>(self)->computing;
            return pieces && std::all_of(pieces->begin(), pieces->end(), [](const piece & p) { return p.t->j->cancelled(); });
        };
        llama_set_abort_callback(ctx, in_vain, this);
        if (owner->drafts && owner->drafts->ctx()) {
            llama_set_abort_callback(owner->drafts->ctx(), in_vain, this);
        }
        while (take_in()) {
            end_cancelled();
            take_back();
            start_waiting();

            const auto pieces = pick();
            if (!pieces.empty()) {
                compute(pieces);
                wake();
            }
        }
        owner.reset();
    }

    std::function<void()> then;
    {
        std::lock_guard lock(mutex);
        closed = true;
        then = std::move(last);
    }
    if (then) {
        then();
    }
}

// Waits until something has changed and takes in what has come.
bool scheduler::take_in() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return woken; });
    woken = false;
    waiting.insert(waiting.end(), inbox.begin(), inbox.end());
    inbox.clear();
    to_take_back.insert(to_take_back.end(), released.begin(), released.end());
    released.clear();
    if (!closed) {
        return true;
    }
    lock.unlock();

    cancel();
    end_cancelled();
    return false;
}

void scheduler::end_cancelled() {
    for (const auto & t : std::vector<std::shared_ptr<task>>(running)) {
        if (t->j->cancelled() && !t->j->attempt([&] { t->j->throw_if_cancelled(); })) {
            finish(t);
        }
    }
    for (auto it = waiting.begin(); it != waiting.end();) {
        if ((*it)->j->cancelled() || (*it)->j->ended()) {
            (*it)->j->attempt([&] { (*it)->j->throw_if_cancelled(); });
            forget((*it)->j);
            it = waiting.erase(it);
        } else {
            ++it;
        }
    }
}

void scheduler::take_back() {
    for (auto it = to_take_back.begin(); it != to_take_back.end();) {
        if ((*it)->busy) {
            ++it;
        } else {
            (*it)->released = true; // for a job that was posted at the last moment
            give_back((*it)->cells);
            it = to_take_back.erase(it);
        }
    }
}

void scheduler::start_waiting() {
    std::set<const sequence *> blocked; // an earlier job on it waits
    hurry = false;
    for (const auto & t : running) {
        if (t->on) {
            t->on->awaited = false;
        }
    }
    for (auto it = waiting.begin(); it != waiting.end();) {
        const auto t = *it;
        const bool its_turn = !t->on || (!t->on->busy && !blocked.count(t->on.get()));
        const bool is_ready = t->prepared || !t->is_long();
        // who waits longer for a free sequence gets it first
        const auto n_idle = size_t(std::count_if(sequences.begin(), sequences.end(), [](const auto & s) { return !s.taken; }));
        const bool has_room = t->n_free() == 0 || (!hurry && t->n_free() <= n_idle);

        if (its_turn && is_ready && has_room && try_to_start(t)) {
            it = waiting.erase(it);
            continue;
        }
        if (its_turn && is_ready && !has_room) { // what needs more than handles leave waits for one of those, and nobody else has to
            const auto n_used = std::accumulate(running.begin(), running.end(), size_t(0), [](size_t n, const auto & r) { return n + r->own.size() - (r->on ? 1 : 0); });
            hurry = hurry || t->n_free() <= n_idle + n_used;
        }
        if (t->on) {
            t->on->awaited = t->on->busy;
            blocked.insert(t->on.get());
        }
        ++it;
    }
}

// Starts it or ends it, which is true either way.
bool scheduler::try_to_start(const std::shared_ptr<task> & t) {
    job & j = *t->j;
    if (!t->prepared && !j.attempt([&] { t->prepare(); })) {
        forget(t->j);
        return true;
    }
    t->prepared = true;
    if (t->on && t->on->released) {
        j.cancel();
    }
    if (!j.begin()) {
        forget(t->j);
        return true;
    }

    if (t->on) {
        t->on->busy = true;
        t->n_before = t->on->cells.tokens.size();
        t->own.push_back(&t->on->cells);
    }
    std::vector<cache_sequence *> idle;
    for (auto & s : sequences) {
        if (!s.taken) {
            idle.push_back(&s);
        }
    }
    // those that were used longest ago first, and the one that has most of the prompt before them
    std::stable_sort(idle.begin(), idle.end(), [](const auto * a, const auto * b) { return a->used_at < b->used_at; });
    if (!t->on && !idle.empty() && !t->prefix().empty()) {
        std::vector<size_t> common;
        for (const auto * s : idle) {
            common.push_back(s->n_common(t->prefix()));
        }
        const auto best = std::max_element(common.begin(), common.end()) - common.begin();
        std::rotate(idle.begin(), idle.begin() + best, idle.begin() + best + 1);
    }
    for (size_t i = 0; i < t->n_free(); i++) {
        idle[i]->taken = true;
        t->own.push_back(idle[i]);
    }

    running.push_back(t);
    if (!j.attempt([&] { t->start(t->own); })) {
        finish(t);
    }
    return true;
}

// What the next step computes.
std::vector<scheduler::piece> scheduler::pick() {
    std::vector<piece> pieces;
    size_t n_left   = llama_n_batch(ctx);
    size_t n_prompt = llama_n_ubatch(ctx); // of prompts: more would only make progress and cancelling coarser
    for (const bool prompts : { false, true }) {
        if (prompts) {
            n_left -= draft(pieces, n_left);
        }
        for (const auto & t : running) {
            for (cache_sequence * s : t->own) {
                const size_t n_pending = s->n_pending();
                if (n_pending == 0 || (n_pending > 1) != prompts || !t->wants(*s, hurry || (t->on && t->on->awaited))) {
                    continue;
                }
                const size_t n = std::min({ n_pending, n_left, t->max_piece(), prompts ? n_prompt : 1 });
                if (n > 0) {
                    pieces.push_back({ t, s, n });
                    n_left   -= n;
                    n_prompt -= prompts ? n : 0;
                }
            }
        }
    }
    // llama.cpp's cache computes sequences together whose ids follow each other
    std::stable_sort(pieces.begin(), pieces.end(), [](const piece & a, const piece & b) { return a.s->id < b.s->id; });
    return pieces;
}

// Sets the drafts of what generates, and returns how many tokens they have: half of what a batch has room for at most, so that prompts go on, too.
size_t scheduler::draft(const std::vector<piece> & pieces, size_t n_left) {
    if (!owner->drafts) {
        return 0;
    }
    std::vector<piece>         sought;
    std::vector<drafter::wish> wishes;
    const size_t n_each = pieces.empty() ? 0 : n_left / 2 / pieces.size();
    for (const auto & t : running) {
        for (cache_sequence * s : t->own) {
            const auto n_draft = t->n_draft(*s, hurry);
            const bool in_step = std::any_of(pieces.begin(), pieces.end(), [&](const piece & p) { return p.s == s; });
            if (n_draft && (in_step || s->n_pending() > 1)) {
                sought.push_back({ t, s, 0 });
                wishes.push_back({ s, in_step ? std::min(*n_draft, n_each) : 0 });
            }
        }
    }
    if (wishes.empty()) {
        return 0;
    }
    std::sort(wishes.begin(), wishes.end(), [](const auto & a, const auto & b) { return a.s->id < b.s->id; });
    computing = &sought;
    owner->drafts->draft(wishes);
    computing = nullptr;

    size_t n = 0;
    for (const auto & w : wishes) {
        n += w.s->draft.size();
    }
    return n;
}

int32_t scheduler::decode(const std::vector<piece> & pieces, std::string & reason) {
    token_batch batch;
    for (const piece & p : pieces) {
        const size_t end = p.s->n_cached + p.n;
        for (size_t i = p.s->n_cached; i < end; i++) {
            batch.add(p.s->tokens[i], i, p.s->id, i >= p.s->logits_from);
        }
        for (size_t i = 0; i < p.s->draft.size(); i++) {
            batch.add(p.s->draft[i], end + i, p.s->id, true);
        }
    }

    log_capture errors;
    computing = &pieces;
    int32_t     status = -3;
    std::string thrown;
    try { // buffers that a larger graph needs may not be had
        status = llama_decode(ctx, batch.view());
    } catch (const std::exception & e) {
        thrown = e.what();
    }
    computing = nullptr;

    static const bool armed = arm_exit_handler();
    (void) armed;

    if (status != 0) {
        reason = errors.reason(thrown.empty() ? "llama.cpp gave no reason" : thrown);
    }
    return status;
}

void scheduler::compute(const std::vector<piece> & pieces) {
    std::string   reason;
    const int32_t status = decode(pieces, reason);

    const bool has_draft = std::any_of(pieces.begin(), pieces.end(), [](const piece & p) { return !p.s->draft.empty(); });
    if (status == 1 && (pieces.size() > 1 || has_draft)) { // for which of them there is no room shows one by one
        for (const piece & p : pieces) {
            p.s->draft.clear();
            if (std::find(running.begin(), running.end(), p.t) != running.end()) {
                compute({ p });
            }
        }
        return;
    }

    int32_t i_batch = 0;
    std::vector<computed_piece> computed;
    for (const piece & p : pieces) {
        computed.push_back({ p.s->n_cached, p.n, i_batch });
        i_batch += int32_t(p.n + p.s->draft.size());
        if (status == 0) {
            p.s->advance(p.n);
        } else {
            p.s->recover();
        }
    }
    for (size_t i = 0; i < pieces.size(); i++) {
        const auto & t = pieces[i].t;
        if (std::find(running.begin(), running.end(), t) == running.end()) {
            continue; // it ended with another of its sequences
        }
        const bool goes_on = t->j->attempt([&] {
            t->j->throw_if_cancelled();
            if (status == 0) {
                t->computed(*pieces[i].s, computed[i]);
            } else if (status == 1) {
                t->no_room(*pieces[i].s);
            } else {
                throw job_error("decode", "llama_decode failed with status " + std::to_string(status) + ": " + reason);
            }
        });
        if (!goes_on) {
            finish(t);
        }
    }
}

// The job has ended: what it used is free for others.
void scheduler::finish(const std::shared_ptr<task> & t) {
    for (cache_sequence * s : t->own) {
        s->take_draft_back();
        if (t->on && s == &t->on->cells) {
            s->logits_from = SIZE_MAX;
            if (t->j->state() != LLAMA_DUO_JOB_DONE) { // of what it appended, what was computed stays
                s->tokens.resize(std::max(std::min(t->n_before, s->tokens.size()), s->n_cached));
            }
            t->on->publish();
            t->on->busy = false;
        } else if (s->taken && !t->keeps(*s)) {
            give_back(*s);
        }
    }
    t->own.clear();
    running.erase(std::find(running.begin(), running.end(), t));
    forget(t->j);
    wake();
}

void scheduler::give_back(cache_sequence & s) {
    s.tokens.resize(s.n_cached); // what was not computed is of no use to others
    s.logits.clear();
    s.logits_from = SIZE_MAX;
    s.taken       = false;
    s.used_at     = ++n_given_back;
}

void scheduler::forget(const std::shared_ptr<job> & j) {
    bool rests;
    {
        std::lock_guard lock(mutex);
        live.erase(std::remove(live.begin(), live.end(), j), live.end());
        rests = live.empty();
    }
    if (rests) {
        note_rest();
    }
}

} // namespace duo::abi
