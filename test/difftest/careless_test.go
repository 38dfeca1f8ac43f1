package difftest

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// carelessMain applies tmpfiles.d lines as scripts and early implementations did:
// it looks at a path, and then acts on the path again, with whatever the calls
// follow. It is what the attack is tried on.
func carelessMain() int {
	conf := os.Args[len(os.Args)-1]
	text, err := os.ReadFile(conf)
	if err != nil {
		return 1
	}
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		f := strings.Fields(line)
		for len(f) < 7 {
			f = append(f, "-")
		}
		paths := []string{f[1]}
		if strings.Contains(f[1], "*") {
			paths, _ = filepath.Glob(f[1])
		}
		for _, p := range paths {
			careless(f, p)
		}
	}
	return 0
}

func careless(f []string, p string) {
	mode, err := strconv.ParseUint(strings.TrimLeft(f[2], "~:"), 8, 32)
	hasMode := err == nil
	owner := -1
	if f[3] == "alice" {
		owner = attackUID
	}
	adjust := func(p string) {
		// Looks whether it is a link, and then follows what is there by now.
		if st, err := os.Lstat(p); err != nil || st.Mode()&os.ModeSymlink != 0 {
			return
		}
		if hasMode {
			os.Chmod(p, os.FileMode(mode))
		}
		if owner >= 0 {
			os.Chown(p, owner, owner)
		}
	}
	regular := func(p string) bool { st, err := os.Stat(p); return err == nil && st.Mode().IsRegular() }
	switch f[0] {
	case "d", "D", "e":
		if strings.Contains(strings.Join(os.Args, " "), "--remove") || strings.Contains(strings.Join(os.Args, " "), "--clean") {
			carelessEmpty(p)
			return
		}
		os.MkdirAll(p, 0o755)
		adjust(p)
	case "f":
		os.MkdirAll(filepath.Dir(p), 0o755)
		if _, err := os.Lstat(p); err != nil {
			os.WriteFile(p, []byte(f[6]), 0o644)
		}
		adjust(p)
	case "f+", "F", "w", "w+":
		if regular(p) {
			os.WriteFile(p, []byte(f[6]), 0o644)
		}
		adjust(p)
	case "z":
		adjust(p)
	case "Z":
		filepath.WalkDir(p, func(q string, _ os.DirEntry, _ error) error { adjust(q); return nil })
	case "r":
		os.Remove(p)
	case "R":
		carelessEmpty(p)
		os.Remove(p)
	}
}

// carelessEmpty removes what is in a directory, by path.
func carelessEmpty(p string) {
	if st, err := os.Lstat(p); err != nil || !st.IsDir() {
		return
	}
	entries, _ := os.ReadDir(p)
	for _, e := range entries {
		q := filepath.Join(p, e.Name())
		if e.IsDir() {
			carelessEmpty(q)
		}
		os.Remove(q)
	}
}
