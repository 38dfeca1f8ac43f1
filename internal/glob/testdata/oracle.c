/* The C library's answers, for tests.
 *
 * oracle fnmatch        reads pattern NUL name NUL ... and prints 1 or 0 for each pair
 * oracle glob           reads pattern NUL ... and prints for each pattern the paths
 *                       that glob(3) finds below the current directory, each
 *                       ended by NUL, then an empty one
 */
#define _GNU_SOURCE
#include <fnmatch.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <dirent.h>
#include <sys/stat.h>
#include <sys/types.h>

static struct dirent *no_dots(void *d)
{
	struct dirent *e;
	do
		e = readdir(d);
	while (e && (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")));
	return e;
}

static int field(char **buf, size_t *cap)
{
	return getdelim(buf, cap, '\0', stdin) > 0;
}

int main(int argc, char **argv)
{
	char *a = NULL, *b = NULL;
	size_t na = 0, nb = 0;

	if (argc == 2 && !strcmp(argv[1], "fnmatch")) {
		while (field(&a, &na) && field(&b, &nb))
			putchar(fnmatch(a, b, FNM_PATHNAME | FNM_PERIOD) == 0 ? '1' : '0');
		return 0;
	}
	if (argc == 2 && !strcmp(argv[1], "glob")) {
		while (field(&a, &na)) {
			glob_t g;
			memset(&g, 0, sizeof g);
			g.gl_opendir = (void *(*)(const char *))opendir;
			g.gl_readdir = no_dots;
			g.gl_closedir = (void (*)(void *))closedir;
			g.gl_stat = stat;
			g.gl_lstat = lstat;
			if (glob(a, GLOB_NOSORT | GLOB_BRACE | GLOB_ALTDIRFUNC, NULL, &g) == 0)
				for (size_t i = 0; i < g.gl_pathc; i++)
					fwrite(g.gl_pathv[i], 1, strlen(g.gl_pathv[i]) + 1, stdout);
			putchar('\0');
			globfree(&g);
		}
		return 0;
	}
	return 2;
}
