package vmtest

import (
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// program adds the executable src as dst, with its interpreter and libraries if it
// is dynamically linked.
func (a *archive) program(dst, src string) error {
	if err := a.tree(dst, src); err != nil {
		return err
	}
	return a.libraries(src)
}

// libraries adds what the ELF file at path needs, at the same paths as outside. A
// file that is not ELF needs nothing.
func (a *archive) libraries(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		if _, ok := err.(*elf.FormatError); ok {
			return nil
		}
		return err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			text, err := io.ReadAll(p.Open())
			if err != nil {
				return err
			}
			interp := strings.TrimRight(string(text), "\x00")
			if err := a.tree(interp, interp); err != nil {
				return err
			}
		}
	}
	names, err := f.ImportedLibraries()
	if err != nil {
		return err
	}
	for _, name := range names {
		lib, err := findLibrary(name)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if a.seen[local(lib)] {
			continue
		}
		if err := a.tree(lib, lib); err != nil {
			return err
		}
		if err := a.libraries(lib); err != nil {
			return err
		}
	}
	return nil
}

// findLibrary looks where the dynamic linker looks on Debian, Fedora and Alpine.
func findLibrary(name string) (string, error) {
	for _, dir := range []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("cannot find the library %s (CGO_ENABLED=0 makes a static program)", name)
}
