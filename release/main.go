// Release makes what "make dist" hands out: the static core for amd64 and arm64,
// for each an archive to unpack in /usr/local with manual pages and completions,
// an OCI image archive that holds both, for COPY --from, and checksums.
//
//	go run ./release -out dist [-version VERSION]
//
// Every executable and archive is made twice, from the tree and from a copy of it
// in another directory with an empty build cache, and must come out the same; an
// executable must be static and at most 6 MiB. The image is written twice, too, and
// read back: every descriptor's size and digest. The version is that of git
// describe, the one time stamp is SOURCE_DATE_EPOCH or the time of the last commit.
package main

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const maxSize = 6 << 20 // as in cmd/slashrun's test

// architectures in the order of the image's index.
var architectures = []string{"amd64", "arm64"}

func main() {
	out := flag.String("out", "dist", "directory for the results")
	version := flag.String("version", "", "version to build in (default: git describe)")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "release: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	if err := release(*out, *version); err != nil {
		fmt.Fprintf(os.Stderr, "release: %v\n", err)
		os.Exit(1)
	}
}

// release builds everything into the directory out.
func release(out, version string) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	if version == "" {
		version = describe(root)
	}
	stamp, err := sourceDate(root)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "slashrun-release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	second := filepath.Join(tmp, "elsewhere", "source")
	if err := copySources(root, second); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	var sums strings.Builder
	exes := map[string][]byte{}
	for _, arch := range architectures {
		exe, err := buildTwice(root, second, tmp, arch, version)
		if err != nil {
			return err
		}
		exes[arch] = exe
		if err := put(out, "slashrun-linux-"+arch, exe, 0o755, &sums); err != nil {
			return err
		}
	}
	if err := archives(root, second, tmp, out, exes, stamp, &sums); err != nil {
		return err
	}
	im := image{Version: version, Created: stamp, Executables: exes}
	archive, err := im.archive()
	if err != nil {
		return err
	}
	if again, err := im.archive(); err != nil || !bytes.Equal(archive, again) {
		return fmt.Errorf("two writings of the image differ (error %v): something in it depends on the moment", err)
	}
	if err := verify(bytes.NewReader(archive)); err != nil {
		return fmt.Errorf("the image that was just written: %w", err)
	}
	if err := put(out, "slashrun-oci.tar", archive, 0o644, &sums); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "SHA256SUMS"), []byte(sums.String()), 0o644)
}

// put writes a result, and its line for SHA256SUMS.
func put(dir, name string, data []byte, mode os.FileMode, sums *strings.Builder) error {
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path+".new", data, mode); err != nil {
		return err
	}
	if err := os.Chmod(path+".new", mode); err != nil { // whatever the umask is
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	fmt.Fprintf(sums, "%x  %s\n", sha256.Sum256(data), name) // as sha256sum(1) has it
	fmt.Printf("%s  %d bytes\n", path, len(data))
	return nil
}

// buildTwice builds the core for arch from both trees and returns the executable
// that both gave.
func buildTwice(root, second, tmp, arch, version string) ([]byte, error) {
	first, err := build(root, filepath.Join(tmp, "1"), arch, version, nil)
	if err != nil {
		return nil, err
	}
	// With the cache of the first build the second would only copy its result.
	other, err := build(second, filepath.Join(tmp, "2"), arch, version, []string{"GOCACHE=" + filepath.Join(tmp, "cache")})
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(first, other) {
		return nil, fmt.Errorf("%s: two builds differ: %x and %x", arch, sha256.Sum256(first), sha256.Sum256(other))
	}
	if len(first) > maxSize {
		return nil, fmt.Errorf("%s: %d bytes, more than %d", arch, len(first), maxSize)
	}
	if err := static(first); err != nil {
		return nil, fmt.Errorf("%s: %w", arch, err)
	}
	return first, nil
}

// build builds the core from the tree in dir.
func build(dir, exe, arch, version string, env []string) ([]byte, error) {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags=-s -w -X github.com/slashrun/slashrun/internal/cli.version="+version, "-o", exe, "./cmd/slashrun")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=", "GOEXPERIMENT=")
	cmd.Env = append(cmd.Env, env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build in %s for %s: %w\n%s", dir, arch, err, out)
	}
	return os.ReadFile(exe)
}

// static reports whether an ELF file needs no dynamic loader.
func static(exe []byte) error {
	f, err := elf.NewFile(bytes.NewReader(exe))
	if err != nil {
		return err
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			return fmt.Errorf("not static: it has a %v segment", p.Type)
		}
	}
	return nil
}

// copySources copies what a build reads from the tree at root to dir.
func copySources(root, dir string) error {
	for _, name := range []string{"go.mod", "go.sum", license} {
		data, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	trees, err := packageTrees(root)
	if err != nil {
		return err
	}
	trees = append(trees, manDir)
	for _, tree := range trees {
		if err := os.CopyFS(filepath.Join(dir, tree), os.DirFS(filepath.Join(root, tree))); err != nil {
			return err
		}
	}
	return nil
}

// packageTrees are the directories at the root that hold packages of the executable.
func packageTrees(root string) ([]string, error) {
	cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if .Main}}{{$.Dir}}{{end}}{{end}}", "./cmd/slashrun")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var trees []string
	for dir := range strings.Lines(string(out)) {
		rel, err := filepath.Rel(root, strings.TrimSpace(dir))
		if err != nil {
			return nil, err
		}
		top, _, _ := strings.Cut(filepath.ToSlash(rel), "/")
		if !slices.Contains(trees, top) {
			trees = append(trees, top)
		}
	}
	return trees, nil
}

func moduleRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	mod := strings.TrimSpace(string(out))
	if err != nil || mod == "" || mod == os.DevNull {
		return "", errors.New("run it from the source tree: go run ./release")
	}
	return filepath.Dir(mod), nil
}

// describe is the version that git knows, "devel" where there is none.
func describe(root string) string {
	out, err := git(root, "describe", "--tags", "--always", "--dirty")
	if err != nil || out == "" {
		return "devel"
	}
	return strings.TrimPrefix(out, "v")
}

// sourceDate is the time stamp of everything in the image
// (https://reproducible-builds.org/specs/source-date-epoch/).
func sourceDate(root string) (time.Time, error) {
	text, from := os.Getenv("SOURCE_DATE_EPOCH"), "SOURCE_DATE_EPOCH"
	if text == "" {
		from = "git log"
		var err error
		if text, err = git(root, "log", "-1", "--format=%ct"); err != nil || text == "" {
			text = "0" // no repository: an archive of the sources
		}
	}
	sec, err := strconv.ParseInt(text, 10, 64)
	if err != nil || sec < 0 {
		return time.Time{}, fmt.Errorf("%s: %q is not a number of seconds", from, text)
	}
	return time.Unix(sec, 0).UTC(), nil
}

// git runs git on the repository at root, whoever owns that: what is in the tree
// runs in any case. One above it is not asked: git runs what that one's
// configuration says (CVE-2022-24765), and it may be anybody's.
func git(root string, args ...string) (string, error) {
	root, err := filepath.Abs(root)
	if err == nil {
		root, err = filepath.EvalSymlinks(root) // git compares what getcwd(2) says
	}
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(filepath.Join(root, ".git")); err != nil {
		return "", err
	}
	cmd := exec.Command("git", append([]string{"-c", "safe.directory=" + root, "-C", root}, args...)...)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "GIT_DIR=") && !strings.HasPrefix(kv, "GIT_WORK_TREE=") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "GIT_CEILING_DIRECTORIES="+filepath.Dir(root))
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}
