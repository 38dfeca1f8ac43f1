package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// What an archive takes from the sources, besides the executable.
const (
	manDir  = "man"
	license = "LICENSE"
)

// shells are the shells for which there is a completion script, with the place
// below a prefix where each looks for it.
var shells = []struct{ name, path string }{
	{"bash", "share/bash-completion/completions/slashrun"},
	{"fish", "share/fish/vendor_completions.d/slashrun.fish"},
	{"zsh", "share/zsh/site-functions/_slashrun"},
}

// archives writes, for each architecture, what is unpacked in a prefix:
//
//	tar -C /usr/local -xzf slashrun-linux-amd64.tar.gz
//
// "make install" gives the same files, which a test holds.
func archives(root, second, tmp, out string, exes map[string][]byte, created time.Time, sums *strings.Builder) error {
	scripts, err := completions(root, tmp, exes[runtime.GOARCH])
	if err != nil {
		return err
	}
	for _, arch := range architectures {
		archive, err := prefixArchive(root, exes[arch], scripts, created)
		if err != nil {
			return err
		}
		if again, err := prefixArchive(second, exes[arch], scripts, created); err != nil || !bytes.Equal(archive, again) {
			return fmt.Errorf("two writings of the archive for %s differ (error %v): something in it depends on the moment or the place", arch, err)
		}
		if err := put(out, "slashrun-linux-"+arch+".tar.gz", archive, 0o644, sums); err != nil {
			return err
		}
	}
	return nil
}

// completions are the scripts by shell. They come from exe, if that is for this
// machine, else from a build of its own; they are the same for all.
func completions(root, tmp string, exe []byte) (map[string][]byte, error) {
	native := filepath.Join(tmp, "native")
	if exe != nil {
		if err := os.WriteFile(native, exe, 0o755); err != nil {
			return nil, err
		}
	} else if _, err := build(root, native, runtime.GOARCH, "", nil); err != nil {
		return nil, err
	}
	scripts := map[string][]byte{}
	for _, s := range shells {
		text, err := exec.Command(native, "completion", s.name).Output()
		if err != nil {
			return nil, fmt.Errorf("slashrun completion %s: %w", s.name, err)
		}
		scripts[s.name] = text
	}
	return scripts, nil
}

// prefixArchive is the archive of one executable, with what root has for it.
func prefixArchive(root string, exe []byte, scripts map[string][]byte, created time.Time) ([]byte, error) {
	files, err := prefixFiles(root, exe, scripts)
	if err != nil {
		return nil, err
	}
	archive, err := tarball(withDirectories(files), created)
	if err != nil {
		return nil, err
	}
	return gzipped(archive)
}

// prefixFiles are the files of a prefix, in the order of their names.
func prefixFiles(root string, exe []byte, scripts map[string][]byte) ([]file, error) {
	text, err := os.ReadFile(filepath.Join(root, license))
	if err != nil {
		return nil, err
	}
	files := []file{
		{name: "bin/slashrun", mode: 0o755, data: exe},
		{name: "share/doc/slashrun/" + license, mode: 0o644, data: text},
	}
	for _, s := range shells {
		files = append(files, file{name: s.path, mode: 0o644, data: scripts[s.name]})
	}
	pages, err := filepath.Glob(filepath.Join(root, manDir, "*.[1-9]"))
	if err == nil && len(pages) == 0 {
		err = errors.New("there are no manual pages in " + filepath.Join(root, manDir))
	}
	if err != nil {
		return nil, err
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			return nil, err
		}
		packed, err := gzipped(text)
		if err != nil {
			return nil, err
		}
		section := strings.TrimPrefix(filepath.Ext(page), ".")
		files = append(files, file{name: "share/man/man" + section + "/" + filepath.Base(page) + ".gz", mode: 0o644, data: packed})
	}
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.name, b.name) })
	return files, nil
}

// withDirectories puts an entry for each directory before what is in it.
func withDirectories(files []file) []file {
	var out []file
	seen := map[string]bool{".": true}
	for _, f := range files {
		var up []file
		for dir := path.Dir(f.name); !seen[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			up = append(up, file{name: dir + "/", mode: 0o755})
		}
		slices.Reverse(up)
		out = append(append(out, up...), f)
	}
	return out
}
