/* Which library this is. */
#include "mtenant.h"

const char *mt_version(void) { return MT_VERSION; }

int mt_abi_version(void) { return MT_ABI_VERSION; }
