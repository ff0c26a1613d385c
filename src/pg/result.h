/*
 * Results as the layers to the right see them, which never include libpq's
 * header: mt_result is libpq's PGresult under another name.
 */
#ifndef MT_PG_RESULT_H
#define MT_PG_RESULT_H

#include "mtenant.h"

/* Column type OIDs that are decoded specially (pg_type.dat). */
enum {
  MT_OID_BOOL = 16,
  MT_OID_BYTEA = 17,
  MT_OID_INT8 = 20,
  MT_OID_INT2 = 21,
  MT_OID_INT4 = 23,
  MT_OID_OID = 26,
  MT_OID_JSON = 114,
  MT_OID_FLOAT4 = 700,
  MT_OID_FLOAT8 = 701,
  MT_OID_JSONB = 3802
};

/* The cell's text and its length, or NULL for SQL NULL. */
const char *mt_result_cell(const mt_result *r, int row, int column,
                           size_t *len);
/* Element type of an array type that is decoded, or 0. */
unsigned mt_array_element(unsigned type);
void mt_result_clear(mt_result *r);
/* Bytes of its values, as texts. */
size_t mt_result_payload(const mt_result *r);
size_t mt_result_bytes(const mt_result *r);
/* Of the library that is linked: 150008 is 15.8. */
int mt_pg_version(void);

#endif
