/* Directories of our own for sockets and servers. */
#ifndef MT_BASE_PRIVATE_DIR_H
#define MT_BASE_PRIVATE_DIR_H

#include <stdbool.h>
#include <stddef.h>

/* Makes a new directory that nobody else may enter, in $TMPDIR or else in
 * /tmp, and writes its path into dir: `name` is how its own name begins. The
 * path has nothing that a URL or a configuration file must quote, and fits,
 * or the next place is tried. False: errno says why. */
bool mt_private_dir(char *dir, size_t size, const char *name);

#endif
