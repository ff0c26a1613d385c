/*
 * A pairing heap, whose links live in the timers: there is nothing to
 * allocate, and thousands of them cost little. See timers.h.
 */
#include "reactor/timers.h"

#include <string.h>

struct mt_timer_entry {
  struct mt_timer_entry *child, *next; /* next: the sibling on the right */
  struct mt_timer_entry *prev;         /* the one on the left, or the parent */
  mt_timer *timer;
  double due;
  uint64_t seq; /* counts what was set */
};

typedef struct mt_timer_entry entry;

_Static_assert(sizeof(entry) <= sizeof(mt_watcher_priv), "entry is larger");

static entry *entry_of(mt_timer *t) { return (entry *)(void *)&t->priv; }

static bool is_before(const entry *a, const entry *b) {
  return a->due < b->due || (a->due == b->due && a->seq < b->seq);
}

/* Two roots (either may be NULL); the later one becomes a child. */
static entry *meld(entry *a, entry *b) {
  entry *later = b;
  if (!a || !b) return a ? a : b;
  if (is_before(b, a)) {
    later = a;
    a = b;
  }
  later->next = a->child;
  if (a->child) a->child->prev = later;
  later->prev = a;
  a->child = later;
  return a;
}

/* Siblings in pairs from the left, and the pairs from the right: this order
 * is what keeps the heap flat. The pairs are chained by `prev` meanwhile. */
static entry *meld_all(entry *first) {
  entry *pairs = NULL, *root = NULL;
  while (first) {
    entry *a = first, *b = a->next;
    first = b ? b->next : NULL;
    a->next = a->prev = NULL;
    if (b) b->next = b->prev = NULL;
    a = meld(a, b);
    a->prev = pairs;
    pairs = a;
  }
  while (pairs) {
    entry *pair = pairs;
    pairs = pair->prev;
    pair->prev = NULL;
    root = meld(root, pair);
  }
  return root;
}

static void heap_remove(mt_timers *h, entry *e) {
  entry *below = meld_all(e->child);
  e->child = NULL;
  if (e == h->root) {
    h->root = below;
    return;
  }
  if (e->prev->child == e)
    e->prev->child = e->next;
  else
    e->prev->next = e->next;
  if (e->next) e->next->prev = e->prev;
  h->root = meld(h->root, below);
}

void mt_timers_set(mt_timers *h, mt_timer *t, double due_ms) {
  entry *e = entry_of(t);
  if (t->active) heap_remove(h, e);
  memset(e, 0, sizeof *e);
  e->timer = t;
  e->due = due_ms;
  e->seq = h->next_seq++;
  h->root = meld(h->root, e);
}

void mt_timers_del(mt_timers *h, mt_timer *t) { heap_remove(h, entry_of(t)); }

double mt_timers_left(const mt_timers *h, double now_ms) {
  double left = h->root ? h->root->due - now_ms : -1;
  return h->root && left < 0 ? 0 : left;
}

mt_timer *mt_timers_take(mt_timers *h, double now_ms, uint64_t limit) {
  entry *e = h->root;
  if (!e || e->due > now_ms || e->seq >= limit) return NULL;
  heap_remove(h, e);
  return e->timer;
}
