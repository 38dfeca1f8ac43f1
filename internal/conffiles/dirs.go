package conffiles

import (
	"slices"
	"strings"

	"github.com/slashrun/slashrun/internal/inroot"
)

// SystemDirs returns the directories of the system's configuration called name
// ("tmpfiles.d"), the one with the highest priority first (tmpfiles.d(5)).
func SystemDirs(name string) []string {
	return []string{"/etc/" + name, "/run/" + name, "/usr/local/lib/" + name, "/usr/lib/" + name}
}

// UserDirs returns the directories of a user's configuration called name
// ("user-tmpfiles.d"), the one with the highest priority first. env looks up an
// environment variable as os.LookupEnv does; cwd is what relative directories in
// the two lists start from.
//
//	variable          unset or not absolute     set, but empty
//	XDG_CONFIG_HOME   $HOME/.config             the same
//	XDG_CONFIG_DIRS   /etc                      none
//	XDG_RUNTIME_DIR   none                      none
//	XDG_DATA_HOME     $HOME/.local/share        the same
//	XDG_DATA_DIRS     /usr/local/share:/usr/share   none
//
// Without an absolute $HOME the directories below it are left out: no user
// database is asked. (The order and the defaults are those of systemd-tmpfiles,
// run with each variable set and unset; the XDG Base Directory Specification has
// no directory of the runtime kind, and /etc/xdg in place of /etc.)
func UserDirs(name string, env func(string) (string, bool), cwd string) []string {
	var out []string
	add := func(dir string) {
		if dir = inroot.Simplify(dir + "/" + name); !slices.Contains(out, dir) {
			out = append(out, dir)
		}
	}
	addHome := func(key, below string) {
		if dir, _ := env(key); strings.HasPrefix(dir, "/") {
			add(dir)
		} else if home, _ := env("HOME"); below != "" && strings.HasPrefix(home, "/") {
			add(home + below)
		}
	}
	addList := func(key, unset string) {
		list, ok := env(key)
		if !ok {
			list = unset
		}
		for dir := range strings.SplitSeq(list, ":") {
			if dir == "" {
				continue
			}
			if !strings.HasPrefix(dir, "/") {
				dir = cwd + "/" + dir
			}
			add(dir)
		}
	}
	addHome("XDG_CONFIG_HOME", "/.config")
	addList("XDG_CONFIG_DIRS", "/etc")
	addHome("XDG_RUNTIME_DIR", "")
	addHome("XDG_DATA_HOME", "/.local/share")
	addList("XDG_DATA_DIRS", "/usr/local/share:/usr/share")
	return out
}
