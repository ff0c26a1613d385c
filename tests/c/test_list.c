/* base/list.h. */
#include "base/list.h"

#include "support/test.h"

typedef struct item {
  int value;
  mt_node node;
} item;

/* The list's values as decimal digits, front first; and its links are right. */
static int digits(const mt_list *l) {
  const mt_node *n, *prev = NULL;
  size_t len = 0;
  int sum = 0;

  for (n = l->head; n; prev = n, n = n->next, len++) {
    assert_ptr_equal(n->prev, prev);
    assert_ptr_equal(n->list, l);
    sum = sum * 10 + mt_container(n, const item, node)->value;
  }
  assert_ptr_equal(l->tail, prev);
  assert_int_equal(l->len, len);
  return sum;
}

static void fill(mt_list *l, item *items, int n) {
  int i;
  for (i = 0; i < n; i++) {
    items[i] = (item){.value = i + 1};
    mt_list_push(l, &items[i].node);
  }
}

static void pushes_at_both_ends(void **state) {
  mt_list l = {0};
  item items[3], front = {.value = 9};
  (void)state;
  assert_int_equal(digits(&l), 0);
  fill(&l, items, 3);
  mt_list_push_front(&l, &front.node);
  assert_int_equal(digits(&l), 9123);
}

static void removes_anywhere(void **state) {
  mt_list l = {0};
  item items[4];
  (void)state;
  fill(&l, items, 4);
  mt_list_remove(&l, &items[1].node);
  assert_int_equal(digits(&l), 134);
  mt_list_remove(&l, &items[0].node);
  assert_int_equal(digits(&l), 34);
  mt_list_remove(&l, &items[3].node);
  assert_int_equal(digits(&l), 3);
  mt_node_unlink(&items[2].node);
  mt_node_unlink(&items[2].node);
  assert_int_equal(digits(&l), 0);
  assert_false(mt_node_linked(&items[2].node));
}

static void inserts_before_any_node(void **state) {
  mt_list l = {0};
  item items[4];
  mt_node *n[4];
  int i;
  (void)state;
  fill(&l, items, 4);
  for (i = 0; i < 4; i++) mt_list_remove(&l, n[i] = &items[i].node);
  mt_list_insert(&l, NULL, n[1]);
  mt_list_insert(&l, n[1], n[0]);
  mt_list_insert(&l, NULL, n[3]);
  mt_list_insert(&l, n[3], n[2]);
  assert_int_equal(digits(&l), 1234);
  mt_list_remove(&l, n[0]);
  assert_int_equal(digits(&l), 234);
}

static void pops_in_order(void **state) {
  mt_list l = {0};
  item items[2];
  (void)state;
  fill(&l, items, 2);
  assert_ptr_equal(mt_list_pop(&l), &items[0].node);
  assert_ptr_equal(mt_list_pop(&l), &items[1].node);
  assert_null(mt_list_pop(&l));
}

static void take_moves_all_and_their_list(void **state) {
  mt_list from = {0}, to = {0};
  item items[3];
  (void)state;
  fill(&from, items, 3);
  mt_list_take(&to, &from);
  assert_int_equal(digits(&from), 0);
  assert_int_equal(digits(&to), 123);
  mt_node_unlink(&items[1].node);
  assert_int_equal(digits(&to), 13);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(pushes_at_both_ends),
      cmocka_unit_test(removes_anywhere),
      cmocka_unit_test(inserts_before_any_node),
      cmocka_unit_test(pops_in_order),
      cmocka_unit_test(take_moves_all_and_their_list),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
