/* The C library's reading of passwd(5) and group(5), for tests.
 *
 * oracle passwd <FILE   prints name NUL uid:gid NUL home NUL shell NUL
 * oracle group <FILE    prints name NUL gid NUL
 */
#define _GNU_SOURCE
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>

static void put(const char *s)
{
	if (s)
		fputs(s, stdout);
	putchar('\0');
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "passwd")) {
		struct passwd *p;
		while ((p = fgetpwent(stdin))) {
			put(p->pw_name);
			printf("%u:%u", p->pw_uid, p->pw_gid);
			putchar('\0');
			put(p->pw_dir);
			put(p->pw_shell);
		}
		return 0;
	}
	if (argc == 2 && !strcmp(argv[1], "group")) {
		struct group *g;
		while ((g = fgetgrent(stdin))) {
			put(g->gr_name);
			printf("%u", g->gr_gid);
			putchar('\0');
		}
		return 0;
	}
	return 2;
}
