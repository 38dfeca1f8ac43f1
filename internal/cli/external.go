package cli

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// runExternal becomes the program slashrun-NAME. It returns only where that
// could not be done, with the exit code.
func runExternal(env *Env, name string, args []string) int {
	if !validName(name) {
		return env.Usagef("no command %q; %q lists them", name, "slashrun help")
	}
	prog := "slashrun-" + name
	for _, dir := range externalDirs(env) {
		path := filepath.Join(dir, prog)
		info, err := os.Stat(path)
		if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			continue
		}
		err = syscall.Exec(path, append([]string{prog}, args...), env.Environ)
		if errors.Is(err, fs.ErrNotExist) {
			// The file was there: it is the interpreter or loader that is not.
			return env.Usagef("cannot run %s: its interpreter or dynamic loader is missing", Quote(path))
		}
		return env.Usagef("cannot run %s: %v", Quote(path), err)
	}
	return env.Usagef("no command %q, and no program %s beside slashrun or on PATH; install %s, or see %q", name, prog, prog, "slashrun help")
}

// externalDirs are the directories in which a program of ours may be: the one
// of the running executable, then those on PATH. Relative ones are left out,
// because what runs must not depend on where somebody stands.
func externalDirs(env *Env) []string {
	var dirs []string
	if exe, err := os.Executable(); err == nil { // fails without /proc
		dirs = append(dirs, filepath.Dir(exe))
	}
	for _, dir := range filepath.SplitList(env.Getenv("PATH")) {
		if filepath.IsAbs(dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// validName says whether name can be the second part of a program's name:
// lower-case letters, digits, and "-" inside. A slash or a dot would leave the
// directory that is searched.
func validName(name string) bool {
	for i := range len(name) {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case c == '-' && i > 0:
		default:
			return false
		}
	}
	return name != ""
}
