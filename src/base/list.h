/*
 * Intrusive doubly linked list. A node knows its list, the list its length,
 * so that removing twice or from the wrong list is caught, not silent.
 * Nodes are zeroed before first use; a node is in at most one list.
 */
#ifndef MT_BASE_LIST_H
#define MT_BASE_LIST_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct mt_list mt_list;

typedef struct mt_node {
  struct mt_node *prev, *next;
  mt_list *list; /* NULL: in none */
} mt_node;

struct mt_list {
  mt_node *head, *tail;
  size_t len;
};

#define mt_container(ptr, type, member) \
  ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

static inline bool mt_node_linked(const mt_node *n) { return n->list != NULL; }

static inline void mt_list_push(mt_list *l, mt_node *n) {
  assert(!n->list);
  n->prev = l->tail;
  n->next = NULL;
  n->list = l;
  if (l->tail)
    l->tail->next = n;
  else
    l->head = n;
  l->tail = n;
  l->len++;
}

static inline void mt_list_push_front(mt_list *l, mt_node *n) {
  assert(!n->list);
  n->prev = NULL;
  n->next = l->head;
  n->list = l;
  if (l->head)
    l->head->prev = n;
  else
    l->tail = n;
  l->head = n;
  l->len++;
}

/* Before `at`, or at the end if that is NULL. */
static inline void mt_list_insert(mt_list *l, mt_node *at, mt_node *n) {
  if (!at) {
    mt_list_push(l, n);
    return;
  }
  assert(at->list == l && !n->list);
  n->prev = at->prev;
  n->next = at;
  n->list = l;
  if (at->prev)
    at->prev->next = n;
  else
    l->head = n;
  at->prev = n;
  l->len++;
}

static inline void mt_list_remove(mt_list *l, mt_node *n) {
  assert(n->list == l && l->len > 0);
  if (n->prev)
    n->prev->next = n->next;
  else
    l->head = n->next;
  if (n->next)
    n->next->prev = n->prev;
  else
    l->tail = n->prev;
  n->prev = n->next = NULL;
  n->list = NULL;
  l->len--;
}

/* Leaves whichever list it is in, if any. */
static inline void mt_node_unlink(mt_node *n) {
  if (n->list) mt_list_remove(n->list, n);
}

static inline mt_node *mt_list_pop(mt_list *l) {
  mt_node *n = l->head;
  if (n) mt_list_remove(l, n);
  return n;
}

/* Moves all of `from` into the empty list `to`. */
static inline void mt_list_take(mt_list *to, mt_list *from) {
  mt_node *n;
  assert(!to->head);
  while ((n = mt_list_pop(from))) mt_list_push(to, n);
}

#endif
